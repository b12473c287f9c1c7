"""Promise: what took a broken file's place takes it again, whatever became of the file since.

Runs are trained over broken files and rows, and then, from a checkpoint in their middle, once
more with everything mended: had a single file been tried again, another sample would have come.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from apps.tiny_project import NUM_CLIPS
from processors.made_media import shade, tone, write_clip
from promises.launch import as_torchrun, run_ranks
from promises.recorded_task import samples_in_order, train_recorded
from promises.small_project import conversations, write_project
from safetensors.torch import load_file

from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow
NUM_STEPS, START, GLOBAL_BATCH = 12, 3, 4
SHAPES = {"alone": (1, 0), "two workers": (1, 2), "two ranks, two workers each": (2, 2)}
"""Ranks, and workers of each."""

CUT, EMPTY, GONE = 0, 3, 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of (the whole run, the part of it that was done again) by shape."""
    folder = tmp_path_factory.mktemp("broken")
    project = write_project(folder, iters=NUM_STEPS, batch_size=GLOBAL_BATCH)
    page = folder / "clips" / "page"
    rows = [
        json.dumps(row).replace("page/1.mp4", f"page/{number}.mp4")
        for number, row in enumerate(conversations())
    ]
    rows[1] = json.dumps({"messages": 7})
    (folder / "own.jsonl").write_text("\n".join(rows))
    (page / f"{CUT}.mp4").write_bytes((page / f"{CUT}.mp4").read_bytes()[:300])
    (page / f"{GONE}.mp4").unlink()
    for name, shape in SHAPES.items():
        launch(project, shape, out=folder / name / "whole")
    for number in (CUT, EMPTY, GONE):
        pictures = [shade(number + i, height=32, width=32) for i in range(4)]
        write_clip(page / f"{number}.mp4", pictures, sound=tone(duration_s=0.5))
    for name, shape in SHAPES.items():
        again = folder / name / "again"
        shutil.copytree(folder / name / "whole", again, symlinks=True)
        start = again / "checkpoints" / f"step_{START:07d}"
        launch(project, shape, out=again, start=str(start))
    return {name: (folder / name / "whole", folder / name / "again") for name in SHAPES}


def launch(project: Path, shape: tuple[int, int], *, out: Path, start: str | None = None) -> None:
    ranks, workers = shape
    options = [
        f"run.output_dir={out}",
        f"run.batch_size_train={GLOBAL_BATCH // ranks}",
        f"run.num_workers={workers}",
        "run.keep_last=9",
        *([f"run.resume_ckpt_path={start}"] if start else []),
    ]
    record = out / ("record_again" if start else "record")
    work = partial(train_recorded, project, options, record=record)
    run_ranks(work, worlds=as_torchrun(ranks), logs=record / "logs")


def skips_of(run: Path) -> list[dict[str, object]]:
    return read_lines(run / "skipped.jsonl")


def numbers_of(run: Path) -> list[tuple[float, ...]]:
    return [
        tuple(line[name] for name in ("step", "loss", "lr", "grad_norm"))
        for line in read_lines(run / "metrics.jsonl")
        if line["kind"] == "train"
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_mended_files_change_nothing_of_a_run_that_goes_on(runs, name):
    whole, again = runs[name]
    before = samples_in_order(whole / "record")
    assert samples_in_order(again / "record_again") == before[START * GLOBAL_BATCH :]
    assert numbers_of(again) == numbers_of(whole)
    assert len(numbers_of(whole)) == NUM_STEPS
    first, second = (
        load_file(run / "checkpoints/last/trainable.safetensors") for run in (whole, again)
    )
    assert first.keys() == second.keys()
    assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize("name", SHAPES)
def test_the_record_is_neither_lost_nor_doubled(runs, name):
    whole, again = runs[name]
    assert (again / "skipped.jsonl").read_bytes() == (whole / "skipped.jsonl").read_bytes()
    counts = [
        json.loads((run / "checkpoints/last/state.json").read_text())["num_skipped"]
        for run in (whole, again)
    ]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == len(skips_of(whole))


def test_every_fault_is_named_with_what_took_its_place(runs):
    skips = skips_of(runs["alone"][0])
    # All three faults of files and the fault of a row, after the step that is gone back to, too.
    # A text that does not fit the context has no file at fault.
    assert {Path(str(skip["path"])).name for skip in skips if skip["path"]} == {
        f"{CUT}.mp4", f"{EMPTY}.mp4", f"{GONE}.mp4", "own.jsonl:2"
    }  # fmt: skip
    assert sum(skip["step"] > START for skip in skips) >= 3
    order = samples_in_order(runs["alone"][0] / "record")
    for skip in skips:
        used = order[int(str(skip["position"]))]
        dataset, index = used.split("/")[0], int(used.split("/")[-1])
        assert (skip["dataset"], skip["filled_by"]) == (dataset, index)


def test_what_fills_a_place_has_the_same_kinds_of_media(runs):
    def kinds(row):
        content = conversations()[int(row)]["messages"][0]["content"]
        return {part["type"] for part in content} - {"text"}

    tried: dict[object, list[object]] = {}
    for skip in skips_of(runs["alone"][0]):
        if skip["dataset"] == "own":
            tried.setdefault(skip["position"], []).append(skip["index"])
    chains = [
        [*tried[skip["position"]], skip["filled_by"]]
        for skip in skips_of(runs["alone"][0])
        if skip["dataset"] == "own" and str(skip["path"]).endswith(".mp4")
    ]
    assert chains
    # There are two rows of each kind: the other one is the first to be tried.
    assert all(kinds(chain[0]) == kinds(chain[1]) for chain in chains)


def test_ranks_and_workers_skip_and_fill_alike(runs):
    first, *others = (whole for whole, _ in runs.values())
    for other in others:
        assert samples_in_order(other / "record") == samples_in_order(first / "record")
        assert sorted(map(str, skips_of(other))) == sorted(map(str, skips_of(first)))
    assert len(samples_in_order(first / "record")) == NUM_STEPS * GLOBAL_BATCH
    assert NUM_CLIPS == 8
