"""The page about templates: every template stands there as it renders, targets and all."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from pages import ROOT, blocks

from video_llama.common.registry import registry
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.layouts import Cut, Slot, Template, Text, Word
from video_llama.conversation.rendering import render
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer

PAGE = ROOT / "docs" / "templates.md"
TOKENIZER = ROOT / "tests" / "goldens" / "conversation" / "llama"
CLIP = MediaItem("video", "a.mp4", times_s=(0.0, 1.2))
TALK = Sample(
    "talk",
    [
        Message("user", [CLIP, "What is it?"]),
        Message("assistant", ["A boat."]),
        Message("user", ["Sure?"]),
        Message("assistant", ["Yes."]),
    ],
)
CAPTION = Sample("caption", [Message("assistant", [CLIP, "A boat."])], form="caption")
# Before any test registers one of its own.
NAMES = registry.names("template")


def shown(sample: Sample, template: Template) -> str:
    """Spell a sample out, with {{ and }} around targets."""
    text, was_target = "", False
    for piece in render(sample, template=template):
        if isinstance(piece, Cut):
            continue
        is_target = getattr(piece, "supervised", False)
        text += "{{" * (is_target and not was_target) + "}}" * (was_target and not is_target)
        was_target = is_target
        if isinstance(piece, Text | Word):
            text += piece.text
        else:
            text += (
                "[video]" if isinstance(piece, Slot) else {"bos": "<s>", "eos": "</s>"}[piece.name]
            )
    return text + "}}" * was_target


def sections() -> dict[str, str]:
    """The example under every heading that is a template's name."""
    pieces = re.split(r"^### `(\w+)`$", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(*[iter(pieces)] * 2, strict=True))


def own_template(folder) -> Template:
    """The chat template of the page in a directory with a vocabulary that has its marks."""
    shutil.copy(TOKENIZER / "tokenizer.model", folder)
    added = {"1000": {"content": "<|im_start|>"}, "1001": {"content": "<|im_end|>"}}
    config = {"added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    [text] = blocks(PAGE, "jinja")
    (folder / "chat_template.jinja").write_text(text)
    return get_template("tokenizer", tokenizer=load_tokenizer(folder))


def test_every_template_is_on_the_page():
    assert set(sections()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_what_is_rendered(name, tmp_path):
    template = own_template(tmp_path) if name == "tokenizer" else get_template(name)
    section = sections()[name]
    text = shown(TALK, template).replace("\n", "\\n\n")
    assert f"```text\n{text}\n```" in section
    assert f"caption: `{json.dumps(shown(CAPTION, template))[1:-1]}`" in section
    assert all(f"`{mark}`" in section for mark in map(json.dumps, template.stop))
