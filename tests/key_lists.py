"""The stored lists of names and shapes of published files, see goldens/key_lists/README.md."""

from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "goldens" / "key_lists"
RANGE = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Key:
    """One tensor of a published file.

    Attributes:
        shape: of the tensor.
        is_buffer: saved with the parameters, but nothing that is learnt.
    """

    shape: tuple[int, ...]
    is_buffer: bool

    @property
    def size(self) -> int:
        """How many values."""
        return math.prod(self.shape)


@functools.cache
def key_list(name: str) -> dict[str, Key]:
    """Return every name of a list with its ranges written out."""
    keys = {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        pattern, shape, *kind = line.split()
        sides = () if shape == "scalar" else tuple(int(side) for side in shape.split("x"))
        for key in _written_out(pattern):
            assert key not in keys, key
            keys[key] = Key(sides, is_buffer=kind == ["buffer"])
    return keys


def num_params(name: str, *, below: str = "") -> int:
    """Return how many values are learnt in a list, buffers left out."""
    return sum(
        key.size for text, key in key_list(name).items()
        if text.startswith(below) and not key.is_buffer
    )  # fmt: skip


def meta_state(name: str) -> dict[str, Tensor]:
    """Return tensors of these names and shapes that hold no memory."""
    return {text: torch.empty(key.shape, device="meta") for text, key in key_list(name).items()}


def _written_out(pattern: str) -> list[str]:
    """Write `{0..3}` and `{0,2}` out."""
    choices = []
    for text in RANGE.findall(pattern):
        first, _, last = text.partition("..")
        choices.append(
            [str(i) for i in range(int(first), int(last) + 1)] if last else text.split(",")
        )
    parts = RANGE.sub("\0", pattern).split("\0")
    return [
        "".join(itertools.chain(*itertools.zip_longest(parts, picked, fillvalue="")))
        for picked in itertools.product(*choices)
    ]
