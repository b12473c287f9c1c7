"""What README and docs say is so: links lead somewhere, commands exist, tables repeat the code."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
from pathlib import Path

import pytest
import yaml
from pages import PAGES, README, ROOT, blocks, commands, table

from video_llama.apps.main import VERBS
from video_llama.common.config import list_presets, load
from video_llama.common.registry import registry
from video_llama.tasks.probes import PROBES
from video_llama.toy.plan import HELD_OUT_SPLITS, Counts, sample_split
from video_llama.toy.questions import KINDS
from video_llama.toy.words import COLOURS, MOTIONS, SHAPES, ThingWords

RECIPES = (
    "visionbranch_stage1_pretrain",
    "audiobranch_stage1_pretrain",
    "visionbranch_stage2_finetune",
    "audiobranch_stage2_finetune",
    "audiovisual_stage3_joint",
)
DOORS = {
    "train.py": ["train"],
    "evaluate.py": ["evaluate"],
    "demo_audiovideo.py": ["demo"],
    "apply_delta.py": ["weights", "merge-delta"],
}


def anchors(page: Path) -> set[str]:
    """The names GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links() -> list[tuple[Path, str]]:
    pattern = re.compile(r'\]\(([^)\s]+)\)|src="([^"]+)"')
    return [
        (page, left or right)
        for page in PAGES
        for left, right in pattern.findall(page.read_text("utf-8"))
        if not (left or right).startswith("http")
    ]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda x: getattr(x, "name", x))
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page, link):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_verbs_flags_and_run_files_that_exist(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for words in commands(page):
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        door = next((word for word in words if word in DOORS), None)
        if words[0] == "make":
            assert all(re.search(rf"^{goal}:", makefile, re.MULTILINE) for goal in words[1:])
        elif words[0] == "video-llama" or door:
            rest = words[words.index(door or words[0]) + 1 :]
            verb, *rest = [*DOORS.get(door, ()), *rest]
            assert verb in VERBS
            check_flags(verb, rest)
            for word in rest:
                if word.endswith(".yaml"):
                    assert (ROOT / word).is_file(), word


def check_flags(verb: str, words: list[str]) -> None:
    """Let the verb's own parser read the words."""
    if words[:1] == ["--help"]:
        return
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"video_llama.apps.{verb}").add_arguments(parser)
    parser.parse_args(words)


def test_every_verb_is_in_the_docs():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    said = set(re.findall(r"video-llama ([a-z]+)", text))
    assert said == set(VERBS)


def test_the_words_of_a_decoder_are_those_of_its_preset():
    rows = table(ROOT / "docs" / "decoders.md", "| decoder |").values()
    named = {preset: row[3] for row in rows for preset in re.findall(r"`(\w+)`", row[2])}
    assert set(named) == set(list_presets()["video_llama"]) - {"toy"}
    for preset, words in named.items():
        path = ROOT / "eval_configs" / "video_llama_eval_only_vl.yaml"
        model = load(path, options=[f"model.model_type={preset}"]).model
        assert f"{model.decoder.config.architecture['vocab_size']:,}" in words


def test_every_run_file_of_the_docs_is_yaml():
    for page in PAGES:
        for block in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(block), dict)


def test_the_run_file_of_the_readme_loads(tmp_path):
    block = next(b for b in blocks(README, "yaml") if "model_type" in b)
    file = tmp_path / "run.yaml"
    file.write_text(block)
    assert load(file).run.init_lr == 3e-5


@pytest.mark.parametrize("column", range(5), ids=RECIPES)
def test_the_hyper_parameters_of_the_recipes_page_are_those_of_the_run_files(column):
    rows = table(ROOT / "docs" / "recipes.md", "| | vision 1 |")
    said = {
        name.split("`")[1]: cells[column].split()[0] for name, cells in rows.items() if "`" in name
    }
    run = load(ROOT / "train_configs" / f"{RECIPES[column]}.yaml").run
    epochs = rows["`iters_per_epoch` x `max_epoch`"][column]
    assert {name: float(value) for name, value in said.items()} == {
        name: float(getattr(run, name)) for name in said
    }
    assert epochs == f"{run.iters_per_epoch} x {run.max_epoch}"
    clipping = rows["gradient clipping"][column]
    assert (None if clipping == "none" else float(clipping)) == run.grad_clip_norm


@pytest.mark.parametrize("row", range(5), ids=RECIPES)
def test_the_steps_of_the_toy_page_are_those_of_the_run_files(row):
    steps, batch, _ = list(table(ROOT / "docs" / "toy_world.md", "| recipe |").values())[row]
    run = load(ROOT / "train_configs" / "toy" / f"{RECIPES[row]}.yaml").run
    assert steps == f"{run.max_epoch} x {run.iters_per_epoch}"
    assert int(batch) == run.batch_size_train


def test_the_counts_of_the_toy_page_are_those_of_the_full_world():
    rows = table(ROOT / "docs" / "toy_world.md", "| set |")
    counts = Counts()
    said = [int(number) for cells in rows.values() for number in cells[0].split(",")]
    held_out = [len(sample_split(split, counts=counts, seed=0).clips) for split in HELD_OUT_SPLITS]
    clips = [counts.train, counts.valid, *held_out]
    voices = counts.voices * len(SHAPES) * len(COLOURS)
    assert said == [*clips, counts.train_pictures, counts.valid_pictures, voices]


def test_the_held_out_share_of_the_toy_page_is_that_of_the_world():
    text = (ROOT / "docs" / "toy_world.md").read_text("utf-8")
    triples = [ThingWords(*words) for words in itertools.product(SHAPES, COLOURS, MOTIONS)]
    assert sum(triple.is_held_out for triple in triples) * 6 == len(triples)
    assert "a sixth of\nall triples" in text


def test_every_kind_of_question_is_on_the_toy_page():
    said = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "toy_world.md").read_text("utf-8")))
    assert set(KINDS) <= said


def test_every_probe_is_on_the_running_page():
    assert set(PROBES) == {
        name.strip("`") for name in table(ROOT / "docs" / "running.md", "| probe |")
    }


def test_every_registered_reader_is_in_the_readme_and_in_the_data_page():
    for page in (README, ROOT / "docs" / "data.md"):
        listed = set(re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE))
        readers = {name: registry.get_dataset_class(name) for name in registry.list_datasets()}
        ours = {n for n, reader in readers.items() if reader.__module__.startswith("video_llama.")}
        assert ours <= listed


def test_the_conversations_of_the_readme_can_be_read(tmp_path):
    lines = next(iter(blocks(README, "json")))
    file = tmp_path / "mine.jsonl"
    file.write_text(lines)
    reader = registry.get_dataset_class("messages")
    config = reader.Config(annotations=str(file), media=str(tmp_path))
    samples = [reader(config, name="mine").sample(i) for i in range(len(lines.splitlines()))]
    assert [s.media[0].kind for s in samples] == ["video", "audio", "image"]
    assert [s.messages[-1].text for s in samples] == ["A ball bounces.", "Rain.", "A bus."]
