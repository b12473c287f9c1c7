"""Randomness without state: every draw is a function of the words and numbers that name it.

    fold(run_seed, "crop", dataset, pass_index, key)

gives the same number in every process, on every machine and in every Python, so nothing random
has to be saved, and any step of a run can be repeated alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def fold(*parts: int | str) -> int:
    """Return the number that a sequence of integers and words stands for.

    Order and type count: `fold(1, 2)`, `fold(2, 1)`, `fold(12)` and `fold("1", "2")` all differ.

    Returns:
        An integer in 0 .. 2**63 - 1, a legal seed for torch, numpy and random.

    Raises:
        TypeError: a part is neither an integer nor a string.
    """
    content = b""
    for part in parts:
        # Type and length in front, or ("ab", "c") and ("a", "bc") would be the same bytes.
        if isinstance(part, str):
            data = part.encode()
            content += b"s%d:%b" % (len(data), data)
        elif isinstance(part, int):
            data = b"%d" % part
            content += b"i%d:%b" % (len(data), data)
        else:
            raise TypeError(f"fold takes integers and strings, found {type(part).__name__}")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def uniform(*parts: int | str) -> float:
    """Return a number in [0, 1) that is a function of `parts`."""
    return (fold(*parts) >> 10) / 2.0**53


def permutation(length: int, *, seed: int) -> NDArray[np.int64]:
    """Return 0 .. length - 1 in an order that is a function of `seed`.

    The indices are sorted by a hash (the finaliser of splitmix64: Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", 2014). numpy's own shuffles may change between
    releases; this one cannot.

    Args:
        length: how many, >= 0.
        seed: 0 .. 2**63 - 1, as `fold` gives it.

    Returns:
        int64[length].
    """
    hashes = (np.arange(length, dtype=np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(seed)
    # The second round keeps orders of seeds that lie close together from resembling each other.
    for _ in range(2):
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes = (hashes ^ (hashes >> np.uint64(31))) + np.uint64(seed)
    # Every operation above is one to one, so no two hashes are equal and any sort agrees.
    return np.argsort(hashes)


def shuffled(values: Sequence[T], *, seed: int) -> list[T]:
    """Return the values in an order that is a function of `seed`."""
    return [values[index] for index in permutation(len(values), seed=seed)]


def choose(values: Sequence[T], *, seed: int) -> T:
    """Return one of the values, chosen by `seed`."""
    return values[fold(seed, "choose") % len(values)]
