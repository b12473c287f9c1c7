"""Another encoder is another block of YAML: the same model learns with it, from one step on."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from models.test_every_part import ENCODERS
from models.tiny_model import batch_of, build, raw_input
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_llama.common.types import AudioSpec
from video_llama.models.costs import CostMeter
from video_llama.models.layers import LearningForward

CASES = [
    (name, number)
    for name in ("clip_vit", "languagebind", "timm_vit", "hf_audio")
    for number in range(len(ENCODERS[name]))
]


def model_with(name, number, **keys):
    """The tiny model; the branch that suits the encoder has it, and lets it learn."""
    sizes = copy.deepcopy(ENCODERS[name][number])
    branch = "audio" if name == "hf_audio" else "video"
    counts = {"num_clips": 2} if branch == "audio" else {"num_frames": 3}

    def change(tree):
        encoder = {"type": name, **sizes, **counts, "trainable": True, **keys}
        tree["branches"][branch]["encoder"] = encoder

    return build(change).train(), branch


def batch_for(model, branch):
    batch = batch_of()
    spec = model.branches[branch].spec
    rows = len(batch.media[branch].raw)
    shape = (rows, spec.num_steps, *spec.step_shape)
    raw = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return dataclasses.replace(batch, media={**batch.media, branch: raw_input(raw)})


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_step_moves_the_encoder_and_lowers_the_loss(name, number):
    model, branch = model_with(name, number)
    assert isinstance(model.branches[branch].spec, AudioSpec) == (branch == "audio")
    batch = batch_for(model, branch)
    encoder = model.branches[branch].encoder
    before = [p.detach().clone() for p in encoder.parameters()]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-3)
    loss = model(batch).loss_sum
    loss.backward()
    optimizer.step()
    # The bias of keys changes no attention, so it has no gradient.
    reached = [bool(p.grad.any()) for p in encoder.parameters()]
    assert sum(reached) > 0.9 * len(reached)
    assert any(not torch.equal(p, old) for p, old in zip(encoder.parameters(), before, strict=True))
    assert model(batch).loss_sum < loss


@pytest.mark.parametrize(("name", "number"), [case for case in CASES if case != ("timm_vit", 1)])
def test_recomputed_layers_give_the_same_gradients(name, number):
    found = []
    for recomputes in (False, True):
        model, branch = model_with(name, number, gradient_checkpointing=recomputes)
        encoder = model.branches[branch].encoder
        assert any(isinstance(m.forward, LearningForward) for m in encoder.modules()) == recomputes
        model(batch_for(model, branch)).loss_sum.backward()
        found.append({name: p.grad for name, p in encoder.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, msg=key)


@pytest.mark.parametrize(
    ("name", "number", "rows"), [(*case, 1) for case in CASES] + [("languagebind", 0, 2)]
)
def test_a_plan_counts_what_the_encoder_really_computes(name, number, rows):
    model, branch = model_with(name, number, trainable=rows > 1)
    row = raw_input(batch_for(model, branch).media[branch].raw[:rows])
    # Written out, because torch's counter does not know the CPU's own kernel.
    written_out = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), written_out, FlopCounterMode(display=False) as counter:
        model.branches[branch](row)
    found = CostMeter(model, precision="fp32").branch(branch, raw=rows).forward_flops
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)
