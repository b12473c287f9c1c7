"""Low-rank adapters on a decoder's linear layers (LoRA, Hu et al. 2021), through peft.

Which of them learn is `trainable`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from video_llama.common.errors import ConfigError

ADAPTER_MARK = ".lora_"
"""Stands in the names of an adapter's parameters and in no others."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on linear layers of the transformer blocks.

    Attributes:
        rank: inner width of an adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        dropout: on an adapter's input.
        targets: last part of the layers' names.
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ValueError("LoRA needs a rank of at least 1 and at least one target.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of LoRA is {self.dropout}; it must lie in [0, 1).")
        if not all(re.fullmatch(r"\w+", name) for name in self.targets):
            raise ValueError("targets of LoRA are names of layers, such as q_proj; no patterns.")


def add_lora(model: PreTrainedModel, lora: Lora) -> None:
    """Wrap the target layers in place; the adapters are float32 whatever the base is.

    Raises:
        ConfigError: peft is missing, or a target is the name of no layer.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "model.decoder.lora needs peft; run: pip install 'video-llama[train]'"
        ) from error
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in lora.targets if not any(map(_layers_called(name), linears))]
    if unknown:
        there = {name.rpartition(".")[2] for name in linears if _layers_called(r"\w+")(name)}
        raise ConfigError(
            f"model.decoder.lora.targets: no layer of {type(model).__name__} is called "
            f"{' or '.join(unknown)}; found: {', '.join(sorted(there)) or 'none'}"
        )
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_in_blocks("|".join(lora.targets)),
    )
    peft.inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        if ADAPTER_MARK in name:
            parameter.data = parameter.data.float()


def merge_lora(model: PreTrainedModel) -> list[str]:
    """Add every adapter to the weight beside it and take it away; outputs stay.

    Returns:
        The names of the weights that changed.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = {
        n: module for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    for name, layer in wrapped.items():
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    return [f"{name}.weight" for name in wrapped]


def _in_blocks(names: str) -> str:
    """Return a pattern of layers in the transformer blocks.

    Anchored: a name alone would also match layers of the same name outside the blocks.
    """
    return rf"(.*\.)?layers\.\d+\.\w+\.({names})"


def _layers_called(name: str) -> Callable[[str], object]:
    """Return a test of full names."""
    return re.compile(_in_blocks(name)).fullmatch
