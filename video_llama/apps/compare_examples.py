"""Questions that one cell gets right and another does not, with the clips they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.compare_answers import SetComparison
from video_llama.apps.compare_questions import Answers, asked
from video_llama.apps.compare_runs import seed_pairs
from video_llama.apps.report_clips import Strip, draw_strip
from video_llama.tasks.predictions import Prediction

NUM_EACH_WAY = 2
"""Examples of a cell that is right where the baseline is wrong, and of the opposite."""


@dataclass(frozen=True)
class Example:
    """One question with the answers of two cells.

    Attributes:
        question: set, text, kind and right answer.
        strip: what was shown.
        name: of the files.
        answers: (cell, its answer); the one that is compared, then the baseline.
        seed: of the compared cell.
    """

    question: Prediction
    strip: Strip
    name: str
    answers: tuple[tuple[str, Prediction], ...]
    seed: int


def find_examples(compared: SetComparison, *, num_each_way: int = NUM_EACH_WAY) -> list[Example]:
    """Choose disagreements, evenly spaced among all, both ways.

    Args:
        compared: a question set.
        num_each_way: examples per cell and direction.
    """
    baseline, *others = [score.cell for score in compared.rows[0].scores]
    examples = []
    for name in others:
        seeds, base = compared.answers[name], compared.answers[baseline]
        pairs, _ = seed_pairs(list(seeds), list(base))
        for seed, other in pairs[:1]:
            for is_better in (True, False):
                found = _disagreements(seeds[seed], base[other], is_better=is_better)
                for key in _spread(found, num=num_each_way):
                    both = {name: seeds[seed][key], baseline: base[other][key]}
                    examples.append(_example(both, seed=seed))
    return examples


def _disagreements(here: Answers, there: Answers, *, is_better: bool) -> list[str]:
    """Return the keys of questions that the one has right and the other wrong."""
    return [
        key
        for key, one in here.items()
        if (other := there.get(key)) is not None
        and one.error is None
        and other.error is None
        and asked(one) == asked(other)
        and one.correct != other.correct
        and one.correct == is_better
    ]


def _spread(keys: Sequence[str], *, num: int) -> list[str]:
    """Return some, evenly spaced."""
    step = max(1, len(keys) // num) if num else 1
    return list(keys[::step][:num])


def _example(both: Mapping[str, Prediction], *, seed: int) -> Example:
    question = next(iter(both.values()))
    names = dict.fromkeys(Path(item.path).name for item in question.media)
    return Example(
        question=question,
        strip=draw_strip(question.media),
        name=", ".join(names) or "no media",
        answers=tuple(both.items()),
        seed=seed,
    )
