"""A language model in a directory that also holds what sees or hears."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_llava import (
    HIDDEN,
    LLAMA,
    ROWS,
    WORDS,
    WRITERS,
    port,
    write_hub,
    write_original,
    write_state,
)
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.schema import PartConfig
from video_llama.common.state_files import read_state
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.composite import read_composite, select_decoder
from video_llama.models.decoders.placement import Placement


def part(directory, **settings):
    return PartConfig("causal_lm", CausalLM.Config(**settings), weights=str(directory))


@torch.no_grad()
def logits(decoder):
    embeds = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1))
    return decoder.logits(decoder(embeds, attention_mask=None))


@torch.no_grad()
def expected():
    embeds = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1))
    return port()(inputs_embeds=embeds).logits


@pytest.mark.parametrize(
    ("layout", "rows"), [("original", WORDS), ("hf", ROWS), ("transformers5", ROWS)]
)
def test_it_speaks_as_in_the_whole_model(layout, rows, tmp_path):
    decoder = CausalLM(part(WRITERS[layout](tmp_path / "llava")))
    assert (logits(decoder) - expected()[..., :rows]).abs().max() <= 1e-5
    assert decoder.vocab_size == rows
    assert decoder.end_ids == {2}


def write_as_in_memory(folder):
    """Write the names that transformers 5 has in memory, `lm_head` beside `model.`."""
    write_state(folder, port().state_dict())
    (folder / "config.json").write_text(json.dumps(port().config.to_dict()))
    return folder


@pytest.mark.parametrize("write", [*WRITERS.values(), write_as_in_memory])
def test_what_is_selected_is_the_whole_language_model_and_nothing_else(write, tmp_path):
    directory = write(tmp_path / "llava")
    selected = select_decoder(read_state(directory), directory)
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(vocab_size=ROWS, **LLAMA))
    assert {name for name in selected if "inv_freq" not in name} == set(plain.state_dict())
    table = selected["lm_head.weight"]
    assert torch.equal(table, port().lm_head.weight[: len(table)])


@pytest.mark.parametrize("places", [None, "cpu"])
def test_names_as_in_memory_are_read_too(places, tmp_path):
    pytest.importorskip("accelerate")
    directory = write_as_in_memory(tmp_path / "llava")
    placement = Placement() if places is None else Placement(device_map={"": places})
    decoder = CausalLM(part(directory), placement=placement)
    assert (logits(decoder) - expected()).abs().max() <= 1e-5


@pytest.mark.parametrize("place", ["cpu", "disk"])
@pytest.mark.parametrize("layout", WRITERS)
def test_its_layers_go_where_a_device_map_sends_them(layout, place, tmp_path):
    pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers": place, "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    directory = WRITERS[layout](tmp_path / "llava")
    decoder = CausalLM(part(directory), placement=Placement(device_map=places))
    rows = decoder.vocab_size
    assert (logits(decoder) - expected()[..., :rows]).abs().max() <= 1e-5


@pytest.mark.parametrize("layout", ["original", "hf"])
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_it_is_kept_in_fewer_bits_like_any_other(bits, layout, tmp_path):
    pytest.importorskip("bitsandbytes")
    directory = WRITERS[layout](tmp_path / "llava")
    alone = tmp_path / "alone"
    CausalLM(part(directory)).model.save_pretrained(alone)
    whole, plain = (CausalLM(part(path), low_resource=bits) for path in (directory, alone))
    assert torch.equal(logits(whole), logits(plain))
    assert not torch.equal(logits(whole), logits(CausalLM(part(directory))))


def test_a_tower_does_not_count_as_too_much_and_a_strange_layer_does(tmp_path):
    directory = write_original(tmp_path / "llava")
    config = json.loads((directory / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match=r"unexpected keys: model\.layers\.1\."):
        CausalLM(part(directory))


def test_another_size_than_the_run_file_says_is_refused(tmp_path):
    directory = write_hub(tmp_path / "llava")
    architecture = {"model_type": "llama", **LLAMA, "hidden_size": 48}
    with pytest.raises(CheckpointMismatch, match=r"hidden_size 24 \(architecture: 48\)"):
        CausalLM(part(directory, architecture=architecture))


def test_keys_of_the_family_are_no_keys_of_the_language_model(tmp_path):
    composite = read_composite(write_original(tmp_path / "llava"))
    assert composite.architecture["model_type"] == "llama"
    assert composite.architecture["vocab_size"] == WORDS
    assert not any(key.startswith("mm_") for key in composite.architecture)


def test_old_and_unknown_keys_of_the_language_model_count(tmp_path):
    directory = write_original(tmp_path / "llava")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    decoder = CausalLM(part(directory))
    assert decoder.model.config.rope_parameters["rope_theta"] == 5000.0
    assert (logits(decoder) - expected()[..., :WORDS]).abs().max() > 1e-3


def test_an_ordinary_directory_is_no_composite(tmp_path):
    assert read_composite(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **LLAMA}))
    assert read_composite(tmp_path) is None
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(CheckpointMismatch, match="not JSON"):
        read_composite(tmp_path)
