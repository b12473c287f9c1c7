import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import BranchConfig, Config, ModelConfig, PartConfig, RunConfig
from video_llama.runners.engine import TorchEngine
from video_llama.runners.optim import (
    LearningRate,
    LrSpan,
    build_optimizer,
    lr_scales,
    param_groups,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "training"
SPANS = st.builds(
    LrSpan,
    init_lr=st.floats(1e-5, 1e-2),
    min_lr=st.floats(0, 1e-5),
    warmup_lr=st.floats(0, 1e-6),
    warmup_steps=st.integers(0, 60),
    num_epochs=st.integers(1, 5),
    steps_per_epoch=st.integers(1, 40),
    decay_rate=st.floats(0.01, 1),
)


def published_schedules():
    """Values computed by the published code, one case per configuration."""
    return json.loads((GOLDENS / "lr_schedules.json").read_text())


@pytest.mark.parametrize("case", published_schedules(), ids=lambda case: case["type"])
def test_released_schedules_equal_the_published_ones(case):
    numbers = case["cfg"]
    steps_per_epoch = numbers.get("iters_per_epoch", 16)
    span = LrSpan(
        init_lr=numbers["init_lr"],
        min_lr=numbers["min_lr"],
        warmup_lr=numbers["warmup_start_lr"],
        warmup_steps=numbers["warmup_steps"],
        num_epochs=numbers["max_epoch"],
        steps_per_epoch=steps_per_epoch,
        decay_rate=numbers.get("decay_rate", 0.1),
        compat="released",
    )
    schedule = registry.get_lr_scheduler_class(case["type"])
    for epoch, step, lr in case["values"]:
        assert schedule(epoch * steps_per_epoch + step, span=span) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(
    "name", ["linear_warmup_cosine_lr", "linear_warmup_step_lr", "linear_warmup_linear_lr"]
)
@given(span=SPANS)
def test_corrected_schedules_rise_to_the_peak_then_never_rise_again(name, span):
    rates = [
        registry.get_lr_scheduler_class(name)(step, span=span)
        for step in range(max(span.num_steps, span.warmup_steps + 1))
    ]
    peak = span.warmup_steps
    assert rates[peak] == pytest.approx(span.init_lr)
    assert all(a <= b + 1e-15 for a, b in zip(rates[:peak], rates[1 : peak + 1], strict=True))
    assert all(a >= b - 1e-15 for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_the_corrected_cosine_is_halfway_down_halfway_after_the_warmup():
    span = LrSpan(init_lr=1.0, min_lr=0.2, warmup_steps=20, num_epochs=4, steps_per_epoch=30)
    rate = registry.get_lr_scheduler_class("linear_warmup_cosine_lr")(20 + 50, span=span)
    assert rate == pytest.approx(0.6)
    last = registry.get_lr_scheduler_class("linear_warmup_cosine_lr")(119, span=span)
    assert last == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 0.99)))


def test_the_corrected_step_schedule_drops_an_epoch_after_the_warmup():
    span = LrSpan(init_lr=1.0, warmup_steps=5, num_epochs=4, steps_per_epoch=10, decay_rate=0.5)
    schedule = registry.get_lr_scheduler_class("linear_warmup_step_lr")
    assert [schedule(step, span=span) for step in (5, 14, 15, 25)] == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("compat", ["corrected", "released"])
def test_a_run_may_fall_by_a_factor_every_epoch_but_not_below_its_lowest(compat):
    run = RunConfig(
        task="t",
        output_dir="out",
        lr_sched="linear_warmup_step_lr",
        lr_decay_rate=0.5,
        init_lr=1.0,
        min_lr=0.3,
        max_epoch=4,
        iters_per_epoch=10,
    )
    rate = LearningRate(run, compat=compat)
    assert [rate(step) for step in (0, 9, 10, 19, 20, 39)] == [1.0, 1.0, 0.5, 0.5, 0.3, 0.3]


def test_a_constant_rate_stays_after_its_warmup():
    span = LrSpan(init_lr=1.0, warmup_lr=0.0, warmup_steps=4, num_epochs=9, steps_per_epoch=9)
    schedule = registry.get_lr_scheduler_class("constant_lr")
    assert [schedule(step, span=span) for step in (0, 1, 4, 80)] == [0.0, 0.25, 1.0, 1.0]


class Mixed(nn.Module):
    """One parameter of every sort."""

    def __init__(self):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 4, 6))
        self.positions = nn.Embedding(5, 6)
        # "ln" and "bn" in a name mean nothing: these two decay by their type.
        self.aln_table = nn.Parameter(torch.zeros(3, 6))
        self.subnet = nn.Linear(6, 6)
        self.flat_norm = nn.LayerNorm(6)
        self.square_norm = nn.LayerNorm((2, 6))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.tied = self.subnet


