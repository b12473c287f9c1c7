"""Decoders in 8 and 4 bits: what becomes smaller, what stays, what they still can and cannot do."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig, PartConfig
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.decoders import low_resource as module
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.lora import Lora
from video_llama.models.decoders.low_resource import (
    reduced_bytes,
    reduced_layers,
    require_bitsandbytes,
)
from video_llama.models.decoders.placement import build_decoder
from video_llama.models.trainable import part_row, set_mode, set_trainable
from video_llama.models.video_llm import VideoLLM
from video_llama.models.weight_sizes import held_bytes, planned_bytes

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

# Sizes that the kernel for bfloat16 CPUs would take too: multiples of 32.
WIDTH, INNER, LAYERS, WORDS = 64, 192, 2, 100
LINEAR = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER
LORA = {"lora": Lora(rank=4), "dtype": "bfloat16"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        vocab_size=WORDS,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def model_config(directory, *, bits="none", trainable=False, **settings):
    config = CausalLM.Config(**{"dtype": "bfloat16", **settings})
    part = PartConfig("causal_lm", config, weights=directory, trainable=trainable)
    return ModelConfig(
        "video_llama", "x", branches={}, decoder=part, template="vicuna_v0", low_resource=bits
    )


def build(directory, *, bits, **settings):
    return build_decoder(model_config(directory, bits=bits, **settings))


@pytest.fixture(scope="module")
def decoders(directory):
    return {bits: build(directory, bits=bits) for bits in ("none", "8bit", "4bit")}


def logits_of(decoder, *, length=20):
    embeds = decoder.embed(torch.arange(length)[None])
    with torch.no_grad():
        return decoder.logits(decoder(embeds, attention_mask=None))


def loss_of(decoder):
    ids = torch.arange(3, 23)[None]
    labels = torch.where(ids > 8, ids, IGNORE_INDEX)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return decoder.loss(decoder.embed(ids), attention_mask=mask, labels=labels).token_loss.mean()


# int8 has 8 bits of the largest weight of a row; nf4 16 values per 64 weights (about 10 % of RMS).
@pytest.mark.parametrize(("bits", "tolerance"), [("8bit", 0.03), ("4bit", 0.2)])
def test_logits_stay_close_to_those_of_whole_weights(decoders, bits, tolerance):
    whole, reduced = logits_of(decoders["none"]), logits_of(decoders[bits])
    error = ((reduced - whole).norm() / whole.norm()).item()
    assert 0 < error < tolerance


def test_eight_bits_are_closer_than_four(decoders):
    whole = logits_of(decoders["none"])
    eight, four = ((logits_of(decoders[bits]) - whole).norm() for bits in ("8bit", "4bit"))
    assert eight < four / 3


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_greedy_answer_is_the_same_read_word_by_word_or_anew(decoders, bits):
    decoder = decoders[bits]
    ids, cache, answer = list(range(5, 15)), decoder.new_cache(), []
    new = ids
    for _ in range(6):
        with torch.no_grad():
            embeds = decoder.embed(torch.tensor([new]))
            logits = decoder.step(embeds, attention_mask=None, cache=cache)
            anew = decoder.embed(torch.tensor([ids + answer]))
            again = decoder.logits(decoder(anew, attention_mask=None)[:, -1])
        new = [int(logits.argmax())]
        assert new == [int(again.argmax())]
        answer += new


@pytest.mark.parametrize(
    ("bits", "layer", "dtype"),
    [("8bit", "Linear8bitLt", torch.int8), ("4bit", "Linear4bit", torch.uint8)],
)
def test_layers_of_the_blocks_are_those_of_bitsandbytes(decoders, bits, layer, dtype):
    reduced = dict(reduced_layers(decoders[bits].model))
    assert len(reduced) == 7 * LAYERS
    assert {type(found).__name__ for found in reduced.values()} == {layer}
    assert {found.weight.dtype for found in reduced.values()} == {dtype}


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_embeddings_head_and_norms_keep_their_dtype_and_values(decoders, bits):
    names = [
        "embed_tokens",
        "norm",
        "layers.0.input_layernorm",
        "layers.1.post_attention_layernorm",
    ]
    for name in [*(f"model.{name}.weight" for name in names), "lm_head.weight"]:
        whole, reduced = (decoders[b].model.get_parameter(name) for b in ("none", bits))
        assert reduced.dtype is torch.bfloat16
        assert reduced.equal(whole)


def test_the_layers_that_will_be_reduced_are_known_before_loading(decoders, directory):
    with torch.device("meta"):
        planned = build(directory, bits="4bit", **LORA)
    names = {name.replace(".base_layer", "") for name, _ in reduced_layers(planned.model)}
    assert names == {name for name, _ in reduced_layers(decoders["4bit"].model)}


def test_the_size_of_a_layer_by_hand():
    layer = torch.nn.Linear(64, 176, bias=False, dtype=torch.bfloat16)
    assert reduced_bytes(layer, "none") == 64 * 176 * 2
    # A scale for every output in float32.
    assert reduced_bytes(layer, "8bit") == 64 * 176 + 4 * 176
    # Half a byte a weight; 11,264 / 64 = 176 scales of one byte; one scale of those; 16 values
    # of nf4, 256 of the scales' and their mean, all in float32.
    assert reduced_bytes(layer, "4bit") == 5632 + 176 + 4 + 4 * (16 + 256 + 1)


@pytest.mark.parametrize("bits", ["none", "8bit", "4bit"])
def test_the_plan_of_the_weights_is_what_they_take_to_the_byte(directory, bits):
    config = model_config(directory, bits=bits)
    with torch.device("meta"):
        planned = planned_bytes(VideoLLM(config))
    assert sum(planned.values()) == held_bytes(VideoLLM(config))
    whole = 2 * LAYERS * LINEAR
    assert (
        planned.get(bits, whole) <= {"none": whole, "8bit": 0.55 * whole, "4bit": 0.4 * whole}[bits]
    )


def test_the_size_does_not_change_by_use(directory):
    for bits in ("8bit", "4bit"):
        decoder = build(directory, bits=bits)
        before = held_bytes(decoder)
        logits_of(decoder)
        assert held_bytes(decoder) <= before


def test_the_table_of_parts_counts_weights_not_bytes(decoders):
    counts = [
        part_row(decoder, name="d", type_name="d", weights="w").num_params
        for decoder in decoders.values()
    ]
    assert len(set(counts)) == 1


# --- gradients


def gradients(decoder):
    """Gradients of adapters and of what comes before the decoder."""
    decoder.zero_grad()
    set_mode(decoder, True)
    loss = loss_of(decoder)
    loss.backward()
    return {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_have_gradients_after_a_validation_too(directory, bits):
    decoder = build(directory, bits=bits, **LORA)
    set_trainable(decoder, ["*lora_*"], where="model.decoder")
    before = gradients(decoder)
    assert len(before) == 2 * 4 * LAYERS
    assert all(grad.abs().max() > 0 for name, grad in before.items() if "lora_B" in name)
    set_mode(decoder, False)
    with torch.no_grad():
        loss_of(decoder)
    after = gradients(decoder)
    assert before.keys() == after.keys()
    for name, grad in before.items():
        torch.testing.assert_close(after[name], grad)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_what_stands_before_a_frozen_decoder_has_gradients_after_a_validation_too(directory, bits):
    decoder = build(directory, bits=bits)
    set_trainable(decoder, False, where="model.decoder")
    embeds = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(2))
    embeds.requires_grad_()
    mask = torch.ones(1, 6, dtype=torch.bool)
    labels = torch.tensor([[IGNORE_INDEX] * 3 + [5, 6, 7]])
    found = []
    for _ in range(2):
        losses = decoder.loss(embeds, attention_mask=mask, labels=labels).token_loss
        found += torch.autograd.grad(losses.sum(), embeds)
        logits_of(decoder)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_learn_beside_fewer_bits_what_they_learn_beside_whole_weights(directory, bits):
    found = []
    for kept_in in ("none", bits):
        torch.manual_seed(1)
        decoder = build(directory, bits=kept_in, **LORA)
        set_trainable(decoder, ["*lora_*"], where="model.decoder")
        assert {p.dtype for p in decoder.parameters() if p.requires_grad} == {torch.float32}
        grads = gradients(decoder)
        found.append(torch.cat([grads[name].flatten() for name in sorted(grads)]))
    assert functional.cosine_similarity(*found, dim=0) > 0.98


# --- refusals


@pytest.mark.parametrize(("trainable", "first"), [(True, 14), (("model.model.layers.1.mlp.*",), 3)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_in_fewer_bits_cannot_learn(directory, trainable, first, device):
    said = rf"model.decoder.trainable: {first} layers .*low_resource cannot learn.*lora_"
    with torch.device(device), pytest.raises(ConfigError, match=said):
        VideoLLM(model_config(directory, bits="8bit", trainable=trainable))


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda n: None if n == "bitsandbytes" else find(n)
    )
    with pytest.raises(
        ConfigError, match=r"4bit needs bitsandbytes; run: pip install bitsandbytes"
    ):
        require_bitsandbytes("4bit", device="cpu")
    require_bitsandbytes("none", device="cpu")


def test_a_device_that_bitsandbytes_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"8bit works on cpu, cuda, xpu, and the device is 'mps'"):
        require_bitsandbytes("8bit", device="mps")


def test_a_decoder_from_random_weights_is_refused():
    architecture = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1}
    with pytest.raises(ConfigError, match="for a decoder that is loaded"):
        build(None, bits="4bit", architecture=architecture)


def test_adapters_cannot_be_merged_into_rounded_weights(directory):
    decoder = build(directory, bits="4bit", **LORA)
    with pytest.raises(ConfigError, match="4bit cannot be merged with adapters"):
        decoder.merge_adapters()


def test_a_reduced_decoder_is_not_saved_whole_and_nothing_is_half_written(directory, tmp_path):
    model = VideoLLM(model_config(directory, bits="8bit"))
    with pytest.raises(ConfigError, match="8bit cannot be saved whole"):
        model.save_pretrained(tmp_path / "new", full=True)
    assert not (tmp_path / "new").exists()


def test_a_saved_folder_remembers_the_bits_and_may_be_told_others(directory, tmp_path):
    model = VideoLLM(model_config(directory, bits="8bit", trainable=("*lora_*",), **LORA))
    folder = model.save_pretrained(tmp_path)
    again = VideoLLM.from_pretrained(folder)
    assert again.config.low_resource == "8bit"
    assert logits_of(again.decoder).equal(logits_of(model.decoder))
    whole = VideoLLM.from_pretrained(folder, options=["model.low_resource=none"])
    assert not {torch.int8, torch.uint8} & {p.dtype for p in whole.parameters()}


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_whole_weights_of_a_checkpoint_do_not_go_into_rounded_layers(directory, tmp_path, bits):
    merged = VideoLLM(model_config(directory, **LORA))
    merged.merge_adapters()
    merged.save_pretrained(tmp_path / "merged")
    merged.save_pretrained(tmp_path / "whole", full=True)
    low = [f"model.low_resource={bits}"]
    with pytest.raises(CheckpointMismatch, match="8 weights of the decoder's own layers"):
        VideoLLM.from_pretrained(tmp_path / "merged", options=low)
    # What was saved whole has them in the decoder's directory, and there alone.
    assert not (tmp_path / "whole" / "trainable.safetensors").exists()
    reduced = build(str(tmp_path / "whole" / "decoder"), bits=bits)
    assert logits_of(reduced).equal(logits_of(build(directory, bits=bits)))


def test_a_decoder_of_another_kind_is_refused(directory, monkeypatch):
    config = model_config(directory, bits="4bit")

    class Plain:
        def __init__(self, part: PartConfig) -> None:
            raise AssertionError("must not be built")

    monkeypatch.setattr(registry, "get_decoder_class", lambda name: Plain)
    with pytest.raises(ConfigError, match="knows neither model.low_resource nor run.device_map"):
        build_decoder(config)
