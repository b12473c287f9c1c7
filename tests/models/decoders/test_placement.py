"""Decoders on several devices: the same answers, and device maps that cannot work are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.errors import ConfigError
from video_llama.common.schema import PartConfig
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.placement import Placement, check_placement, memory_for_decoder

accelerate = pytest.importorskip("accelerate")
LLAMA = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    vocab_size=80,
    max_position_embeddings=64,
)
PARTLY_ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "cpu",
    "model.norm": "cpu",
    "lm_head": "cpu",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LLAMA).save_pretrained(folder)
    return str(folder)


def build(directory, *, low_resource="none", **placement):
    part = PartConfig("causal_lm", CausalLM.Config(), weights=directory)
    return CausalLM(part, low_resource=low_resource, placement=Placement(**placement))


def steps_of(decoder):
    """Logits behind a prompt and behind three words more, read through one cache."""
    cache, logits = decoder.new_cache(), []
    for ids in ([3, 4, 5, 6], [7], [8], [9]):
        with torch.no_grad():
            embeds = decoder.embed(torch.tensor([ids]))
            logits.append(decoder.step(embeds, attention_mask=None, cache=cache))
    return torch.cat(logits)


@pytest.fixture(scope="module")
def expected(directory):
    return steps_of(build(directory))


def test_layers_read_from_disk_at_every_use_answer_alike(directory, expected):
    decoder = build(directory, device_map=PARTLY_ON_DISK)
    layers = decoder.model.model.layers
    places = [next(layer.parameters()).device.type for layer in layers]
    assert places == ["cpu", "meta", "meta", "cpu"]
    assert steps_of(decoder).equal(expected)


def test_a_map_of_one_device_answers_alike(directory, expected):
    assert steps_of(build(directory, device_map={"": "cpu"})).equal(expected)


def test_auto_without_a_gpu_is_the_cpu(directory, expected):
    decoder = build(directory, device_map="auto")
    assert {p.device.type for p in decoder.parameters()} == {"cpu"}
    assert steps_of(decoder).equal(expected)


def test_a_reduced_decoder_takes_a_map_too(directory):
    pytest.importorskip("bitsandbytes")
    reduced = steps_of(build(directory, low_resource="8bit"))
    assert steps_of(
        build(directory, low_resource="8bit", device_map={"": "cpu"})
    ).equal(reduced)  # fmt: skip


def test_gpus_are_filled_with_what_is_left_beside_branches_and_computing():
    found = memory_for_decoder({0: 24, 1: 24, 2: 2}, branch_bytes=5, reserve_bytes=3)
    assert found == {0: 16, 1: 21, 2: 0}


def test_the_first_of_two_gpus_takes_fewer_layers_beside_the_branches():
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{**LLAMA.to_dict(), "num_hidden_layers": 20}))
    whole = sum(p.nbytes for p in model.parameters())
    budget = memory_for_decoder(
        {0: whole, 1: whole}, branch_bytes=whole // 4, reserve_bytes=whole // 4
    )
    places = accelerate.infer_auto_device_map(
        model, max_memory=budget, no_split_module_classes=["LlamaDecoderLayer"]
    )
    layers = [place for name, place in places.items() if ".layers." in name]
    assert places["model.embed_tokens"] == 0
    assert set(layers) == {0, 1}
    assert layers.count(0) < layers.count(1)


@pytest.mark.parametrize(
    ("placement", "low_resource", "said"),
    [
        ({"device_map": {"": "gpu"}}, "none", "'gpu' is no device; expected cpu, disk, cuda:0"),
        ({"device_map": {"": "cuda:x"}}, "none", "'cuda:x' is no device"),
        ({"device_map": "auto", "device": "cuda:1"}, "none", "begins with the first GPU"),
        (
            {"device_map": {"model": "cuda:0", "lm_head": "disk"}},
            "4bit",
            "layers on disk cannot be in 4bit",
        ),
    ],
)
def test_maps_that_cannot_be_followed_are_refused(placement, low_resource, said):
    with pytest.raises(ConfigError, match=said):
        check_placement(Placement(**placement), low_resource=low_resource)


def test_word_embeddings_stay_with_the_branches(directory):
    elsewhere = {**PARTLY_ON_DISK, "model.embed_tokens": "disk"}
    with pytest.raises(ConfigError, match=r"embeddings are on 'meta' and run.device is 'cpu'"):
        build(directory, device_map=elsewhere)


def test_a_map_that_forgets_a_module_is_refused(directory):
    forgetful = {name: place for name, place in PARTLY_ON_DISK.items() if name != "lm_head"}
    with pytest.raises(ConfigError, match=r"run.device_map: .*lm_head"):
        build(directory, device_map=forgetful)
