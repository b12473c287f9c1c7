"""What a batch costs by its shapes is what the network costs when it runs on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.types import Batch, BranchInput
from video_llama.models.costs import CostMeter, Uncountable
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.flop_rate import measure_flop_rate, peak_flops

RUN_FILE = Path(__file__).parents[2] / "train_configs" / "toy" / "visionbranch_stage1_pretrain.yaml"
ROWS, LENGTH, TARGETS = 3, 90, 110


def config(*options):
    return load(RUN_FILE, options=["run.peak_tflops=2", *options])


@pytest.fixture(scope="module")
def rate():
    return measure_flop_rate(config(), device="cpu")


@pytest.fixture(scope="module")
def meter():
    with torch.device("meta"):
        model = VideoLLM(config().model)
    return CostMeter(model, precision="fp32")


def batch(*, num_real=LENGTH, **media):
    labels = torch.full((ROWS, LENGTH), -100)
    labels.view(-1)[1 : 1 + TARGETS] = 0
    # The label of a row's first position is predicted by nothing.
    labels[:, 0] = -100
    empty = torch.zeros(ROWS, LENGTH)
    mask = (torch.arange(LENGTH) < num_real).expand(ROWS, -1)
    return Batch(empty, mask, labels, empty, [], media, ["a"] * ROWS)


def test_a_batch_of_text_costs_what_the_decoder_does(rate, meter):
    text = batch()
    targets = int((text.labels != -100).sum())
    counted = meter.decoder(rows=ROWS, length=LENGTH, targets=targets).total_flops
    assert rate.flops(text) == pytest.approx(counted, rel=1e-6)


def test_padding_costs_what_attention_does_with_it(rate, meter):
    short = meter.decoder(rows=ROWS, length=60, targets=TARGETS).total_flops
    pairs = ROWS * (LENGTH**2 - 60**2) * rate.per_pair
    targets = int((batch().labels != -100).sum()) - TARGETS
    counted = short + pairs + targets * rate.per_target
    assert rate.flops(batch(num_real=60)) == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [["model.decoder.attention=flash_attention_2"], ["run.engine=deepspeed", "run.zero.stage=3"]],
    ids=["attention", "ZeRO 3"],
)
def test_a_decoder_that_computes_padding_is_counted_with_it(options):
    padded = measure_flop_rate(config(*options), device="cpu")
    assert padded.flops(batch(num_real=60)) == padded.flops(batch())


def test_cached_rows_cost_nothing_before_the_frontier(rate, meter):
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 1:] = False
    media = BranchInput(
        raw=torch.zeros(2, 8, 0),
        raw_mask=mask,
        raw_rows=torch.arange(2),
        cached_rows=torch.arange(2, 5),
    )
    tail, clip, picture = (
        meter.branch("video", raw=raw, cached=5 - raw, steps=steps).total_flops
        for raw, steps in ((0, 8), (1, 8), (1, 1))
    )
    counted = tail + (clip - tail) + (picture - tail)
    assert rate.flops(batch(video=media)) - rate.flops(batch()) == pytest.approx(counted, rel=1e-6)


def test_layers_computed_again_are_no_more_work_done(rate):
    again = config(
        "model.decoder.gradient_checkpointing=true",
        "model.branches.video.stages.video_qformer.gradient_checkpointing=true",
    )
    assert measure_flop_rate(again, device="cpu").flops(batch()) == rate.flops(batch())


def test_a_part_that_cannot_be_counted_costs_the_mfu_and_not_the_run(monkeypatch):
    def refuse(*_, **__):
        raise Uncountable("odd kernels")

    lines = []
    monkeypatch.setattr(CostMeter, "decoder", refuse)
    monkeypatch.setattr(get_logger(), "warning", lambda text, *values: lines.append(text % values))
    assert measure_flop_rate(config(), device="cpu") is None
    assert "odd kernels" in lines[0]


def test_a_given_peak_counts_and_an_unknown_one_is_not_made_up():
    assert peak_flops(config().run, device="cpu") == 2e12
    assert measure_flop_rate(load(RUN_FILE), device="cpu") is None


def test_a_peak_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="peak_tflops"):
        config("run.peak_tflops=0")
