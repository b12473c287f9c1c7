"""The pages about talking to a model: their examples run, their tables repeat the code."""

from __future__ import annotations

import argparse
import dataclasses
import doctest
import inspect
import re

import pytest
from pages import README, ROOT, blocks, table
from parrot import Parrot

import video_llama
from video_llama.apps import chat as chat_app
from video_llama.common.config import load
from video_llama.common.generation import GenerationSettings
from video_llama.conversation.chat import Chat
from video_llama.conversation.shared import NUM_CACHES
from video_llama.models.branch_shapes import fold_shapes
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.limits import UPLOAD_LIMITS
from video_llama.processors.uploads import MAX_FRAMES

CHAT = ROOT / "docs" / "chat.md"
DEMO = ROOT / "docs" / "demo.md"
COMING_FROM = ROOT / "docs" / "coming_from.md"
FULL_SIZE = ROOT / "eval_configs" / "video_llama_eval_withaudio.yaml"


def attributes() -> set[str]:
    """What a chat carries for its callers."""
    return {name for name in vars(Parrot("hello").chat()) if not name.startswith("_")}


def words_of(cells: list[str] | str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cells if isinstance(cells, str) else " ".join(cells))


@pytest.mark.parametrize(
    ("page", "at_least"), [(CHAT, 35), (COMING_FROM, 35)], ids=lambda x: str(x)
)
def test_the_examples_of_a_page_run_as_they_stand(page, at_least, tmp_path, monkeypatch):
    for name in ("eval_configs", "examples", "video_llama"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    said: list[str] = []
    flags = doctest.ELLIPSIS
    results = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append)
    assert results.failed == 0, "".join(said)
    assert results.attempted >= at_least


def test_every_call_and_attribute_of_a_chat_is_in_its_tables():
    said = [
        name.partition("(")[0]
        for head in ("| call | does |", "| attribute | is |")
        for row in table(CHAT, head)
        for name in words_of(row)
    ]
    methods = {name for name in vars(Chat) if not name.startswith("_")}
    assert set(said) == methods | attributes()
    assert len(said) == len(set(said))


def test_the_keywords_of_uploads_and_settings_are_those_of_the_code():
    said = [name.partition("=")[0] for row in table(CHAT, "| keyword |") for name in words_of(row)]
    assert said == list(inspect.signature(Chat.upload).parameters)[2:]
    rows = table(CHAT, "| setting | default |")
    settings = {name for row in rows for name in words_of(row)}
    assert settings == {field.name for field in dataclasses.fields(GenerationSettings)}
    for field in dataclasses.fields(GenerationSettings):
        row = next(row for row in rows if f"`{field.name}`" in row)
        default = rows[row][0].split(",")[words_of(row).index(field.name)]
        assert float(re.search(r"[\d.]+", default)[0]) == field.default, field.name


def test_the_bounds_of_the_chat_page_are_those_of_the_code():
    text = CHAT.read_text("utf-8")
    assert f"evenly over the span; up to {MAX_FRAMES}, " in text
    assert f"({NUM_CACHES} unless `Shared` says otherwise, " in text


@pytest.mark.parametrize("page", [CHAT, COMING_FROM], ids=lambda page: page.name)
def test_what_a_page_calls_exists(page):
    # Their calls stand in the list on top, between these words, and before a table's last column.
    text = re.sub(r"^There: .*?(?=\bHere\b)", "", page.read_text("utf-8"), flags=re.M | re.S)
    there = page == COMING_FROM
    ours = "\n".join(
        line.split("|")[-2] if there and line.startswith("|") else line
        for line in text.splitlines()
        if not line.startswith("- [")
    )
    for name in re.findall(r"\bchat\.(?!md\b|ipynb\b)([a-z_]+)", ours):
        assert hasattr(Chat, name) or name in attributes(), name
    for name in re.findall(r"`(?:model|VideoLLM)\.([a-z_]+)(?:\(|`)", ours):
        assert hasattr(VideoLLM, name), name
    for name in re.findall(r"`(load_\w+)", ours):
        assert name in video_llama.__all__, name


def test_the_flags_of_the_page_are_those_of_the_terminal_chat():
    parser = argparse.ArgumentParser()
    chat_app.add_arguments(parser)
    rows = table(COMING_FROM, "| `python -m videollava.serve.cli` |").values()
    flags = {flag for cells in rows for flag in re.findall(r"--[a-z][\w-]+", cells[-1])}
    assert len(flags) >= 4
    assert flags <= set(parser._option_string_actions)


def test_the_lines_of_python_in_the_readme_run_and_get_the_answers_below_them(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = (block for block in blocks(README, "python") if "load_chat" in block)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    told = README.read_text("utf-8").partition("<!-- conversations -->")[2]
    answers = dict(re.findall(r"^  (.+\?) +(.+)$", told, re.MULTILINE))
    questions = ("What colour is the circle?", "Is the pip in time with the bounce?")
    assert said == [answers[question] for question in questions]


def test_the_shapes_at_full_size_are_those_of_the_preset():
    branches = load(FULL_SIZE).model.branches
    video, audio = (branches[name].encoder.config.media_spec() for name in ("video", "audio"))
    tokens = [fold_shapes(branches[name], 8)[-1] for name in ("video", "audio")]
    row = table(COMING_FROM, "| | shape |")
    pixels, size = video.num_frames, video.image_size
    mel = [audio.num_clips, 1, audio.num_mel_bins, audio.num_mel_frames]
    assert words_of(row["`item.pixels`"][1]) == [
        str([pixels, 3, size, size]),
        str([1, 3, size, size]),
    ]
    assert words_of(row["`item.mel`"][1]) == [str(mel)]
    assert words_of(row["`load_processor(...)(path)`"][1]) == [str([3, pixels, size, size])]
    assert words_of(row["`model.encode_items([...])`"][1]) == [
        str([shape.num_slots, shape.width]) for shape in tokens
    ]


def test_the_limits_of_uploads_of_the_demo_page_are_those_of_the_code():
    text = DEMO.read_text("utf-8")
    default = dict(re.findall(r"^\| `(--[a-z-]+)` \| ([\d.]+) \|", text, re.MULTILINE))
    assert float(default["--max-upload-gib"]) * 2**30 == UPLOAD_LIMITS.max_bytes
    assert float(default["--max-duration-s"]) == UPLOAD_LIMITS.max_duration_s
    assert float(default["--max-megapixels"]) == round(UPLOAD_LIMITS.max_pixels / 1e6, 1)
