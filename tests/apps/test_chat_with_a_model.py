"""The chat with a real, tiny, untrained model: the same answers as the path of evaluation gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parrot import LLAMA

from video_llama.common.generation import GenerationSettings
from video_llama.common.sections import parse_model
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.chat import Chat
from video_llama.conversation.stopping import StopRule, answer_text
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.collate import collate
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.media import MediaLoader
from video_llama.processors.uploads import UploadReader

QFORMER = {"type": "qformer", "width": 16, "num_heads": 2, "ffn_width": 32, "num_layers": 1}
PROJECTION = {"type": "projection", "width": 24, "trainable": True}
TINY = {
    "arch": "video_llama",
    "model_type": "tiny",
    "template": "vicuna_v0",
    "branches": {
        "video": {
            "media": ["video", "image"],
            "encoder": {
                "type": "eva_vit_g",
                "image_size": 16,
                "patch_size": 8,
                "width": 16,
                "depth": 1,
                "num_heads": 2,
                "num_frames": 3,
            },
            "stages": {
                "norm": {"type": "layer_norm"},
                "joint": {**QFORMER, "num_queries": 2, "num_positions": 4, "trainable": True},
                "projection": PROJECTION,
            },
        },
        "audio": {
            "media": ["audio"],
            "encoder": {
                "type": "imagebind",
                "out_width": 8,
                "audio_width": 8,
                "audio_depth": 1,
                "audio_num_heads": 2,
                "num_mel_bins": 16,
                "num_mel_frames": 16,
                "num_clips": 2,
            },
            "stages": {
                "joint": {**QFORMER, "num_queries": 1, "trainable": True},
                "projection": PROJECTION,
            },
        },
    },
    "decoder": {
        "type": "causal_lm",
        "architecture": {
            "model_type": "llama",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 1000,
            "max_position_embeddings": 200,
            # An untrained decoder with small weights would repeat one id whatever it sees.
            "initializer_range": 1.0,
        },
    },
}
SETTINGS = GenerationSettings(max_new_tokens=24)
TEMPLATE = get_template("vicuna_v0")
TOKENIZER = load_tokenizer(LLAMA)


@pytest.fixture(scope="module")
def model() -> VideoLLM:
    torch.manual_seed(0)
    problems: list[str] = []
    config = parse_model(TINY, preset_keys=set(), problems=problems)
    assert config is not None, problems
    return VideoLLM(config).eval()


def open_chat(model: VideoLLM) -> Chat:
    return Chat(
        model,
        tokenizer=TOKENIZER,
        template=TEMPLATE,
        reader=UploadReader(model.branch_specs()),
        settings=SETTINGS,
    )


def evaluated(model: VideoLLM, messages: list[Message]) -> str:
    """Answer as evaluation does: samples, batch, `generate`."""
    specs = model.branch_specs()
    text = TextSettings(template=TEMPLATE, tokenizer=TOKENIZER, max_len=200)
    encoder = SampleEncoder(specs, text=text, reader=MediaLoader(specs))
    sample = Sample("key", messages)
    batch = collate(
        [encoder.encode(sample, encoder.load_media(sample))],
        specs=specs,
        pad_id=TOKENIZER.pad_id,
        padding_side="left",
    )
    stop = StopRule(TOKENIZER, TEMPLATE.stop)
    [ids] = model.generate(batch, settings=SETTINGS, stop=stop)
    return answer_text(ids, tokenizer=TOKENIZER, stop=TEMPLATE.stop)


def test_a_chat_answers_as_evaluation_does(model: VideoLLM, sounding_clip: Path) -> None:
    chat = open_chat(model)
    chat.upload(sounding_clip)
    said = chat.ask("What is it?")
    media = [MediaItem("video", str(sounding_clip)), MediaItem("audio", str(sounding_clip))]
    asked = Message("user", [*media, "What is it?"])
    assert said
    assert said == evaluated(model, [asked])
    again = chat.ask("Why?")
    turns = [asked, Message("assistant", [said]), Message("user", ["Why?"])]
    assert again == evaluated(model, turns)


def test_what_is_uploaded_changes_the_answer(model: VideoLLM, sounding_clip: Path) -> None:
    with_clip, without = open_chat(model), open_chat(model)
    with_clip.upload(sounding_clip)
    assert with_clip.ask("What is it?") != without.ask("What is it?")


def test_a_drawn_answer_is_a_function_of_the_seed(model: VideoLLM) -> None:
    def drawn(seed: int) -> str:
        settings = GenerationSettings(max_new_tokens=12, temperature=5.0, top_p=1.0, seed=seed)
        return open_chat(model).ask("Talk", settings=settings)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
