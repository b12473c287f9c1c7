"""Foundations are made part by part, and a finished part is never made twice."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from video_llama.apps.toy import add_arguments
from video_llama.common.errors import ConfigError
from video_llama.foundations.build import MANIFEST, PARTS, build_foundations
from video_llama.foundations.fit import Gate

ROW = {
    "cpu_s": 12.5,
    "gates": [{"name": "noise", "value": 0.9, "bar": 0.95, "lower_is_better": False}],
}


def finished(folder: Path, *, seed: int) -> Path:
    manifest = {"seed": seed, "parts": {"vision": ROW, "audio": ROW}}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="ascii")
    return folder


def test_the_verb_makes_every_part_unless_told_otherwise():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert tuple(parser.parse_args(["foundations", "--out", "x"]).parts) == PARTS


def test_finished_parts_are_told_of_and_not_made_again(tmp_path: Path):
    folder = finished(tmp_path, seed=3)
    parts = build_foundations(folder, seed=3, parts=("audio", "vision"))
    assert [(part.name, part.cpu_s) for part in parts] == [("vision", 12.5), ("audio", 12.5)]
    assert [path.name for path in folder.iterdir()] == [MANIFEST]


def test_the_folder_of_another_seed_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="seed 3, asked for is seed 4"):
        build_foundations(finished(tmp_path, seed=3), seed=4)


@pytest.mark.parametrize(
    ("value", "lower_is_better", "passed"),
    [(0.95, False, True), (0.94, False, False), (0.96, True, False), (0.95, True, True)],
)
def test_a_gate_is_passed_on_the_right_side_of_its_bar(
    value: float, lower_is_better: bool, passed: bool
):
    assert Gate("g", value, 0.95, lower_is_better).is_passed is passed
