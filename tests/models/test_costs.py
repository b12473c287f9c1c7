"""Costs found without data are those of the same network with data, and those of the textbooks."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from video_llama.common.config import load
from video_llama.common.types import BranchInput
from video_llama.models.costs import CostMeter, Uncountable
from video_llama.models.video_llm import VideoLLM

CONFIGS = Path(__file__).parents[2] / "train_configs"
# A kernel for CPUs hides its products from torch's counter; written out they are seen.
EAGER = "model.decoder.attention=eager"
ROWS, LENGTH, TARGETS = 3, 48, 60


def model_of(*options, recipe="toy/visionbranch_stage1_pretrain.yaml"):
    config = load(CONFIGS / recipe, options=options).model
    with torch.device("meta"):
        return VideoLLM(config)


@functools.cache
def shared_meter(*options, precision="fp32"):
    """A meter of a model that several tests may ask and none may change."""
    return CostMeter(model_of(*options), precision=precision)


def with_data(*options):
    """The same model, really there; what its weights are changes no cost."""
    model = model_of(*options).to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model.train()


def run_decoder(decoder):
    """Run what `CostMeter.decoder` describes; the same words are supervised in number."""
    labels = torch.full((ROWS, LENGTH), -100)
    labels[:, 1 : 1 + TARGETS // ROWS] = 0
    embeds = torch.zeros(ROWS, LENGTH, decoder.width, requires_grad=True)
    mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    return decoder.loss(embeds, attention_mask=mask, labels=labels).token_loss


def media(num_rows):
    return BranchInput(
        raw=torch.zeros(num_rows, 8, 3, 64, 64),
        raw_mask=torch.ones(num_rows, 8, dtype=torch.bool),
        raw_rows=torch.arange(num_rows),
    )


def real_flops(run):
    counter = FlopCounterMode(display=False)
    with counter:
        run().sum().backward()
    return counter.get_total_flops()


def saved_bytes(run, model):
    """Bytes that autograd keeps, each storage once, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(saved.values())


@pytest.mark.parametrize("learns", ["false", "true"])
def test_a_decoder_costs_what_torch_counts_with_data(learns):
    options = (EAGER, f"model.decoder.trainable={learns}")
    model = with_data(*options)
    real = real_flops(lambda: run_decoder(model.decoder))
    cost = shared_meter(*options).decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    assert cost.total_flops == pytest.approx(real, rel=0.01)


def test_a_branch_costs_what_torch_counts_with_data():
    model = with_data()
    branch = model.branches["video"]
    real = real_flops(lambda: branch(media(2)).features.tokens)
    tiny = shared_meter()
    tail, one_raw = (tiny.branch("video", raw=raw, cached=2 - raw) for raw in (0, 1))
    counted = tail.total_flops + 2 * (one_raw.total_flops - tail.total_flops)
    # Attention is not in torch's number: it has no formula for the kernel of a CPU.
    assert 0.9 * counted < real < counted


def test_an_encoder_that_learns_costs_what_torch_counts_with_data():
    learns = "model.branches.video.encoder.trainable=true"
    model, tiny = with_data(learns), shared_meter(learns)
    branch = model.branches["video"]
    real = real_flops(lambda: branch(media(2)).features.tokens)
    assert not tiny.has_frontier("video")
    counted = tiny.branch("video", raw=2).total_flops
    # Attention of the Q-Formers and of the encoder is not in torch's number.
    assert 0.8 * counted < real < counted


def test_a_frozen_decoder_costs_two_operations_a_weight_forward_and_two_backward():
    model = model_of(EAGER)
    config = model.decoder.model.config
    parameters = model.decoder.named_parameters()
    layers = [p.numel() for name, p in parameters if ".layers." in name and p.ndim == 2]
    words = config.vocab_size * config.hidden_size * TARGETS
    # Scores and their use: two products of L x L x H in every layer.
    attention = 2 * config.num_hidden_layers * ROWS * LENGTH**2 * config.hidden_size
    forward = 2 * (sum(layers) * ROWS * LENGTH + words + attention)
    cost = CostMeter(model, precision="fp32").decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    assert cost.forward_flops == pytest.approx(forward, rel=0.01)
    # Gradients of inputs alone; both factors of attention are activations and have one each.
    assert cost.total_flops == pytest.approx(2 * forward + 2 * attention, rel=0.01)


