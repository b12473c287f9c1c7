"""Linear layers of a decoder in 8 or 4 bits, through bitsandbytes.

int8 with outliers apart (LLM.int8, Dettmers et al. 2022), or nf4 with doubly quantised scales
(QLoRA, Dettmers et al. 2023); what is not a linear layer of the blocks keeps its dtype: word
embeddings, the head, norms. Weights are quantised one by one as they are read, so that no whole
copy of them is ever on a GPU.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.schema import LowResource
from video_llama.models.decoders.lora import ADAPTER_MARK
from video_llama.models.trainable import matches

PACKAGES = ("bitsandbytes", "accelerate")
DEVICES = ("cpu", "cuda", "xpu")

BLOCK = 64
"""Weights that share a scale in 4 bits: bitsandbytes' default."""

NESTED_BLOCK = 256
"""Scales that share one in turn."""

CODES_BYTES = 4 * (16 + 256 + 1)
"""Of a 4-bit layer: the values of nf4, those of its scales, and the scales' mean, in float32."""


def require_bitsandbytes(low_resource: LowResource, *, device: str) -> None:
    """Refuse what bitsandbytes cannot do here, before a weight is read.

    Raises:
        ConfigError: a package is missing, or the device is none of its own.
    """
    if low_resource == "none":
        return
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"model.low_resource: {low_resource} needs {' and '.join(missing)}; run: "
            f"pip install {' '.join(missing)}, or set model.low_resource: none"
        )
    kind = torch.device(device).type
    if kind not in DEVICES:
        raise ConfigError(
            f"model.low_resource: {low_resource} works on {', '.join(DEVICES)}, and the device is "
            f"'{device}'; set model.low_resource: none, or another run.device"
        )


def refuse_reduced(low_resource: LowResource, *, what: str) -> None:
    """Refuse what needs a decoder's weights whole.

    Raises:
        ConfigError: they are in fewer bits.
    """
    if low_resource != "none":
        raise ConfigError(
            f"model.low_resource: a decoder in {low_resource} cannot be {what}, because its "
            "weights are rounded; load the model with model.low_resource=none"
        )


def refuse_learning(model: PreTrainedModel, rule: bool | Sequence[str]) -> None:
    """Refuse to train what is kept in fewer bits.

    Args:
        model: of transformers; may be on the meta device.
        rule: the decoder's `trainable`.

    Raises:
        ConfigError: a layer in fewer bits would have to learn.
    """
    names = [f"model.{name}.weight" for name, _ in reduced_layers(model)]
    learning = names if rule is True else [n for n in names if rule and matches(n, rule)]
    if learning:
        raise ConfigError(
            f"model.decoder.trainable: {len(learning)} layers that are kept in fewer bits by "
            f"model.low_resource cannot learn (first: {learning[0]}); train adapters instead "
            '(lora, trainable: ["*lora_*"]), or set model.low_resource: none'
        )


def refuse_rounding(model: PreTrainedModel, names: Iterable[str], *, source: str) -> None:
    """Refuse a checkpoint that would put whole weights into layers that hold rounded ones.

    Args:
        model: of transformers.
        names: of what the checkpoint fills, as the decoder has them.
        source: the checkpoint.

    Raises:
        CheckpointMismatch: it holds weights of layers in fewer bits.
    """
    reduced = {f"model.{name}.weight" for name, _ in reduced_layers(model)}
    held = [name for name in names if name in reduced]
    if held:
        raise CheckpointMismatch(
            f"{source}: holds {len(held)} weights of the decoder's own layers (first: {held[0]}), "
            "which cannot go into layers in fewer bits; load it with model.low_resource=none, save "
            "the model with full=True, and load that folder in fewer bits"
        )


def quantisation(low_resource: LowResource, *, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return what transformers must know of it.

    Args:
        low_resource: how many bits.
        dtype: of the decoder, which 4-bit layers compute in.
    """
    if low_resource == "none":
        return None
    # It warns at every layer that it computes in float16, and at import of kernels we do not use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if low_resource == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_gradients(model: nn.Module) -> None:
    """Keep gradients flowing through 4-bit layers on CPUs that compute in bfloat16.

    There the first forward pass without gradient, a validation say, would pack the weights for a
    kernel that has no backward pass: losses stay right, and what learns before or beside such a
    layer gets no gradient from then on, without a word. That kernel also refuses some sizes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def reduced_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Yield (name, module) of the layers that are kept in fewer bits; by the rule of transformers.

    Args:
        model: may be on the meta device, then as it would be loaded.
    """
    kept: Any = get_keys_to_not_convert(model)
    for name, module in model.named_modules():
        is_adapter = ADAPTER_MARK in f".{name}."
        if isinstance(module, nn.Linear) and not is_adapter and should_convert_module(name, kept):
            yield name, module


def reduced_bytes(layer: nn.Linear, low_resource: LowResource) -> int:
    """Return what the weight of a layer takes in fewer bits, scales included.

    Worked example, 64 inputs and 176 outputs, 11,264 weights:
        none, bfloat16   22,528
        8bit             11,264 + 176 scales of 4 bytes, one per output = 11,968
        4bit             5,632 + 176 scales of 1 byte, one per 64 weights, + 1 scale of scales of
                         4 bytes + tables of 1,092 bytes = 6,904
    """
    num_weights = layer.in_features * layer.out_features
    if low_resource == "8bit":
        return num_weights + 4 * layer.out_features
    if low_resource == "4bit":
        num_scales = -(-num_weights // BLOCK)
        num_nested = -(-num_scales // NESTED_BLOCK)
        return -(-num_weights // 2) + num_scales + 4 * num_nested + CODES_BYTES
    return num_weights * layer.weight.element_size()
