"""Promise: 1, 2 or 4 ranks are the same run, also when it moves from one number to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from promises.launch import as_srun, as_torchrun, run_ranks
from promises.recorded_task import samples_in_order, train_recorded
from promises.small_project import write_project
from safetensors.torch import load_file
from torch import Tensor

from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow
NUM_STEPS, GLOBAL_BATCH = 20, 4


@dataclass(frozen=True)
class Shape:
    """How a step of four samples is cut up, who reads them, and who starts the ranks."""

    ranks: int
    batch_size: int
    accum: int = 1
    workers: int = 0
    launcher: Callable[[int], list[dict[str, str]]] = as_torchrun

    def options(self) -> list[str]:
        assert self.ranks * self.batch_size * self.accum == GLOBAL_BATCH
        return [
            f"run.batch_size_train={self.batch_size}",
            f"run.accum_grad_iters={self.accum}",
            f"run.iters_per_epoch={NUM_STEPS // 4 * self.accum}",
            f"run.num_workers={self.workers}",
        ]


SHAPES = {
    "one rank": Shape(1, 4),
    "two ranks, a worker each": Shape(2, 2, workers=1),
    "four ranks of srun, three workers each": Shape(4, 1, workers=3, launcher=as_srun),
}
MOVES = (
    (Shape(2, 2), 7),
    (Shape(1, 2, accum=2, workers=3), 6),
    (Shape(2, 1, accum=2, workers=1), None),
)
"""Two ranks, one, two again, and after how many steps of their own the first two are stopped."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return write_project(folder, iters=NUM_STEPS, batch_size=GLOBAL_BATCH)


def launch(project: Path, shape: Shape, *, name: str, part: int = 0, stop_after=None) -> Path:
    """Train in one shape; return the run's folder."""
    folder = project.parent / name.replace(" ", "_")
    held_out = {
        "type": "messages",
        "split": "valid",
        "annotations": project.parent / "own.jsonl",
        "media": project.parent / "clips",
    }
    options = [f"datasets.held_out.{key}={value}" for key, value in held_out.items()]
    options += [f"run.output_dir={folder}", *shape.options()]
    options += ["run.resume_ckpt_path=auto"] if part else []
    work = partial(
        train_recorded, project, options, record=folder / f"record{part}",
        stop_after=stop_after and stop_after * shape.accum,
    )  # fmt: skip
    run_ranks(work, worlds=shape.launcher(shape.ranks), logs=folder / f"logs{part}")
    return folder


@pytest.fixture(scope="module")
def runs(project):
    """Finished runs by shape."""
    return {name: launch(project, shape, name=name) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def moved(project):
    """A run that was stopped twice and went on with another number of ranks."""
    for part, (shape, stop_after) in enumerate(MOVES):
        folder = launch(project, shape, name="moved", part=part, stop_after=stop_after)
    return folder


def losses(folder: Path) -> list[float]:
    """Return those of every step, and of the validation after every epoch."""
    lines = read_lines(folder / "metrics.jsonl")
    train, valid = ([line for line in lines if line["kind"] == kind] for kind in ("train", "valid"))
    # Written once, by one rank.
    assert [line["step"] for line in train] == list(range(1, NUM_STEPS + 1))
    assert [line["step"] for line in valid] == [5, 10, 15, 20]
    return [line["loss"] for line in train] + [line["valid_loss"] for line in valid]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoints" / "last" / "trainable.safetensors")


def test_the_run_sees_several_data_sets_and_learns(runs):
    seen = samples_in_order(runs["one rank"] / "record0")
    assert {key.partition("/")[0] for key in seen} == {"both", "silent", "own"}
    curve = losses(runs["one rank"])[:NUM_STEPS]
    assert sum(curve[-5:]) < 0.99 * sum(curve[:5])


@pytest.mark.parametrize("name", list(SHAPES)[1:])
def test_every_number_of_ranks_and_workers_sees_the_same_samples(runs, name):
    seen = samples_in_order(runs[name] / "record0")
    assert len(seen) == NUM_STEPS * GLOBAL_BATCH
    assert seen == samples_in_order(runs["one rank"] / "record0")


@pytest.mark.parametrize("name", list(SHAPES)[1:])
def test_every_number_of_ranks_has_the_same_losses(runs, name):
    assert losses(runs[name]) == pytest.approx(losses(runs["one rank"]), rel=1e-5)


@pytest.mark.parametrize("name", list(SHAPES)[1:])
def test_every_number_of_ranks_ends_with_the_same_weights(runs, name):
    one, other = weights(runs["one rank"]), weights(runs[name])
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        # A bias of keys adds the same to all scores of a query: its gradient is rounding alone.
        if not key.endswith("key.bias"):
            torch.testing.assert_close(other[key], tensor, atol=1e-5, rtol=1e-5, msg=key)


@pytest.mark.parametrize("name", list(SHAPES)[1:])
def test_the_same_samples_cannot_be_used_and_are_replaced(runs, name):
    def skips(folder):
        return [line["position"] for line in read_lines(folder / "skipped.jsonl")]

    assert skips(runs["one rank"])
    assert sorted(skips(runs[name])) == sorted(skips(runs["one rank"]))


def test_a_run_that_moves_sees_the_samples_of_one_that_stays(runs, moved):
    parts = [samples_in_order(moved / f"record{part}") for part in range(len(MOVES))]
    assert [len(part) // GLOBAL_BATCH for part in parts] == [7, 6, 7]
    assert sum(parts, []) == samples_in_order(runs["one rank"] / "record0")


def test_a_run_that_moves_continues_the_curve(runs, moved):
    assert losses(moved) == pytest.approx(losses(runs["one rank"]), rel=1e-5)
