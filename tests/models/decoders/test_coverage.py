"""Does a directory fill a decoder? Told from names and shapes, LoRA or not."""

from __future__ import annotations

import pytest
import torch

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.schema import PartConfig
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.lora import Lora


def on_meta(directory, **settings) -> CausalLM:
    config = CausalLM.Config(**settings)
    part = PartConfig(type="causal_lm", config=config, weights=str(directory))
    with torch.device("meta"):
        return CausalLM(part)


def test_a_published_directory_fills_its_decoder(goldens):
    report = on_meta(goldens / "llama").check(str(goldens / "llama"))
    assert report.matched == 21
    assert report.dropped == {"rotary frequencies, computed from config.json": 2}


def test_adapters_are_not_looked_for_in_the_directory(goldens):
    pytest.importorskip("peft")
    lora = Lora(rank=2, targets=("q_proj", "down_proj"))
    decoder = on_meta(goldens / "llama", lora=lora)
    assert decoder.check(str(goldens / "llama")).matched == 21


def test_a_check_agrees_with_the_loading(goldens):
    part = PartConfig("causal_lm", config=CausalLM.Config(), weights=str(goldens / "llama"))
    loaded = CausalLM(part).load_report
    checked = on_meta(goldens / "llama").check(str(goldens / "llama"))
    assert (loaded.matched, loaded.dropped) == (checked.matched, checked.dropped)


def test_tied_words_need_one_name_only(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    words = {"vocab_size": 10, "num_attention_heads": 1, "tie_word_embeddings": True}
    config = CausalLM.Config(architecture={"model_type": "llama", **sizes, **words})
    CausalLM(PartConfig("causal_lm", config=config)).model.save_pretrained(tmp_path)
    assert on_meta(tmp_path).check(str(tmp_path)).matched == 11


def test_a_tensor_that_is_too_many_is_refused(goldens, tmp_path):
    state = torch.load(goldens / "llama/pytorch_model.bin", weights_only=True)
    torch.save(
        {**state, "model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)}, tmp_path / "x.pth"
    )
    with pytest.raises(CheckpointMismatch, match=r"\+ model\.layers\.9\.mlp"):
        on_meta(goldens / "llama").check(str(tmp_path))
