"""The words of the toy world and what scenes they can make, with exact probabilities.

A `Wording` is all that words say of a scene's things before places, times and sounds are drawn.
The sampler draws from `wordings`, and the ceilings add the same table up, so that what is said
about the best possible guess is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
MOTIONS = ("left", "right", "up", "down", "grows", "shrinks", "still")
DIRECTIONS = MOTIONS[:4]
BINS = ("early", "midway", "late")
SOUNDS = ("steady", "slow beeps", "fast beeps", "rising", "falling", "noise", "silence", "pip")
PITCHED_SOUNDS = ("steady", "slow beeps", "fast beeps", "pip")
PITCHES = ("low", "high")
SCENE_KINDS = ("empty", "single", "change", "bounce", "pair", "order")
SPLITS = ("train", "valid", "test", "composition")

OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grows": "shrinks",
    "shrinks": "grows",
    "still": "still",
}
MIRRORED_BIN = {"early": "late", "midway": "midway", "late": "early"}


@dataclass(frozen=True)
class ThingWords:
    """What words say of one thing: one of SHAPES, of COLOURS, of MOTIONS."""

    shape: str
    colour: str
    motion: str

    @property
    def is_held_out(self) -> bool:
        """Whether the triple is kept for the composition split.

        Of six colours of a shape one is held out moving sideways, one moving up and down, one
        changing size and one at rest. So every pair of colour, shape and motion stays in
        training, and a scene played backwards stays in its split.
        """
        gap = (COLOURS.index(self.colour) + SHAPES.index(self.shape)) % len(COLOURS)
        return MOTIONS.index(self.motion) // 2 == gap


@dataclass(frozen=True)
class Wording:
    """What words say of a scene's things.

    Args:
        probability: among the wordings of its scene kind and split.
        things: in a scene of kind "order" the one that moves first comes first.
        last_colour: what the only thing turns to, if its colour changes.
    """

    probability: float
    things: tuple[ThingWords, ...]
    last_colour: str | None = None


def triples_of(wording: Wording, *, kind: str) -> list[list[ThingWords]]:
    """List, for each thing, the triples it shows: two where a bounce or a change makes another."""
    shown = [[thing] for thing in wording.things]
    for triples in shown:
        first = triples[0]
        if kind == "bounce":
            triples.append(ThingWords(first.shape, first.colour, OPPOSITE[first.motion]))
        elif wording.last_colour is not None:
            triples.append(ThingWords(first.shape, wording.last_colour, first.motion))
    return shown


def fits_split(wording: Wording, *, kind: str, split: str) -> bool:
    """Tell whether a split may show a wording.

    In the split "composition" every thing shows a held-out triple (so nothing is empty there);
    elsewhere none does.
    """
    held_out = [
        any(triple.is_held_out for triple in triples) for triples in triples_of(wording, kind=kind)
    ]
    if split == "composition":
        return bool(held_out) and all(held_out)
    return not any(held_out)


@cache
def wordings(kind: str, *, split: str) -> tuple[Wording, ...]:
    """List every wording of a scene kind that a split allows.

    Held-out triples leave gaps; in spite of them shape and colour of "single" and "bounce" and
    the two colours of "change" are evenly likely. In "pair" and "order" all allowed wordings are.

    Args:
        kind: one of SCENE_KINDS.
        split: one of SPLITS.

    Returns:
        Wordings whose probabilities add up to 1; none if the split has no such scenes.
    """
    groups: dict[object, list[Wording]] = {}
    for group, wording in _all_wordings(kind):
        if fits_split(wording, kind=kind, split=split):
            groups.setdefault(group, []).append(wording)
    return tuple(
        Wording(1 / len(groups) / len(group), wording.things, wording.last_colour)
        for group in groups.values()
        for wording in group
    )


def _all_wordings(kind: str) -> list[tuple[object, Wording]]:
    """List the wordings of a kind, each with the group that is to be as likely as any other."""
    if kind == "empty":
        return [(None, Wording(0.0, ()))]
    if kind in ("pair", "order"):
        motions: tuple[str, ...] = MOTIONS if kind == "pair" else MOTIONS[:-1]
        return [
            (None, Wording(0.0, tuple(ThingWords(*words) for words in zip(*drawn, strict=True))))
            for drawn in itertools.product(
                itertools.permutations(SHAPES, 2),
                itertools.permutations(COLOURS, 2),
                itertools.permutations(motions, 2),
            )
        ]
    if kind == "change":
        return [
            ((first, last), Wording(0.0, (ThingWords(shape, first, "still"),), last))
            for first, last in itertools.permutations(COLOURS, 2)
            for shape in SHAPES
        ]
    alone: tuple[str, ...] = MOTIONS if kind == "single" else DIRECTIONS
    return [
        ((shape, colour), Wording(0.0, (ThingWords(shape, colour, motion),)))
        for shape in SHAPES
        for colour in COLOURS
        for motion in alone
    ]