def test_attention_is_counted_whatever_kernel_computes_it():
    written_out, fused = (
        shared_meter(*options).decoder(rows=ROWS, length=LENGTH, targets=TARGETS).forward_flops
        for options in ([EAGER], [])
    )
    assert fused == pytest.approx(written_out, rel=1e-3)


def test_the_published_encoder_takes_half_a_tera_operations_a_frame():
    # 985,894,528 weights on 257 tokens, and attention among these in 39 blocks of width 1408.
    frame = 2 * 985_894_528 * 257 + 4 * 257**2 * 1408 * 39
    option = "model.branches.video.stages.image_qformer=null"
    model = model_of(option, recipe="visionbranch_stage1_pretrain.yaml")
    full = CostMeter(model, precision="bf16")
    fresh, cached = (full.branch("video", raw=raw, cached=1 - raw) for raw in (1, 0))
    assert fresh.total_flops - cached.total_flops == pytest.approx(8 * frame, rel=0.02)


def test_a_picture_costs_an_eighth_of_a_clip_of_eight_frames_in_the_encoder():
    tiny = shared_meter("model.branches.video.stages.image_qformer=null")
    nothing = tiny.branch("video", raw=0, cached=1).total_flops
    one, eight = (tiny.branch("video", raw=1, steps=n).total_flops - nothing for n in (1, 8))
    assert eight == pytest.approx(8 * one, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_bytes_are_those_autograd_saves(precision):
    options = ("model.decoder.trainable=true",) if precision == "fp32" else ()
    model = with_data(*options)
    meter = shared_meter(*options, precision=precision)
    cost = meter.decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        real = saved_bytes(lambda: run_decoder(model.decoder), model)
    assert cost.kept_bytes == pytest.approx(real, rel=0.2)
    assert cost.peak_bytes >= cost.kept_bytes


def test_kept_bytes_of_a_branch_are_those_autograd_saves():
    model = with_data()
    branch = model.branches["video"]
    real = saved_bytes(lambda: branch(media(2)).features.tokens, model)
    cost = shared_meter().branch("video", raw=1, cached=1)
    assert cost.kept_bytes == pytest.approx(real, rel=0.2)


def test_layers_computed_again_cost_a_forward_pass_and_keep_little():
    tiny = CostMeter(model_of(EAGER), precision="fp32")
    tiny.recompute("nowhere")
    plain = tiny.decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    tiny.recompute("everywhere")
    again = tiny.decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    layers = plain.forward_flops - 2 * tiny_words(tiny) * TARGETS
    # The last product of a layer is nobody's input there, so it is not made again.
    assert 0.7 * layers < again.total_flops - plain.total_flops < layers
    assert again.kept_bytes < plain.kept_bytes / 2


def tiny_words(tiny):
    config = tiny._model.decoder.model.config
    return config.vocab_size * config.hidden_size


def test_operations_are_told_apart_by_dtype():
    halves = shared_meter("model.decoder.dtype=bfloat16", precision="bf16")
    cost = halves.decoder(rows=ROWS, length=LENGTH, targets=TARGETS)
    assert cost.flops["bfloat16"] > 0.95 * cost.total_flops


def test_a_network_that_looks_at_its_data_is_refused_by_name(monkeypatch):
    tiny = shared_meter()
    monkeypatch.setattr(tiny._model.decoder, "loss", lambda embeds, **_: embeds.numpy())
    with pytest.raises(Uncountable, match="without data"):
        tiny.decoder(rows=ROWS, length=LENGTH, targets=TARGETS)


def test_flash_attention_is_counted_as_what_a_cpu_has_instead():
    flash, fused = (
        shared_meter(*options).decoder(rows=ROWS, length=LENGTH, targets=TARGETS).total_flops
        for options in (["model.decoder.attention=flash_attention_2"], [])
    )
    assert flash == fused
