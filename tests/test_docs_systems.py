"""The README's table of systems names what there is, and tests that are there."""

from __future__ import annotations

import re

import pytest
from pages import README, ROOT

from video_llama.common.config import list_presets

SECTION = README.read_text("utf-8").partition("\n## Systems\n")[2].partition("\n## ")[0]
ROWS = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("|")][2:]
PATHS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", SECTION)))


@pytest.mark.parametrize("path", PATHS)
def test_what_is_said_to_prove_something_is_a_file_of_tests(path):
    assert re.search(r"^def test_", (ROOT / path).read_text("utf-8"), re.MULTILINE)


def test_every_system_that_runs_is_in_the_table_and_no_other():
    said = set(re.findall(r"`arch: (\w+)`", SECTION))
    assert said == set(list_presets())


def test_what_is_planned_is_not_said_to_be_proved():
    planned = [row for row in ROWS if row[1].strip().startswith("planned")]
    assert [row[0].split("(")[0].strip() for row in planned] == [
        "VideoChat",
        "VideoChat2",
        "MVBench's evaluation",
    ]
    assert all(not "".join(row[2:]).strip() for row in planned)


def test_every_other_row_says_what_and_by_which_tests():
    proved = [row for row in ROWS if not row[1].strip().startswith("planned")]
    assert len(proved) > 8
    assert all(row[2].strip() and "`tests/" in row[3] for row in proved)


TOOK = ROOT / "docs" / "adding_a_system.md"
COUNTED = re.findall(r"^\| `([\w/.]+)` \| (\d+) \|", TOOK.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("path", "lines"), COUNTED)
def test_a_system_took_about_as_many_lines_as_the_page_says(path, lines):
    found = len((ROOT / path).read_text("utf-8").splitlines())
    assert found == pytest.approx(int(lines), rel=0.15)


def test_nothing_of_the_package_is_named_for_the_system_but_what_the_page_counts():
    ours = {
        str(path.relative_to(ROOT))
        for pattern in ("**/*video_llava*.py", "**/*languagebind*.py", "foundations/towers.py")
        for path in (ROOT / "video_llama").glob(pattern)
    }
    assert len(ours) > 4
    ours |= {
        str(path.relative_to(ROOT))
        for folder in ("video_llama/presets", "train_configs", "eval_configs")
        for path in (ROOT / folder).rglob("*.yaml")
        if "video_llava" in str(path.relative_to(ROOT))
    }
    assert ours <= {path for path, _ in COUNTED}


def test_what_the_page_counts_as_the_system_s_own_adds_up():
    text = TOOK.read_text("utf-8")
    own = re.findall(r"^\| `([\w/.]+)` \| (\d+) \|", text.partition("\n## What it asked")[0], re.M)
    said = int(re.search(r"^About ([\d,]+) lines", text, re.M)[1].replace(",", ""))
    assert said == pytest.approx(sum(int(lines) for _, lines in own), abs=5)
