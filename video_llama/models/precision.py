"""Which dtype a part computes in: autocast where something learns, its own where nothing does.

What learns is float32 and computes in the dtype of `run.precision`. What is frozen computes in the
dtype of its weights: autocast would make a copy of every frozen weight at every use, and autograd
would keep all of them until the backward pass (only copies of float32 parameters that learn are
made once and shared). Loss scaling is the engine's.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.amp.autocast_mode import is_autocast_available

from video_llama.common.schema import Precision

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""By `run.precision`; fp32 has no autocast."""


def autocast(precision: Precision, *, device: str | torch.device) -> torch.autocast:
    """Return the context in which a model is run.

    Args:
        precision: `run.precision`.
        device: of the model.
    """
    dtype = AUTOCAST_DTYPES.get(precision)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def own_dtype(module: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a part is run: autocast as it is, or none.

    Worked example, with autocast in bfloat16:
        LLaMA, frozen, bfloat16             as it is: there is nothing to copy
        the same with adapters (LoRA)       as it is: float32 adapters compute in bfloat16
        LLaMA, frozen, float16 or float32   none: it computes in its dtype
    """
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    if not is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    if not copies_frozen(module, torch.get_autocast_dtype(device)):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def copies_frozen(module: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether autocast to `dtype` would copy a weight that does not learn."""
    return any(
        not parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != dtype
        for parameter in module.parameters()
    )
