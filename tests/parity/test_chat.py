"""Recorded conversations, replayed: the decoder is fed the same and says the same, id by id.

Frames come as the published decoder resized them, and sound as it was extracted for the recording,
because other builds of those libraries round differently; everything after is ours.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from closeness import assert_close
from safetensors.torch import load_file
from tiny_released import shared_model

from video_llama.common.generation import GenerationSettings
from video_llama.common.types import VideoSpec
from video_llama.conversation.chat import Chat, Shared
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.templates import get_template
from video_llama.models.encoders.eva_vit_g import CLIP_MEAN, CLIP_STD
from video_llama.processors.media import MediaCompat
from video_llama.processors.transforms import normalise
from video_llama.processors.uploads import UploadReader, UploadRequest

GOLDENS = Path(__file__).parents[1] / "goldens"
MEDIA = GOLDENS / "processors"
CHATS = json.loads((GOLDENS / "conversation" / "chat.json").read_text())
SCENARIOS = [name for name in CHATS if not name.startswith("_")]
FRAMES_PER_S = 12.0
INDICES = (0, 5, 10, 15, 21, 26, 31, 36)


class RecordedMedia(UploadReader):
    """Reads the clip's frames and sound as they were when the conversations were recorded."""

    def read(self, request):
        read = super().read(request)
        return dataclasses.replace(read, items=tuple(map(self._recorded, read.items)))

    def _recorded(self, item):
        if item.kind == "audio":
            request = UploadRequest(str(MEDIA / "clip_audio.flac"))
            return super().read(request).items[0]
        if item.kind == "image":
            return item
        frames = load_file(MEDIA / "processors_picture.safetensors")["clip.n8_hw56.u8"]
        spec = VideoSpec(num_frames=8, image_size=56, mean=CLIP_MEAN, std=CLIP_STD)
        pixels = normalise(frames.permute(1, 2, 3, 0).numpy(), spec)
        times_s = tuple(index / FRAMES_PER_S for index in INDICES)
        return dataclasses.replace(item, pixels=pixels, times_s=times_s)


class Overheard:
    """A model that notes the tokens of media, what its decoder reads first, and what it says."""

    def __init__(self, model):
        self.model = model
        self.max_context = model.max_context
        self.end_ids = model.end_ids
        self.branch_specs = model.branch_specs
        self.new_prompt_cache = model.new_prompt_cache
        self.media = {}
        self.fed = []
        self.said = []

    def encode_items(self, items):
        tokens = self.model.encode_items(items)
        self.media |= {item.kind: found for item, found in zip(items, tokens, strict=True)}
        return tokens

    def stream_prompt(self, **prompt):
        read, said = [], []
        handle = self.model.decoder.model.get_decoder().register_forward_pre_hook(
            lambda _module, _args, kwargs: read.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        self.said.append(said)
        try:
            for token_id in self.model.stream_prompt(**prompt):
                said.append(token_id)
                yield token_id
        finally:
            handle.remove()
            self.fed.append(read[0])


def settings_of(kwargs):
    """The published settings; its lengths count a bos token that ours do not have."""
    return GenerationSettings(
        max_new_tokens=kwargs["max_new_tokens"],
        min_new_tokens=max(kwargs.get("min_length", 1) - 1, 0),
        repetition_penalty=kwargs.get("repetition_penalty", 1.0),
        num_beams=kwargs.get("num_beams", 1),
        length_penalty=kwargs.get("length_penalty", 1.0),
    )


@pytest.fixture(scope="module")
def replay(tokenizer):
    """Return a function that holds a recorded conversation again: (the model, its answers)."""
    held = {}

    def hold(name):
        if name in held:
            return held[name]
        recorded = CHATS[name]
        hears = "audiovideo" in name
        model = Overheard(shared_model() if hears else shared_model(branches=("video",)))
        style = "vicuna_v0_released" if name.startswith("vicuna") else "llama_2_released"
        length = recorded["kwargs"].get("max_length", ChatCompat.released().max_length)
        chat = Chat(
            model,
            tokenizer=tokenizer,
            template=get_template(style, system=recorded["system"]),
            reader=RecordedMedia(model.branch_specs(), compat=MediaCompat.released()),
            settings=settings_of(recorded["kwargs"]),
            compat=dataclasses.replace(ChatCompat.released(), max_length=length),
            # The published chat reads everything again.
            shared=Shared(num_caches=0),
        )
        chat.upload(MEDIA / ("image.png" if name == "vicuna_image" else "clip.mp4"))
        answers = [chat.ask(turn["question"]) for turn in recorded["turns"]]
        held[name] = model, answers
        return held[name]

    return hold


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_id_of_every_answer_is_the_published_one(name, replay):
    model, answers = replay(name)
    for said, answer, turn in zip(model.said, answers, CHATS[name]["turns"], strict=True):
        # Published ids open with a bos token that was never read, and a beam is closed by an end
        # token that it did not choose.
        expected = turn["generated_ids"][1:]
        expected = expected[:-1] if "beam" in name else expected
        assert said == expected
        assert answer == turn["text"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_media_become_the_published_tokens(name, replay, tensors):
    golden = tensors("conversation/chat")
    model, _ = replay(name)
    kinds = ["audio", "video"] if "audiovideo" in name else sorted(model.media)
    assert sorted(model.media) == kinds
    for index, kind in enumerate(kinds):
        assert_close(model.media[kind], golden[f"{name}.img{index}"][0], kind="media in a chat")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_decoder_is_fed_as_many_positions_as_published(name, replay):
    model, _ = replay(name)
    lengths = [fed.shape[1] for fed in model.fed]
    assert lengths == [turn["used_len"] for turn in CHATS[name]["turns"]]


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("name", ["vicuna_video", "llama_v2_video", "vicuna_audiovideo"])
def test_the_decoder_is_fed_the_published_embeddings(name, turn, replay, tensors):
    model, _ = replay(name)
    expected = tensors("conversation/chat")[f"{name}.turn{turn}.context_emb"]
    assert_close(model.fed[turn], expected, kind="prompts in a chat")


def test_the_corrected_chat_forgets_whole_rounds_and_keeps_the_media(tokenizer):
    recorded = CHATS["vicuna_maxlen"]
    model = Overheard(shared_model(branches=("video",)))
    chat = Chat(
        model,
        tokenizer=tokenizer,
        template=get_template("vicuna_v0_released", system=""),
        reader=RecordedMedia(model.branch_specs()),
        settings=GenerationSettings(max_new_tokens=24),
        compat=ChatCompat(max_length=120),
        shared=Shared(num_caches=0),
    )
    chat.upload(MEDIA / "clip.mp4")
    for turn in recorded["turns"]:
        chat.ask(turn["question"])
    assert len(chat.take_notes()) == 1
    last = model.fed[-1][0]
    tokens = model.media["video"]
    is_there = [bool((last[i : i + 6] == tokens).all()) for i in range(len(last) - 5)]
    assert sum(is_there) == 1
    assert torch.equal(last[0], shared_model(branches=("video",)).decoder.embed(torch.tensor(1)))
