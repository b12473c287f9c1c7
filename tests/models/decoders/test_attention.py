"""Which attention a decoder may ask for, and what is said of one that cannot run."""

from __future__ import annotations

import pytest
import torch

from video_llama.common.errors import ConfigError
from video_llama.common.schema import PartConfig
from video_llama.models.decoders import attention
from video_llama.models.decoders.attention import require_attention
from video_llama.models.decoders.causal_lm import CausalLM


def part(*, trainable=False, **settings):
    config = CausalLM.Config(attention="flash_attention_2", **settings)
    return PartConfig("causal_lm", config, weights="no/such/folder", trainable=trainable)


def complaint(part, **where):
    with pytest.raises(ConfigError) as caught:
        require_attention(part, **where)
    return str(caught.value)


@pytest.fixture
def installed(monkeypatch):
    """Stand for a machine with a GPU and the package."""
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_everything_that_is_missing_is_said_at_once(monkeypatch):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = complaint(part())
    assert "model.decoder.attention: flash_attention_2 cannot run" in text
    assert "pip install flash-attn" in text
    assert "there is no CUDA GPU" in text
    assert "model.decoder.dtype: bfloat16" in text
    assert "model.decoder.attention: sdpa" in text


def test_it_is_said_before_the_weights_are_looked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="flash_attention_2 cannot run"):
        CausalLM(part(architecture={"model_type": "llama"}))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("settings", "where", "words"),
    [
        ({"dtype": "bfloat16"}, {"device": "cpu"}, "the run's device is 'cpu'"),
        ({"dtype": "float32"}, {"device": "cuda"}, "half precision only"),
        ({"trainable": True}, {"device": "cuda", "precision": "fp32"}, "half precision only"),
    ],
)
def test_what_does_not_fit_the_run_is_said(settings, where, words):
    assert words in complaint(part(**settings), **where)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("settings", "precision"), [({"dtype": "float16"}, "fp32"), ({"trainable": True}, "bf16")]
)
def test_what_computes_in_half_precision_on_a_gpu_is_fine(settings, precision):
    require_attention(part(**settings), device="cuda:1", precision=precision)


def test_a_plan_needs_neither_gpu_nor_package(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CausalLM.Config(
        architecture={"model_type": "llama", "num_hidden_layers": 1, **sizes},
        attention="flash_attention_2",
    )
    with torch.device("meta"):
        assert CausalLM(PartConfig("causal_lm", config)).width == 16
