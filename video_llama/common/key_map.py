"""Tables between the names in a published file and ours; no tensor is touched here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

STARS = re.compile(r"(\*\*|\*)")

Adapter = Callable[[Tensor, torch.Size], Tensor]
"""Turns a tensor of the file into one of the wanted shape, or returns it unchanged."""


@dataclass(frozen=True)
class Excuse:
    """Names that may go unused or unfilled, and why.

    Attributes:
        pattern: of names, see `KeyMap`.
        reason: shown in the load report.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class KeyMap:
    """A table between the names in a published file and ours; can be read in both directions.

    In a pattern `*` stands for any text without a dot and `**` for any text; the n-th star of one
    side of a rename is the n-th star of the other. The first rename that matches wins:

        ("bert.encoder.layer.*.output.dense.**", "layers.*.ffn.down.**")

    Attributes:
        renames: pairs (published, ours).
        drops: published names that are left out; looked at before the renames.
        absent: our names that the file need not hold.
        adapters: by pattern of our names, what may cure a difference in shape.
    """

    renames: tuple[tuple[str, str], ...] = (("**", "**"),)
    drops: tuple[Excuse, ...] = ()
    absent: tuple[Excuse, ...] = ()
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def translate(self, name: str) -> str | None:
        """Return our name for a published one, None if no rename matches."""
        for published, ours in self.renames:
            match = compiled(published).fullmatch(name)
            if match:
                return _fill_stars(ours, match.groups())
        return None

    def dropped_because(self, name: str) -> str | None:
        """Return why a published name is left out, None if it is not."""
        return first_reason(self.drops, name)

    def invert(self) -> KeyMap:
        """Return the map from our names to the published ones, for export.

        Here too the first rename that matches wins: put special ones before general ones.
        """
        return KeyMap(renames=tuple((ours, published) for published, ours in self.renames))

    def under(self, *, published: str = "", ours: str = "") -> KeyMap:
        """Return the same map for names that stand below a prefix on either side.

        Args:
            published: put in front of every published name, e.g. "visual_encoder.".
            ours: put in front of every one of our names, e.g. "branches.video.encoder.".
        """
        return replace(
            self,
            renames=tuple((published + left, ours + right) for left, right in self.renames),
            drops=tuple(replace(drop, pattern=published + drop.pattern) for drop in self.drops),
            absent=tuple(replace(item, pattern=ours + item.pattern) for item in self.absent),
            adapters={ours + pattern: adapt for pattern, adapt in self.adapters.items()},
        )

    def join(self, *others: KeyMap) -> KeyMap:
        """Return one map with the rules of all; earlier maps are looked at first."""
        maps = (self, *others)
        return KeyMap(
            renames=tuple(rename for each in maps for rename in each.renames),
            drops=tuple(drop for each in maps for drop in each.drops),
            absent=tuple(item for each in maps for item in each.absent),
            adapters={pattern: adapt for each in maps for pattern, adapt in each.adapters.items()},
        )


@dataclass(frozen=True)
class FileTable:
    """Where the tensors of one published file go in a whole model.

    Attributes:
        key_map: from the file's names to the model's.
        parts: prefixes of our names; each part is one module that the file fills.
        may_be_partial: the file may lack whole parts, never a piece of one.
        meant_for: prefix of our names of which the file must fill some, "" if any will do.
        inside: name of the file where a directory may stand for it, "" if none may.
    """

    key_map: KeyMap
    parts: tuple[str, ...]
    may_be_partial: bool = False
    meant_for: str = ""
    inside: str = ""

    def parts_in(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the parts that a file with these names must fill, for `load_weights(only=)`."""
        if not self.may_be_partial:
            return self.parts
        translated = [
            ours
            for name in names
            if self.key_map.dropped_because(name) is None
            and (ours := self.key_map.translate(name)) is not None
        ]
        return tuple(part for part in self.parts if any(t.startswith(part) for t in translated))


def first_reason(excuses: Sequence[Excuse], name: str) -> str | None:
    """Return the reason of the first excuse whose pattern fits."""
    for excuse in excuses:
        if compiled(excuse.pattern).fullmatch(name):
            return excuse.reason
    return None


def _fill_stars(pattern: str, texts: Iterable[str]) -> str:
    """Put the n-th text in place of the n-th star."""
    pieces = iter(texts)
    return STARS.sub(lambda _: next(pieces), pattern)


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of names as a regular expression with a group for every star."""
    stars = {"**": "(.*)", "*": r"([^.]*)"}
    return re.compile("".join(stars.get(part) or re.escape(part) for part in STARS.split(pattern)))
