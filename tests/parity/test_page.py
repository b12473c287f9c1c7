"""docs/parity.md names every file of numbers, every test, and every switch with its values."""

from __future__ import annotations

import dataclasses
import re

import pytest
from pages import ROOT, table

from video_llama.common.config import load
from video_llama.conversation.compat import ChatCompat
from video_llama.processors.media import MediaCompat

PAGE = ROOT / "docs" / "parity.md"
PACKAGE = ROOT / "video_llama"
FILES = table(PAGE, "| file in")
TWINS = table(PAGE, "| part | twin")
BOUND = table(PAGE, "| key | published")
SWITCHES = table(PAGE, "| switch | `corrected`")
# Where the choice is asked for; what is only handed on has no row of its own.
DECIDES = re.compile(r'compat == "')
HANDS_ON = {"common/legacy/model.py", "common/legacy/translate.py"}


def named(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_every_file_of_numbers_is_in_the_table_and_exists():
    goldens = ROOT / "tests" / "goldens"
    said = {name for cell in FILES for name in named(cell) if "/" in name}
    files = {
        str(path.relative_to(goldens))
        for folder in ("models", "training", "conversation", "processors")
        for path in (goldens / folder).glob("*.*")
    }
    assert said == {name for name in files if name.endswith((".json", ".safetensors"))}


@pytest.mark.parametrize("cell", sorted({row[-1] for row in [*FILES.values(), *TWINS.values()]}))
def test_every_test_of_the_tables_exists(cell):
    assert named(cell)
    assert all((ROOT / name).is_file() for name in named(cell))


@pytest.mark.parametrize("compat", [MediaCompat, ChatCompat])
def test_every_switch_is_in_the_table_with_both_values(compat):
    corrected, released = compat.named("corrected"), compat.named("released")
    for field in dataclasses.fields(compat):
        said = SWITCHES[f"`{field.name}`"]
        for value, cell in zip((corrected, released), said, strict=False):
            setting = getattr(value, field.name)
            assert setting is None or str(setting) in cell


def test_every_place_that_decides_is_in_the_table():
    deciding = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if DECIDES.search(path.read_text(encoding="utf-8"))
        or re.search(r"^class \w+Compat:", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    said = {name for row in SWITCHES.values() for name in named(row[-1])}
    assert deciding - HANDS_ON == said


@pytest.mark.parametrize("preset", ["vicuna7b", "vicuna13b", "llama2_7b", "llama2_13b"])
def test_released_presets_have_the_published_values_of_what_is_bound_to_weights(preset):
    file = ROOT / "eval_configs" / "video_llama_eval_withaudio.yaml"
    model = load(file, options=[f"model.model_type={preset}"]).model
    sound, picture = (model.branches[name].encoder.config for name in ("audio", "video"))
    found = {
        "`model.template`": model.template,
        "`model.frame_times`": str(model.frame_times).lower(),
        "`audio.encoder.audio_scale`": sound.audio_scale,
        "`audio.encoder.clip_policy`": sound.clip_policy,
        "`video.encoder.frame_policy`": picture.frame_policy,
    }
    assert found.keys() == BOUND.keys()
    for key, value in found.items():
        assert value in BOUND[key][0]
