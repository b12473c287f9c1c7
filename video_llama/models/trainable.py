"""Which parameters learn, and how a frozen part stays frozen.

A frozen part is in eval mode for good: dropout or drop-path in a part that does not learn would
make the feature cache lie and the loss noisy for nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        ConfigError: a pattern matches no parameter.
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


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a parameter name fits one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def learns(module: nn.Module) -> bool:
    """Tell whether any parameter of a part is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def set_mode(module: nn.Module, training: bool) -> None:  # noqa: FBT001 - mirrors nn.Module.train
    """Put a part into training mode if it learns, into eval mode otherwise."""
    module.train(training and learns(module))


def part_row(module: nn.Module, *, name: str, type_name: str, weights: str) -> PartRow:
    """Count a part's parameters."""
    parameters = list(module.parameters())
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    return PartRow(
        name=name,
        type=type_name,
        num_params=sum(parameter.numel() for parameter in parameters),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        dtype="+".join(dtypes) or "-",
        weights=weights,
    )
