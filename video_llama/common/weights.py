"""Reads weight files and puts them into modules, strictly both ways.

Every parameter of the module must come from exactly one key of the file or be excused by a listed
reason, and every key must be used or be dropped by a listed reason; anything else is shown with
its likely cause. Knows nothing of any particular network: those write a `KeyMap`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.key_map import Excuse as Excuse
from video_llama.common.key_map import FileTable as FileTable
from video_llama.common.key_map import KeyMap as KeyMap
from video_llama.common.key_map import compiled, first_reason
from video_llama.common.state_files import read_state as read_state

NUM_SHOWN = 6


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from where.

    Attributes:
        source: the file.
        matched: tensors that went into the module.
        num_bytes: that they take in the file; 0 if nobody counted.
        dropped: how many keys of the file were left out, by reason.
        absent: how many of our names the file did not hold, by reason.
        filled: our names of what was loaded.
    """

    source: str
    matched: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()
    num_bytes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.matched} tensors from {self.source}"]
        parts += [f"{n} keys dropped ({reason})" for reason, n in self.dropped.items()]
        parts += [f"{n} left as they were ({reason})" for reason, n in self.absent.items()]
        return ", ".join(parts)


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    key_map: KeyMap,
    source: str,
    only: Sequence[str] | None = None,
) -> LoadReport:
    """Fill a module from a file, in place; a module on the meta device is materialised on the CPU.

    Values are cast to the dtype the module already has. Nothing is written if anything disagrees;
    one tensor of the file is held at a time.

    Args:
        module: any module.
        state: tensors by published name, e.g. from `read_state`.
        key_map: from the file's names to the module's.
        source: the file, for the report and for errors.
        only: prefixes of our names; what lies elsewhere in the module need not be in the file.

    Raises:
        CheckpointMismatch: a shape differs, or names are left over on either side.
    """
    wanted = _wanted_tensors(module, only)
    plan = _plan(state, wanted, key_map)
    report = _prove(plan, wanted, key_map, source=source)
    for ours, key in plan.sources.items():
        _write(module, wanted[ours], _adapted(state[key], ours, wanted[ours], key_map))
    _fill_computed_buffers(module)
    return report


def check_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    key_map: KeyMap,
    source: str,
    only: Sequence[str] | None = None,
) -> LoadReport:
    """Prove what `load_weights` would do, from names and shapes alone; see there.

    Args:
        module: may be on the meta device, and stays there.
        state: tensors by published name; on the meta device too, if it likes.
        key_map: from the file's names to the module's.
        source: the file, for the report and for errors.
        only: prefixes of our names.

    Raises:
        CheckpointMismatch: a shape differs, or names are left over on either side.
    """
    wanted = _wanted_tensors(module, only)
    return _prove(_plan(state, wanted, key_map), wanted, key_map, source=source)


def _prove(
    plan: _Plan, wanted: Mapping[str, Tensor], key_map: KeyMap, *, source: str
) -> LoadReport:
    """Return the report of a plan without a gap.

    Raises:
        CheckpointMismatch: the plan has one.
    """
    filled = {id(wanted[ours]) for ours in plan.sources}
    unfilled = [name for name, tensor in wanted.items() if id(tensor) not in filled]
    absent: Counter[str] = Counter()
    missing = []
    for name in unfilled:
        reason = first_reason(key_map.absent, name)
        if reason is None:
            missing.append(name)
        else:
            absent[reason] += 1
    if missing or plan.leftover or plan.misshapen:
        raise CheckpointMismatch(_describe(source, missing, plan, len(wanted)))
    return LoadReport(
        source,
        matched=len(plan.sources),
        dropped=dict(plan.dropped),
        absent=dict(absent),
        filled=frozenset(plan.sources),
        num_bytes=plan.num_bytes,
    )


def export_weights(module: nn.Module, *, key_map: KeyMap) -> dict[str, Tensor]:
    """Return a module's tensors under their published names, ready to be saved.

    Raises:
        CheckpointMismatch: a name has no published counterpart.
    """
    inverse = key_map.invert()
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        published = inverse.translate(name)
        if published is None:
            raise CheckpointMismatch(
                f"'{name}' has no name in the published layout; add a rename to the key map"
            )
        state[published] = tensor.detach().cpu().contiguous()
    return state


@dataclass
class _Plan:
    """Which key of the file goes where, and all that does not fit."""

    sources: dict[str, str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    leftover: list[str] = field(default_factory=list)
    misshapen: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list)
    num_bytes: int = 0


