"""Which parameters learn, and how a frozen part stays frozen.

What is frozen is in eval mode for good, be it a part or a module inside one that learns elsewhere:
dropout or drop-path in it would make the feature cache lie and the loss noisy for nothing.

What learns is float32: an optimizer step is smaller than what half precision can tell apart.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from video_llama.common.errors import ConfigError


@dataclass(frozen=True)
class PartRow:
    """One line of the table of parts.

    Attributes:
        name: where the part stands, e.g. `branches.video.stages.video_qformer`.
        type: its registered name.
        num_params: elements of all parameters.
        num_trainable: elements that learn.
        dtype: of its parameters.
        weights: where they come from.
    """

    name: str
    type: str
    num_params: int
    num_trainable: int
    dtype: str
    weights: str


def set_trainable(module: nn.Module, rule: bool | Sequence[str], *, where: str) -> None:
    """Freeze a part or let it learn.

    Args:
        module: the part.
        rule: true, false, or shell patterns of the parameter names that learn.
        where: dotted key of the part, for messages.

    Raises:
        ConfigError: a pattern matches no parameter, or what is to learn is not float32.
    """
    names = [name for name, _ in module.named_parameters()]
    if not isinstance(rule, bool):
        unused = [pattern for pattern in rule if not fnmatch.filter(names, pattern)]
        if unused:
            raise ConfigError(
                f"{where}.trainable: no parameter matches {', '.join(unused)} "
                f"(parameters: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
            )
    for name, parameter in module.named_parameters():
        learns = rule if isinstance(rule, bool) else matches(name, rule)
        parameter.requires_grad_(learns)
    halves = [
        (name, str(parameter.dtype).removeprefix("torch."))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16)
    ]
    if halves:
        name, dtype = halves[0]
        raise ConfigError(
            f"{where}.trainable: {len(halves)} parameters that shall learn are {dtype} (first "
            f"{name}), which rounds the small steps of an optimizer away; set {where}.dtype: "
            "float32 (run.precision: bf16 still computes in bfloat16), or, for a decoder, train "
            "adapters with lora"
        )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a parameter name fits one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def learns(module: nn.Module) -> bool:
    """Tell whether any parameter of a part is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def set_mode(module: nn.Module, training: bool) -> None:  # noqa: FBT001 - mirrors nn.Module.train
    """Put what learns into training mode and what is frozen into eval mode.

    Worked example, `training` with `trainable: ["second.*"]`:
        {first: Linear, second: Linear, dropout: Dropout}   first eval; second, dropout and the
                                                            part itself in training mode
    A module without parameters goes with the one it stands in. One in which some things learn and
    others do not is itself in training mode if something that learns stands right in it: attention
    around layers with adapters stays in eval, and its dropout off; the adapters' own is on.
    """
    rules = {parameter.requires_grad for parameter in module.parameters()}
    if rules != {True, False}:
        module.train(training and True in rules)
        return
    module.training = training and _holds_what_learns(module)
    for child in module.children():
        if next(child.parameters(), None) is None:
            child.train(module.training)
        else:
            set_mode(child, training)


def _holds_what_learns(module: nn.Module) -> bool:
    """Tell whether a parameter right in a module learns, or all of a module right in it."""
    if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return True
    rules = [{p.requires_grad for p in child.parameters()} for child in module.children()]
    return {True} in rules


def part_row(module: nn.Module, *, name: str, type_name: str, weights: str) -> PartRow:
    """Count a part's parameters."""
    parameters = list(module.parameters())
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    return PartRow(
        name=name,
        type=type_name,
        num_params=sum(map(_num_weights, parameters)),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        dtype="+".join(dtypes) or "-",
        weights=weights,
    )


def _num_weights(parameter: nn.Parameter) -> int:
    """Count weights; bitsandbytes puts two of 4 bits into one element."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)
