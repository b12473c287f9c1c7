"""Layers that are recomputed or compiled learn what they learnt as written, and cost less."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import timedelta

import pytest
import torch
from models.tiny_model import batch_of, build
from torch import nn

from video_llama.common.errors import ConfigError
from video_llama.common.generation import GenerationSettings
from video_llama.common.schema import RunConfig
from video_llama.models import layers
from video_llama.models.layers import compile_backend, compile_layers
from video_llama.models.precision import autocast
from video_llama.runners.engine import _distribute

ENCODER, STAGE, DECODER = ("branches", "video", "encoder"), "joint", ("decoder",)
VIDEO_STAGE = ("branches", "video", "stages", STAGE)
PARTS = {
    "eva_vit_g": ENCODER,
    "imagebind": ("branches", "audio", "encoder"),
    "qformer": VIDEO_STAGE,
    "causal_lm": DECODER,
}


@dataclass
class Step:
    """What a forward and a backward pass gave."""

    loss: float
    gradients: dict[str, torch.Tensor]
    saved_bytes: int


def node_at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def lively(tree):
    """Let encoders learn, give every part two layers and the Q-Formers dropout."""
    for branch in tree["branches"].values():
        branch["encoder"]["trainable"] = True
        branch["stages"]["joint"] |= {"num_layers": 2, "dropout": 0.3}
    tree["branches"]["video"]["encoder"]["depth"] = 2
    tree["branches"]["audio"]["encoder"]["audio_depth"] = 2


def model_of(*recomputed, **decoder):
    """Build the tiny model; the layers of the named parts are recomputed."""

    def change(tree):
        lively(tree)
        tree["decoder"] |= decoder
        for path in recomputed:
            node_at(tree, path)["gradient_checkpointing"] = True

    return build(change).train()


def step(model, *, precision="fp32"):
    saved = 0

    def pack(tensor):
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(3)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, autocast(precision, device="cpu"):
        loss = model(batch_of()).loss_sum
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Step(loss.item(), gradients, saved)


def assert_same(found, expected):
    assert found.loss == expected.loss
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert torch.equal(found.gradients[name], gradient), name


def count_runs(layer):
    """Count how often a layer is run, by its first norm."""
    runs = []
    norm = next(module for module in layer.modules() if "Norm" in type(module).__name__)
    norm.register_forward_hook(lambda *_: runs.append(1))
    return runs


@pytest.fixture(scope="module")
def as_written():
    return step(model_of())


@pytest.mark.parametrize("name", PARTS)
def test_recomputing_a_part_keeps_fewer_bytes_and_gives_the_very_same_gradients(name, as_written):
    model = model_of(PARTS[name])
    part = model.get_submodule(".".join(PARTS[name]))
    runs = [count_runs(layer) for layer in part.repeated_layers()]
    found = step(model)
    assert_same(found, as_written)
    assert found.saved_bytes < as_written.saved_bytes
    assert [len(each) for each in runs] == [2, 2]


def test_all_parts_together_keep_less_than_half_the_bytes(as_written):
    found = step(model_of(*PARTS.values()))
    assert_same(found, as_written)
    assert found.saved_bytes < as_written.saved_bytes / 2


def test_a_frozen_decoder_is_recomputed_although_it_is_in_eval():
    model = model_of(DECODER)
    runs = count_runs(model.decoder.repeated_layers()[0])
    gradients = step(model).gradients
    assert not any(module.training for module in model.decoder.modules())
    assert len(runs) == 2
    assert not any(name.startswith("decoder.") for name in gradients)
    assert gradients["branches.video.stages.projection.linear.weight"].abs().max() > 0


def test_what_autocast_chose_is_chosen_again():
    expected = step(model_of(), precision="bf16")
    assert_same(step(model_of(*PARTS.values()), precision="bf16"), expected)


def test_nothing_is_recomputed_where_no_gradients_are_recorded():
    model = model_of(DECODER).eval()
    runs = count_runs(model.decoder.repeated_layers()[0])
    with torch.no_grad():
        model(batch_of())
    assert len(runs) == 1
    model.generate(batch_of(), settings=GenerationSettings(max_new_tokens=3))
    # The prompt, and two of the three new tokens; the last is not read.
    assert len(runs) == 1 + 3


def test_a_cache_takes_tokens_in_once():
    decoder = model_of(DECODER).decoder
    cache = decoder.new_cache()
    embeds = torch.randn(1, 4, decoder.width, requires_grad=True)
    labels = torch.tensor([[1, 2, 3, 4]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = decoder.loss(embeds, attention_mask=mask, labels=labels, cache=cache)
    loss.token_loss.sum().backward()
    assert cache.get_seq_length() == 4


@pytest.mark.parametrize("stage", ["norm", "projection"])
def test_a_part_without_layers_is_refused_by_name(stage):
    where = f"model.branches.video.stages.{stage}.gradient_checkpointing"
    with pytest.raises(ConfigError, match=f"{where}: this .* has no layers"):
        model_of(("branches", "video", "stages", stage))


def test_a_copy_of_a_model_runs_on_its_own_weights():
    model = model_of(*PARTS.values())
    double = copy.deepcopy(model)
    nn.init.zeros_(double.decoder.repeated_layers()[0].mlp.down_proj.weight)
    assert step(double).loss != step(model).loss


def test_ddp_gets_the_same_gradients(as_written, tmp_path):
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(str(tmp_path / "store"), 1),
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=60),
    )
    try:
        found = step(_distribute(model_of(*PARTS.values())))
    finally:
        torch.distributed.destroy_process_group()
    found.gradients = {name.removeprefix("module."): g for name, g in found.gradients.items()}
    assert_same(found, as_written)


# --- compiling


def compiled_model(backend, *recomputed, dropout=0.0):
    """Build the branch of pictures; without dropout, as compiled layers draw other masks."""

    def change(tree):
        del tree["branches"]["audio"]
        tree["branches"]["video"]["stages"]["joint"] |= {"num_layers": 2, "dropout": dropout}
        for path in recomputed:
            node_at(tree, path)["gradient_checkpointing"] = True

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    layers._compiled.cache_clear()
    model = build(change).train()
    if backend is not None:
        compile_layers(model, backend=backend)
    return model


def video_batch():
    batch = batch_of(with_audio=False)
    del batch.media["audio"]
    return batch


def video_step(model):
    loss = model(video_batch()).loss_sum
    loss.backward()
    return Step(loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, 0)


@pytest.mark.parametrize("recomputed", [(), (VIDEO_STAGE, DECODER)])
def test_layers_that_were_traced_learn_the_same_recomputed_or_not(recomputed):
    assert_close(video_step(compiled_model("aot_eager", *recomputed)))


@pytest.mark.gxx
def test_a_compiled_decoder_learns_the_same_recomputed_or_not():
    for recomputed in ((), (DECODER,)):
        model = compiled_model(None, *recomputed)
        compile_layers(model.decoder, backend="inductor")
        assert_close(video_step(model))


def assert_close(found):
    expected = video_step(compiled_model(None))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_equal_layers_are_compiled_once_and_names_stay():
    model = compiled_model("eager", DECODER, dropout=0.1)
    video_step(model)
    # One graph for two decoder layers, one for two layers of the Q-Former.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert model.state_dict().keys() == compiled_model(None).state_dict().keys()


def test_compiled_code_runs_only_while_gradients_are_recorded(monkeypatch):
    model = compiled_model("eager")
    layer, calls = model.decoder.repeated_layers()[0], []
    plain = type(layer).forward
    monkeypatch.setattr(
        layer.forward, "compiled", lambda *args, **kw: calls.append(1) or plain(*args, **kw)
    )
    video_step(model)
    assert len(calls) == 1
    model.eval().generate(video_batch(), settings=GenerationSettings(max_new_tokens=2))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("value", "backend"),
    [(False, None), (True, "inductor"), ("inductor", "inductor"), ("aot_eager", "aot_eager")],
)
def test_the_key_names_a_backend(value, backend, monkeypatch):
    monkeypatch.setattr(layers.shutil, "which", lambda name: f"/usr/bin/{name}")
    run = RunConfig(task="x", output_dir="y", compile=value)
    assert compile_backend(run, device="cpu") == backend


def test_a_missing_compiler_is_named_before_anything_is_built(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    run = RunConfig(task="x", output_dir="y", compile=True)
    with pytest.raises(ConfigError, match=r"run.compile: needs a compiler .* g\+\+, clang\+\+"):
        compile_backend(run, device="cpu")
    monkeypatch.setenv("CXX", "my-compiler")
    with pytest.raises(ConfigError, match=r"found none of my-compiler"):
        compile_backend(run, device="cpu")


def test_batches_of_many_lengths_need_few_compiled_variants():
    model = compiled_model("eager")
    for length in range(3, 13):
        batch = batch_of(with_audio=False, text=tuple(range(3, 3 + length)))
        del batch.media["audio"]
        model(batch).loss_sum.backward()
    # Of each kind one for the first length and one for all others, and twice that for the first
    # layer of the Q-Former, whose queries are the same in every row.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6
