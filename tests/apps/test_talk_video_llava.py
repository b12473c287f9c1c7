"""Video-LLaVA in chat, terminal, server and demo: a picture and a clip in one conversation.

The shipped run file with narrow random weights in published files, see `narrow_video_llava`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import gradio
import numpy as np
import pytest
import torch
from narrow_video_llava import write_files
from PIL import Image
from served import served, user

from video_llama.apps.demo_handlers import Handlers
from video_llama.apps.demo_view import Span
from video_llama.apps.demo_visits import Visits
from video_llama.apps.loading import load_chat
from video_llama.apps.main import main
from video_llama.common.errors import ContextOverflow
from video_llama.common.generation import GenerationSettings
from video_llama.common.schema import LowResource
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.chat import Chat
from video_llama.conversation.stopping import StopRule, answer_text
from video_llama.datasets.collate import collate
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.processors.media import MediaLoader

RUN_FILE = "eval_configs/video_llava_eval.yaml"
PICTURE_TOKENS, CLIP_TOKENS = 256, 8 * 257
SETTINGS = GenerationSettings(max_new_tokens=8)
QUESTION = "Which of them moves?"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    files = write_files(tmp_path_factory.mktemp("video_llava"))
    return [*files, "model.released=null", "run.device=cpu", "run.precision=fp32"]


@pytest.fixture(scope="module")
def loaded(options: list[str]) -> Chat:
    chat = load_chat(RUN_FILE, options=options)
    chat.settings = SETTINGS
    return chat


@pytest.fixture
def chat(loaded: Chat) -> Chat:
    """A conversation that nobody had."""
    return loaded.another()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "wide.png"
    colours = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(colours).save(path)
    return path


def evaluated(chat: Chat, messages: list[Message]) -> str:
    """Answer as evaluation does: samples, batch, `generate`."""
    specs = chat.model.branch_specs()  # type: ignore[attr-defined]
    text = TextSettings(chat.template, tokenizer=chat.tokenizer, max_len=4096)
    encoder = SampleEncoder(specs, text=text, reader=MediaLoader(specs))
    sample = Sample("key", messages)
    encoded = encoder.encode(sample, encoder.load_media(sample))
    batch = collate([encoded], specs=specs, pad_id=0, padding_side="left")
    stop = StopRule(chat.tokenizer, chat.template.stop)
    [ids] = chat.model.generate(batch, settings=SETTINGS, stop=stop)  # type: ignore[attr-defined]
    return answer_text(ids, tokenizer=chat.tokenizer, stop=chat.template.stop)


def test_a_chat_about_a_picture_and_a_clip_answers_as_evaluation_does(
    chat: Chat, picture: Path, sounding_clip: Path
) -> None:
    chat.upload(picture)
    chat.upload(sounding_clip)
    said = chat.ask(QUESTION)
    media = [MediaItem("image", str(picture)), MediaItem("video", str(sounding_clip))]
    asked = Message("user", [*media, QUESTION])
    assert said
    assert said == evaluated(chat, [asked])
    again = chat.ask("Why?")
    turns = [asked, Message("assistant", [said]), Message("user", ["Why?"])]
    assert again == evaluated(chat, turns)
    assert chat.last_usage is not None
    # What stood there is neither encoded nor read again.
    assert chat.last_usage.cached_tokens > PICTURE_TOKENS + CLIP_TOKENS


def test_media_take_as_many_positions_as_they_have_tokens(
    chat: Chat, picture: Path, sounding_clip: Path
) -> None:
    taken = []
    for files in ([], [picture], [sounding_clip], [picture, sounding_clip]):
        conversation = chat.another()
        for file in files:
            conversation.upload(file)
        conversation.ask(QUESTION)
        assert conversation.last_usage is not None
        taken.append(conversation.last_usage.prompt_tokens)
    # Words behind a medium open with a line feed, spelled as a dummy prefix and a byte.
    words = [count - taken[0] for count in taken[1:]]
    expected = [PICTURE_TOKENS, CLIP_TOKENS, PICTURE_TOKENS + CLIP_TOKENS]
    assert all(0 <= a - b <= 8 for a, b in zip(words, expected, strict=True)), words


def test_a_second_clip_is_more_than_the_context_holds(chat: Chat, sounding_clip: Path) -> None:
    chat.upload(sounding_clip)
    said = "takes 2056 positions, the media shown before take 2056, .* holds 4096 in all"
    with pytest.raises(ContextOverflow, match=said):
        chat.upload(sounding_clip)


def test_the_terminal_answers_about_both(
    options: list[str], picture: Path, sounding_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--file", str(picture), "--file", str(sounding_clip), "--question", QUESTION]
    flags += ["--max-new-tokens", "8", "--temperature", "0", "--json"]
    assert main(["chat", "--cfg-path", RUN_FILE, *flags, "--options", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["error"] is None
    assert [Path(file["path"]).name for file in told["files"]] == [picture.name, sounding_clip.name]
    assert told["answers"][0]["usage"]["prompt_tokens"] > PICTURE_TOKENS + CLIP_TOKENS


def test_the_server_answers_about_both(chat: Chat, picture: Path, sounding_clip: Path) -> None:
    def part(kind: str, path: Path, media_type: str) -> dict[str, object]:
        data = base64.b64encode(path.read_bytes()).decode()
        return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{media_type};base64,{data}"}}

    message = user(
        part("image", picture, "image/png"), part("video", sounding_clip, "video/mp4"), QUESTION
    )
    expected = chat.another()
    expected.upload(picture)
    expected.upload(sounding_clip)
    with served(chat.another()) as server:
        reply = server.client().chat.completions.create(
            model="tiny", messages=[message], temperature=0, max_tokens=8
        )
    assert reply.choices[0].message.content == expected.ask(QUESTION)
    assert expected.last_usage is not None
    assert reply.usage.prompt_tokens == expected.last_usage.prompt_tokens


def test_the_demo_answers_about_both(
    chat: Chat, picture: Path, sounding_clip: Path, tmp_path: Path
) -> None:
    handlers = Handlers(
        Visits(chat, folder=tmp_path), gradio=gradio, examples=[picture, sounding_clip]
    )
    handlers.start("me", [str(picture), str(sounding_clip)], Span())
    handlers.ask("me", QUESTION, (0.0, 0.9, 0, 1, 8, 1.0))
    turns = list(handlers.answer("me"))[-1].turns
    expected = chat.another()
    expected.upload(picture)
    expected.upload(sounding_clip)
    assert turns[-1]["content"].strip() == expected.ask(QUESTION).strip()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_in_fewer_bits_towers_and_projector_stay_as_they_are(
    bits: LowResource, options: list[str], chat: Chat, picture: Path, sounding_clip: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    reduced = load_chat(RUN_FILE, options=options, low_resource=bits)
    ours, whole = (talk.model.state_dict() for talk in (reduced, chat))
    kept = [name for name in whole if name.startswith("branches.")]
    assert len(kept) == 21 + 32 + 4
    assert all(torch.equal(ours[name], whole[name]) for name in kept)
    linear = "decoder.model.model.layers.0.mlp.up_proj.weight"
    assert ours[linear].dtype in (torch.int8, torch.uint8)
    head = "decoder.model.lm_head.weight"
    assert torch.equal(ours[head], whole[head])
    reduced.upload(picture)
    reduced.upload(sounding_clip)
    assert reduced.ask(QUESTION)


def test_a_release_that_is_not_there_is_named_by_the_key_that_asks_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = ["model.released=nobody/Video-LLaVA-7B"]
    assert main(["chat", "--cfg-path", RUN_FILE, "--question", "?", "--options", *nowhere]) == 2
    said = capsys.readouterr().err
    assert "model.released: there is no nobody/Video-LLaVA-7B" in said
    assert "weights get nobody/Video-LLaVA-7B" in said
