"""The page about data sets: its trees, rows, scripts and lines of run files fit each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pages import FENCE, ROOT, blocks
from shard_files import picture, write_tar

from video_llama.common.config import load
from video_llama.common.registry import registry

PAGE = ROOT / "docs" / "data_sets.md"
HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
RECIPES = sorted((ROOT / "train_configs").glob("*.yaml"))


def sections() -> dict[str, list[tuple[str, str]]]:
    """The code blocks under every heading that has a tree, as language and content."""
    pieces = HEADING.split(PAGE.read_text("utf-8"))[1:]
    found = {head: FENCE.findall(body) for head, body in zip(*[iter(pieces)] * 2, strict=True)}
    return {head: shown for head, shown in found.items() if "text" in dict(shown)}


def lay_out(tree: list[str], rows: list[str]) -> None:
    """Make the files of a tree: the first ones hold the rows, the others are there."""
    for place, name in enumerate(tree):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            write_tar(path, {"000000012.jpg": picture(9), "000000012.json": rows[place].encode()})
        elif place < len(rows):
            path.write_text(rows[place], encoding="utf-8")
        else:
            path.touch()


@pytest.mark.parametrize("name", sections())
def test_tree_row_script_and_run_file_of_a_data_set_fit_each_other(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = sections()[name]
    tree = dict(shown)["text"].split()
    lay_out(tree, [body for language, body in shown if language in ("csv", "json")])
    for language, body in shown:
        if language == "python":
            exec(compile(body, f"{PAGE.name}: {name}", "exec"), {})
    (entry,) = yaml.safe_load(dict(shown)["yaml"])["datasets"].values()
    reader_class = registry.get_dataset_class(entry.pop("type"))
    keys = {key: value for key, value in entry.items() if key not in ("split", "sample_ratio")}
    reader = reader_class(reader_class.Config(**keys), name="shown")
    assert reader.missing() == []
    media = reader.sample(0).media
    assert len(media) == 1
    assert media[0].path == tree[-1] or tree[-1].endswith(".tar")


def test_the_rows_of_the_page_are_strict_json_where_they_say_so():
    for shown in sections().values():
        for language, body in shown:
            assert language != "json" or json.loads(body)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_data_set_of_a_recipe_is_on_the_page_with_its_paths(recipe):
    own = "data/audiovisual"
    text = PAGE.read_text("utf-8")
    for entry in load(recipe).datasets.values():
        for path in (*entry.config.annotation_paths, entry.config.media):
            assert path in text or path.startswith(own), path


def test_the_conversations_of_the_data_page_can_be_read(tmp_path):
    lines = next(b for b in blocks(ROOT / "docs" / "data.md", "json") if '"role"' in b)
    file = tmp_path / "mine.jsonl"
    file.write_text(lines)
    reader = registry.get_dataset_class("messages")
    config = reader.Config(annotations=str(file), media=str(tmp_path))
    samples = [reader(config, name="mine").sample(i) for i in range(len(lines.splitlines()))]
    shown = [[item.kind for item in sample.media] for sample in samples]
    both = ["video", "audio"]
    assert shown == [["video"], ["video"], ["image"], both, ["image", "image"], []]
    assert [sample.form for sample in samples].count("caption") == 1
    assert (samples[1].media[0].start_s, samples[1].media[0].end_s) == (1.5, 4.0)
