"""Notes every collective of a process, so that those of two ranks can be compared.

What two ranks ask of each other has to be the same, in the same order. If it is not, they wait
forever, or, worse, take one tensor for another.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.distributed

NAMES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)
"""All of torch.distributed; DeepSpeed's own end in these, if it looks them up after the start."""


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, str, str]]]:
    """Yield a list that grows by (operation, shapes and dtypes, ranks) for the length of a block.

    To be entered before DeepSpeed is imported.
    """
    calls: list[tuple[str, str, str]] = []
    originals = {name: getattr(torch.distributed, name) for name in NAMES}
    for name, original in originals.items():
        setattr(torch.distributed, name, _noting(calls, name, original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(torch.distributed, name, original)


def _noting(calls, name, original):
    @functools.wraps(original)
    def note_and_call(*args, **kwargs):
        tensors = [f"{t.dtype}{list(t.shape)}" for t in _tensors([args, kwargs])]
        group = kwargs.get("group") or torch.distributed.group.WORLD
        ranks = torch.distributed.get_process_group_ranks(group)
        calls.append((name, " ".join(tensors), str(ranks)))
        return original(*args, **kwargs)

    return note_and_call


def _tensors(value):
    """Yield all tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)
