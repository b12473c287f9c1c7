"""The in-loop validation of captions and instructions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from video_llama.common.types import LossOutput
from video_llama.tasks.video_text_pretrain import VideoTextPretrain


@dataclass
class FakeBatch:
    dataset: str
    losses: list[float]
    targets: list[int]


def model(batch):
    return LossOutput(
        loss_sum=torch.tensor(sum(batch.losses)),
        num_targets=torch.tensor(sum(batch.targets)),
        sample_loss=torch.tensor(batch.losses),
        sample_targets=torch.tensor(batch.targets),
    )


def test_the_loss_is_a_mean_over_tokens_and_not_over_batches():
    batches = [FakeBatch("captions", [6.0], [2]), FakeBatch("captions", [1.0, 1.0], [4, 2])]
    assert VideoTextPretrain().evaluate(model, batches) == {"valid_loss": 1.0}


def test_several_data_sets_are_told_apart():
    batches = [FakeBatch("captions", [6.0], [2]), FakeBatch("questions", [2.0], [2])]
    metrics = VideoTextPretrain().evaluate(model, batches)
    assert metrics == {"valid_loss": 2.0, "valid_loss/captions": 3.0, "valid_loss/questions": 1.0}


def test_nothing_to_validate_on_gives_no_number():
    assert math.isnan(VideoTextPretrain().evaluate(model, [])["valid_loss"])


def test_training_minimises_what_the_model_returns():
    output = VideoTextPretrain().train_step(model, FakeBatch("captions", [6.0], [2]))
    assert float(output.loss_sum) == pytest.approx(6.0)
