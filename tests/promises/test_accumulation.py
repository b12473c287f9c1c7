"""Promise: eight passes over one sample are one pass over eight, whatever their lengths."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from promises.recorded_task import FOLDER, STOP_AFTER, samples_in_order, train_recorded
from promises.small_project import write_project
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow
NUM_STEPS, GLOBAL_BATCH = 8, 8


@dataclass(frozen=True)
class Outcome:
    """What a run was given and what it made of it."""

    samples: list[str]
    losses: list[float]
    gradients: list[Tensor]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("accum"), iters=NUM_STEPS, batch_size=GLOBAL_BATCH)


@pytest.fixture(scope="module", autouse=True)
def _own_environment():
    before = {name: os.environ.pop(name, None) for name in (FOLDER, STOP_AFTER)}
    yield
    os.environ.update({name: value for name, value in before.items() if value is not None})


def train_in(project, *, accum: int, compat: str = "corrected") -> Outcome:
    """Train with steps of `accum` passes; keep the gradient of every step."""
    gradients: list[Tensor] = []

    def keep(optimizer, *_):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.flatten().clone() for p in params]))

    folder = project.parent / f"{compat}_{accum}"
    options = [
        f"run.output_dir={folder}",
        f"model.compat={compat}",
        "run.grad_clip_norm=null",
        f"run.accum_grad_iters={accum}",
        f"run.iters_per_epoch={NUM_STEPS // 4 * accum}",
        f"run.batch_size_train={GLOBAL_BATCH // accum}",
    ]
    handle = register_optimizer_step_pre_hook(keep)
    try:
        train_recorded(project, options, record=folder / "record")
    finally:
        handle.remove()
    lines = [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "train"]
    return Outcome(
        samples_in_order(folder / "record"),
        [line["loss"] for line in lines],
        gradients,
        load_file(folder / "checkpoints" / "last" / "trainable.safetensors"),
    )


@pytest.fixture(scope="module")
def one_pass(project):
    return train_in(project, accum=1)


@pytest.fixture(scope="module")
def eight_passes(project):
    return train_in(project, accum=8)


def distance(left: Tensor, right: Tensor) -> float:
    """Return how far two vectors are apart, in lengths of the first."""
    return float((left - right).norm() / left.norm())


def test_both_see_the_same_samples(one_pass, eight_passes):
    assert len(one_pass.samples) == NUM_STEPS * GLOBAL_BATCH
    assert eight_passes.samples == one_pass.samples


def test_both_have_the_same_losses(one_pass, eight_passes):
    assert len(one_pass.losses) == NUM_STEPS
    assert eight_passes.losses == pytest.approx(one_pass.losses, rel=1e-5)


def test_both_have_the_same_gradients(one_pass, eight_passes):
    pairs = list(zip(one_pass.gradients, eight_passes.gradients, strict=True))
    assert len(pairs) == NUM_STEPS
    for left, right in pairs:
        assert float(right.norm()) == pytest.approx(float(left.norm()), rel=1e-5)
        assert distance(left, right) < 1e-5


def test_both_end_with_the_same_weights(one_pass, eight_passes):
    assert one_pass.weights.keys() == eight_passes.weights.keys()
    for name, tensor in one_pass.weights.items():
        torch.testing.assert_close(
            eight_passes.weights[name], tensor, atol=1e-5, rtol=1e-5, msg=name
        )


def test_the_mean_of_the_means_of_passes_would_be_told_apart(project, one_pass):
    # The published training averages every pass by itself, and adds the passes up.
    published = train_in(project, accum=8, compat="released")
    assert published.samples == one_pass.samples
    assert distance(one_pass.gradients[0], published.gradients[0] / 8) > 0.01
    assert published.losses != pytest.approx(one_pass.losses, rel=1e-5)
