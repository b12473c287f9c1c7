"""The shipped toy eyes, and how such eyes are made."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from video_llama.common.types import Shape
from video_llama.common.weights import load_weights, read_state
from video_llama.foundations.fit import Schedule, Trained, fit
from video_llama.foundations.frames import Frames, make_frames, normalise
from video_llama.foundations.vision import (
    EVA_CONFIG,
    EVA_FILE,
    LN_VISION_KEYS,
    QFORMER_FILE,
    Eyes,
    VisionRecipe,
    export_vision,
    train_vision,
)
from video_llama.foundations.whitening import EPS, GAIN, sine_positions, whitening_of

SHIPPED = Path(str(importlib.resources.files("video_llama") / "foundations" / "toy"))
TINY = VisionRecipe(3, 2, Schedule(num_steps=2, batch_size=4, lr=1e-3))


@pytest.fixture(scope="module")
def shipped_eyes() -> Eyes:
    eyes = Eyes()
    state = read_state(SHIPPED / QFORMER_FILE)
    norm = {name: state[name] for name in state if name.startswith("ln_vision.")}
    rest = {name: state[name] for name in state if name not in norm}
    encoder = eyes.encoder
    load_weights(
        encoder, read_state(SHIPPED / EVA_FILE), key_map=encoder.key_map(), source=EVA_FILE
    )
    load_weights(eyes.qformer, rest, key_map=eyes.qformer.key_map(), source=QFORMER_FILE)
    load_weights(eyes.norm, norm, key_map=LN_VISION_KEYS, source=QFORMER_FILE)
    return eyes.eval()


@pytest.fixture(scope="module")
def frames() -> Frames:
    return make_frames(100, seed=77, split="valid")


@torch.no_grad()
def mean_queries(eyes: Eyes, frames: Frames) -> Tensor:
    return eyes(normalise(frames.pixels))[1].mean(dim=1)


@pytest.fixture(scope="module")
def shipped_queries(shipped_eyes: Eyes, frames: Frames) -> Tensor:
    return mean_queries(shipped_eyes, frames)


def probe(known: Tensor, wanted: Tensor, unknown: Tensor) -> Tensor:
    """Predict from `unknown` what ridge regression learned from `known`."""
    ones = torch.ones(len(known), 1)
    inputs = torch.cat([known, ones], dim=1).double()
    gram = inputs.T @ inputs + 1e-2 * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(gram, inputs.T @ wanted.double())
    return (torch.cat([unknown, torch.ones(len(unknown), 1)], dim=1).double() @ weights).float()


def test_the_file_has_the_published_names():
    names = set(read_state(SHIPPED / EVA_FILE))
    assert {"cls_token", "pos_embed", "blocks.0.attn.q_bias", "patch_embed.proj.weight"} <= names
    names = set(read_state(SHIPPED / QFORMER_FILE))
    assert {"query_tokens", "ln_vision.weight"} <= names
    assert "Qformer.bert.encoder.layer.0.crossattention.self.key.weight" in names


def share_told(queries: Tensor, frames: Frames, *, column: str) -> float:
    """Share of right answers to "is there something of this colour (shape)?" on unseen clips."""
    half = len(frames.pixels) // 2
    truth = frames.presence.any(dim=2 if column == "colour" else 1)
    told = probe(queries[:half], truth[:half], queries[half:]) > 0.5
    return (told == truth[half:]).float().mean().item()


@pytest.mark.parametrize(("column", "least"), [("colour", 0.95), ("shape", 0.88)])
def test_what_is_there_stands_linearly_in_the_mean_of_the_queries(
    shipped_queries: Tensor, frames: Frames, column: str, least: float
):
    assert share_told(shipped_queries, frames, column=column) > least


def test_eyes_that_learned_nothing_do_not_tell_shapes(frames: Frames):
    torch.manual_seed(0)
    queries = mean_queries(Eyes().eval(), frames)
    assert share_told(queries, frames, column="shape") < 0.8


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    torch.set_num_threads(1)
    return train_vision(seed=5, recipe=TINY)


def test_equal_seeds_give_equal_weights(hardly_trained):
    again = train_vision(seed=5, recipe=TINY).files
    for file, tensors in hardly_trained.files.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, again[file][name]), name


def test_gates_are_missed_by_eyes_that_learned_nothing(hardly_trained):
    assert not all(gate.is_passed for gate in hardly_trained.gates)


def test_exported_weights_are_the_trained_ones():
    eyes = Eyes()
    files = export_vision(eyes)
    assert torch.equal(files[QFORMER_FILE]["ln_vision.bias"], eyes.norm.bias)
    assert torch.equal(files[EVA_FILE]["pos_embed"], eyes.encoder.vit.pos_embed)


def test_a_frame_s_truth_is_where_its_colour_is(frames: Frames):
    alone = frames.presence.flatten(1).sum(dim=1) == 1
    for row in alone.nonzero()[:20, 0].tolist():
        colour = int(frames.presence[row].any(dim=1).nonzero()[0, 0])
        x, y, _ = (frames.place[row, colour] * 32).tolist()
        middle = frames.pixels[row, round(y + 32), round(x + 32)].float()
        corner = frames.pixels[row, 0, 0].float()
        assert (middle - corner).abs().max() > 40


def test_whitened_patches_are_white():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(48, 48, generator=generator)
    patches = torch.randn(4000, 48, generator=generator) @ mixing + 1
    # Each patch of 4 x 4 pixels is a picture of its own.
    start = whitening_of(patches.reshape(-1, 3, 4, 4), patch_size=4, width=8)
    white = patches @ start.weight.flatten(1).T + start.bias
    assert white.mean(dim=0).abs().max() < 1e-3
    # The largest axes have far more variance than EPS, so what is left of it is GAIN squared.
    assert EPS < 0.1
    torch.testing.assert_close(torch.cov(white.T), GAIN**2 * torch.eye(8), atol=1e-2, rtol=0)


def test_no_two_places_have_the_same_position():
    grid = sine_positions(8, width=96)
    assert grid.shape == (1, 65, 96)
    assert torch.pdist(grid[0]).min() > 0.1


def test_the_learning_rate_rises_then_falls_to_nothing():
    schedule = Schedule(num_steps=100, batch_size=1, lr=1.0, warmup_steps=10)
    rates = [schedule.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(0.91)
    assert rates[99] == pytest.approx(0.01)


def test_fit_finds_the_slope_of_a_line():
    line = torch.nn.Linear(1, 1)
    points = torch.linspace(-1, 1, 64)[:, None]
    curve = fit(
        [line],
        loss_of=lambda rows: ((line(points[rows]) - 3 * points[rows]) ** 2).mean(),
        num_examples=64,
        schedule=Schedule(num_steps=400, batch_size=16, lr=0.1, weight_decay=0.0),
        seed=0,
        probe=lambda: {"slope": line.weight.item()},
        name="line",
    )
    assert [point["step"] for point in curve] == [250, 400]
    assert curve[-1]["slope"] == pytest.approx(3, abs=0.05)


def test_the_eyes_have_the_shapes_the_preset_asks_for():
    assert EVA_CONFIG.out_shape(8) == Shape(num_steps=8, num_tokens=65, width=96)