def test_matrices_decay_and_vectors_biases_and_norms_do_not():
    decayed, free = param_groups(Mixed(), weight_decay=0.05)
    assert decayed["names"] == [
        "query_tokens",
        "aln_table",
        "positions.weight",
        "subnet.weight",
    ]
    assert sorted(free["names"]) == [
        "flat_norm.bias",
        "flat_norm.weight",
        "square_norm.bias",
        "square_norm.weight",
        "subnet.bias",
    ]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(nn.Linear(2, 2).requires_grad_(False), weight_decay=0.1)


@pytest.mark.parametrize("branch", ["vl", "al"])
def test_groups_equal_the_published_ones(branch):
    groups = json.loads((GOLDENS / "train_steps.json").read_text())[branch]["groups"]
    published = {name: group["weight_decay"] for group in groups for name in group["names"]}
    tensors = load_file(GOLDENS / "train_steps.safetensors")
    root = nn.Module()
    for name in published:
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(
            leaf, nn.Parameter(torch.zeros_like(tensors[f"{branch}::{name}"]))
        )
    ours = {
        name: group["weight_decay"]
        for group in param_groups(root, weight_decay=0.05)
        for name in group["names"]
    }
    assert ours == published


# --- a learning rate for a part


def two_parts():
    """Return a model of a bridge and a decoder, a matrix and a bias each."""
    return nn.ModuleDict({"bridge": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})


def config_with(*, init_lr=1e-4, **decoder):
    bridge = PartConfig("projection", None, trainable=True)
    branch = BranchConfig(("video",), PartConfig("eva_vit_g", None), {"projection": bridge})
    part = PartConfig("causal_lm", None, **decoder)
    model = ModelConfig("tiny", "tiny", {"video": branch}, part, "none")
    return Config(model, {}, RunConfig(task="x", output_dir="y", init_lr=init_lr))


def test_groups_go_by_part_and_by_decay():
    groups = param_groups(two_parts(), weight_decay=0.1, scales={"bridge": 1.0, "decoder": 0.2})
    assert [(g["name"], g["names"], g["weight_decay"], g["lr_scale"]) for g in groups] == [
        ("bridge", ["bridge.weight"], 0.1, 1.0),
        ("decoder", ["decoder.weight"], 0.1, 0.2),
        ("bridge", ["bridge.bias"], 0.0, 1.0),
        ("decoder", ["decoder.bias"], 0.0, 0.2),
    ]


def test_a_part_with_a_rate_follows_the_schedule_on_its_own_scale():
    config = config_with(trainable=True, lr=2e-5)
    scales = lr_scales(config)
    assert scales == {
        "branches.video.encoder": 1.0,
        "branches.video.stages.projection": 1.0,
        "decoder": pytest.approx(0.2),
    }
    rate = LearningRate(config.run, compat="corrected")
    assert rate(0) * scales["decoder"] == pytest.approx(2e-5)


def test_a_step_moves_each_part_by_its_rate():
    torch.manual_seed(0)
    model = two_parts()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = RunConfig(task="x", output_dir="y", weight_decay=0.0)
    optimizer = build_optimizer(model, run, scales={"bridge": 1.0, "decoder": 0.25})
    engine = TorchEngine(
        model,
        optimizer=optimizer,
        world=World(),
        device=torch.device("cpu"),
        precision="fp32",
    )
    engine.backward(model["decoder"](model["bridge"](torch.randn(3, 2))).square().sum())
    engine.step(lr=0.01)
    # The first step of Adam is the rate itself, whatever the gradient (Kingma and Ba 2015).
    for name, parameter in model.named_parameters():
        moved = (parameter - before[name]).abs()
        expected = 0.01 if name.startswith("bridge") else 0.0025
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-3, atol=0)


def test_a_rate_beside_a_run_without_one_is_refused():
    with pytest.raises(ConfigError, match="model.decoder.lr: 2e-05 .* run.init_lr, which is 0"):
        lr_scales(config_with(init_lr=0.0, trainable=True, lr=2e-5))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lr": 2e-5}, "lr is 2e-05, but the part does not learn"),
        ({"lr": 2e-5, "trainable": ()}, "does not learn"),
        ({"lr": 0.0, "trainable": True}, "lr must be above 0, found 0.0"),
    ],
)
def test_a_rate_of_what_does_not_learn_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        PartConfig("causal_lm", None, **keys)