def _plan(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key_map: KeyMap) -> _Plan:
    plan = _Plan()
    for key in state:
        reason = key_map.dropped_because(key)
        if reason is not None:
            plan.dropped[reason] += 1
            continue
        ours = key_map.translate(key)
        if ours is None or ours not in wanted or ours in plan.sources:
            plan.leftover.append(key)
            continue
        found = state[key].shape
        target = wanted[ours].shape
        if found != target and _adapted(state[key], ours, wanted[ours], key_map).shape != target:
            plan.misshapen.append((key, found, target))
        plan.sources[ours] = key
        plan.num_bytes += state[key].nbytes
    return plan


def _wanted_tensors(module: nn.Module, only: Sequence[str] | None) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; tied ones appear under every name."""
    state = module.state_dict(keep_vars=True)
    if only is None:
        return dict(state)
    return {name: tensor for name, tensor in state.items() if name.startswith(tuple(only))}


def _adapted(tensor: Tensor, ours: str, target: Tensor, key_map: KeyMap) -> Tensor:
    if tensor.shape == target.shape:
        return tensor
    for pattern, adapt in key_map.adapters.items():
        if compiled(pattern).fullmatch(ours):
            return adapt(tensor, target.shape)
    return tensor


def _write(module: nn.Module, target: Tensor, value: Tensor) -> None:
    """Copy a value into a tensor of the module, or replace the tensor where it is on meta."""
    if not target.is_meta:
        with torch.no_grad():
            target.copy_(value)
        return
    fresh = value.detach().to(target.dtype, copy=True)
    if isinstance(target, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=target.requires_grad)
    for owner in module.modules():
        # Every place is looked at, so that tied weights stay tied.
        slots: Mapping[str, Tensor | None] = {**owner._parameters, **owner._buffers}
        for name in [name for name, tensor in slots.items() if tensor is target]:
            setattr(owner, name, fresh)


def _fill_computed_buffers(module: nn.Module) -> None:
    """Materialise buffers that no file holds, by timm's `init_non_persistent_buffers`."""
    for owner in module.modules():
        computed = {
            name: buffer
            for name, buffer in owner.named_buffers(recurse=False)
            if name in owner._non_persistent_buffers_set and buffer.is_meta
        }
        fill = getattr(owner, "init_non_persistent_buffers", None)
        if computed and fill is not None:
            for name, buffer in computed.items():
                setattr(owner, name, torch.empty_like(buffer, device="cpu"))
            fill()


def _describe(source: str, missing: list[str], plan: _Plan, num_wanted: int) -> str:
    lines = [
        f"{source}: does not fit the model ({len(plan.sources)} of {num_wanted} tensors match)"
    ]
    if plan.misshapen:
        lines.append(f"  {len(plan.misshapen)} with another shape")
        lines += _first(
            f"    ~ {key} {_dims(found)}, the model has {_dims(target)}"
            for key, found, target in plan.misshapen
        )
    if missing:
        lines.append(f"  {len(missing)} in the model, not in the file")
        lines += _first(f"    - {name}" for name in missing)
    if plan.leftover:
        lines.append(f"  {len(plan.leftover)} in the file, not in the model")
        lines += _first(f"    + {key}" for key in plan.leftover)
    lines.append(f"  {_likely_cause(missing, plan)}")
    return "\n".join(lines)


LLAMA_WIDTHS = {4096: "7B", 5120: "13B", 6656: "30B", 8192: "65B or 70B"}
"""Hidden sizes of the LLaMA family (Touvron et al. 2023, table 2)."""


def _likely_cause(missing: list[str], plan: _Plan) -> str:
    for _, found, target in plan.misshapen:
        for have, want in zip(found, target, strict=False):
            if have != want and have in LLAMA_WIDTHS and want in LLAMA_WIDTHS:
                return (
                    f"likely cause: a file for a {LLAMA_WIDTHS[have]} decoder ({have} wide) with a "
                    f"{LLAMA_WIDTHS[want]} one ({want} wide); take the file or the preset of the "
                    "other size"
                )
    if plan.misshapen and not missing and not plan.leftover:
        return "likely cause: sizes in the preset that are not the file's; set those of the file"
    if not plan.sources:
        return "likely cause: a file of another network in this place; check the path"
    return "likely cause: a file of another size or version; check the path and the preset's sizes"


def _dims(shape: torch.Size) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"


def _first(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    hidden = len(every) - NUM_SHOWN
    return every[:NUM_SHOWN] + ([f"    ... and {hidden} more"] if hidden > 0 else [])
