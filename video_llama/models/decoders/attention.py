"""Which implementation of attention a decoder can run with, here and as it is configured.

Encoders and bridges have no such choice: they call torch's scaled_dot_product_attention, which
takes the fastest kernel that fits, FlashAttention's among them.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

from video_llama.common.errors import ConfigError
from video_llama.common.schema import PartConfig, Precision

AttentionName = Literal["sdpa", "eager", "flash_attention_2"]
FLASH_PACKAGE = "flash_attn"


def require_attention(
    part: PartConfig, *, device: str | None = None, precision: Precision | None = None
) -> None:
    """Refuse an attention that could not run, before a weight is read.

    FlashAttention-2 (Dao 2023) is a package of CUDA kernels for half precision.

    Args:
        part: of a decoder.
        device: it will run on, None if that is not known yet.
        precision: of the run, None where nothing learns.

    Raises:
        ConfigError: with everything that is missing.
    """
    config = part.config
    if getattr(config, "attention", None) != "flash_attention_2":
        return
    missing = []
    if importlib.util.find_spec(FLASH_PACKAGE) is None:
        missing.append(
            f"the package {FLASH_PACKAGE} is not installed (pip install flash-attn "
            "--no-build-isolation, with CUDA's compiler)"
        )
    if not torch.cuda.is_available():
        missing.append("there is no CUDA GPU")
    elif device is not None and torch.device(device).type != "cuda":
        missing.append(f"the run's device is '{device}' and no CUDA GPU")
    # What is frozen computes in its own dtype, what learns in the run's.
    learns_in_half = bool(part.trainable) and precision in (None, "bf16", "fp16")
    if config.dtype == "float32" and not learns_in_half:
        missing.append(
            "it computes in half precision only and the decoder in float32 (set "
            "model.decoder.dtype: bfloat16; for one that learns run.precision: bf16)"
        )
    if missing:
        raise ConfigError(
            f"model.decoder.attention: flash_attention_2 cannot run: {'; '.join(missing)}; or set "
            "model.decoder.attention: sdpa, which needs nothing"
        )
