"""Keys that say how parts learn, through whole runs: a rate of their own, layers made cheaper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from apps.tiny_project import write_project
from safetensors.torch import load_file

from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.runners.metrics import read_lines

CHEAPER = (
    "run.compile=eager",
    "model.decoder.gradient_checkpointing=true",
    "model.branches.video.encoder.gradient_checkpointing=true",
    "model.branches.video.stages.video_qformer.gradient_checkpointing=true",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run of two epochs of one step, with a checkpoint after each."""
    return write_project(tmp_path_factory.mktemp("project"), streams=("video",))


def run(project: Path, name: str, *options: str) -> Path:
    """Train; return the run's folder."""
    out = project.parent / name
    sizes = ("run.max_epoch=2", "run.iters_per_epoch=1", "run.save_freq=1", "run.keep_last=9")
    where = ("model.branches.audio=null", f"run.output_dir={out}")
    assert train(load(project, options=[*where, *sizes, *options])).is_finished
    return out


def learnt(out: Path, step: int = 2) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{step:07d}" / "trainable.safetensors")


@pytest.fixture(scope="module")
def plain(project):
    return run(project, "plain")


@pytest.fixture(scope="module")
def cheaper(project):
    torch.compiler.reset()
    return run(project, "cheaper", *CHEAPER)


def test_compiled_and_recomputed_layers_learn_the_same_under_the_same_names(plain, cheaper):
    expected, found = learnt(plain), learnt(cheaper)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def test_a_run_goes_on_as_written_from_where_compiled_layers_left_it(project, plain, cheaper):
    half = cheaper / "checkpoints" / "step_0000001"
    resumed = learnt(run(project, "resumed", f"run.resume_ckpt_path={half}"))
    for name, tensor in learnt(plain).items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-5)


def test_a_part_learns_at_its_rate_and_the_log_shows_it(project, plain):
    slow = run(project, "slow", "model.decoder.lr=1.0e-6", "run.init_lr=1.0e-4")
    (line, *_) = read_lines(slow / "metrics.jsonl")
    assert line["lr/decoder"] == pytest.approx(line["lr"] / 100)
    assert line["lr/branches.video.encoder"] == line["lr"]
    # One step of Adam moves by the rate, wherever there is a gradient.
    full, hundredth = learnt(plain, step=1), learnt(slow, step=1)
    name = "decoder.model.model.layers.0.mlp.up_proj.weight"
    start = learnt(run(project, "still", f"run.init_lr={1e-12}"), step=1)[name]
    ratio = (hundredth[name] - start).abs().sum() / (full[name] - start).abs().sum()
    assert ratio == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "model.branches.video.stages.projection.gradient_checkpointing=true",
            "model.branches.video.stages.projection.gradient_checkpointing: this projection has no",
        ),
        ("model.decoder={trainable: false, lr: 1e-5}", "model.decoder: lr is 1e-05, but the part"),
        ("model.decoder.attention=flash_attention_2", "model.decoder.attention: flash_attention_2"),
    ],
)
def test_a_key_that_a_part_cannot_honour_is_refused_by_name(project, option, words):
    with pytest.raises(ConfigError, match=words):
        run(project, "refused", option)
    assert not (project.parent / "refused").exists()
