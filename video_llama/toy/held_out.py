"""What is asked of held-out scenes: many questions about few scenes, answers balanced."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from video_llama.toy import questions
from video_llama.toy.questions import Question
from video_llama.toy.scenes import Scene

GATED_KINDS = (
    *("colour", "shape", "first_colour", "last_colour", "count", "motion", "when"),
    *("sound", "pitch", "in_time", "pair_colour", "pair_shape", "pair_motion"),
)
"""Kinds of question that have a bar, so that enough of each must be asked."""

# The least that leaves 800 of each kind when it is divided among 2, 3, 4, 6, 7 or 8 answers.
GATED_LIMIT = 805
# Over 800 of all eight kinds together, which share a bar.
CHOICE_LIMIT = 105
# No bar: enough for intervals of about 6 and 13 points.
OTHER_LIMIT, LETTER_LIMIT = 240, 60

Asked = tuple[str, Question]
"""A scene's key, and a question about it."""


def choose_questions(scenes: Sequence[Scene]) -> list[Asked]:
    """Choose the questions that are asked of scenes, answers balanced within every kind.

    Args:
        scenes: all that there are, in order; of some of them nothing may be asked.

    Returns:
        By limits; of a part of them the answers need not be balanced, see `plan.sample_split`.
    """
    asked = [(scene.key, question) for scene in scenes for question in questions.ask(scene)]
    gated = [pair for pair in asked if pair[1].kind in GATED_KINDS]
    others = [pair for pair in asked if pair[1].kind not in GATED_KINDS]
    chosen = balance(gated, limit=GATED_LIMIT) + balance(others, limit=OTHER_LIMIT)
    choosable = [pair for pair in asked if pair[1].kind in questions.MULTIPLE_CHOICE_KINDS]
    for make, limit in (
        (questions.multiple_choice, CHOICE_LIMIT),
        (questions.letter_choice, LETTER_LIMIT),
    ):
        for key, question in balance(choosable, limit=limit):
            rng = random.Random(f"toy options/{limit}/{key}/{question.kind}")
            chosen.append((key, make(question, rng=rng)))
    return chosen


def balance(asked: Sequence[Asked], *, limit: int | None = None) -> list[Asked]:
    """Keep, for each kind, equally many questions of each verdict: the first of each.

    Scenes do not depend on each other, so of each verdict the first are as good a sample as any,
    and the same ones serve several kinds.

    Args:
        asked: in the order of their scenes.
        limit: at most so many of a kind.

    Returns:
        The kept ones, in the order given.
    """
    by_verdict: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (_, question) in enumerate(asked):
        by_verdict[question.kind][question.verdict].append(index)
    kept: list[int] = []
    for groups in by_verdict.values():
        share = min(len(group) for group in groups.values())
        if limit is not None:
            share = min(share, max(1, limit // len(groups)))
        for group in groups.values():
            kept += group[:share]
    return [asked[index] for index in sorted(kept)]
