"""Questions as the evaluation sees them, and the order in which they are asked.

Reads what a data set left in `Sample.meta` (MVBench's row format); does not load media and does
not know models. Questions about one clip stay together, so that a clip is decoded and encoded
once for all its questions and probes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from video_llama.common.errors import ConfigError
from video_llama.common.types import Message, Sample
from video_llama.tasks.answers import verdict
from video_llama.tasks.predictions import Shown

QuestionForm = Literal["open", "yes_no", "multiple_choice"]


@dataclass(frozen=True)
class Question:
    """One question with its right answer.

    Attributes:
        sample: the prompt; media named, not loaded; the last message is the user's.
        kind: unit of the accuracy table, the row's `kind` or else its `task`.
        form: how it is answered: freely, by yes or no, or by choosing among candidates.
        answer: the right answer, with or without evidence in front.
        candidates: options of a multiple choice question.
    """

    sample: Sample
    kind: str
    form: QuestionForm
    answer: str
    candidates: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words of the last turn."""
        return self.sample.messages[-1].text

    @property
    def shown(self) -> tuple[Shown, ...]:
        """Identity of the media, equal for all questions about one clip."""
        return tuple(
            Shown(item.kind, item.path, item.start_s, item.end_s) for item in self.sample.media
        )

    def answered_with(self, text: str) -> Sample:
        """Return the conversation with an answer put in, as training would render it."""
        messages = [*self.sample.messages, Message("assistant", [text])]
        return dataclasses.replace(self.sample, messages=messages, form="instruct")


def read_question(sample: Sample) -> Question:
    """Read a question off a sample.

    Args:
        sample: with `answer` and `kind` or `task` in its meta, and perhaps `candidates`.

    Raises:
        ConfigError: the data set holds no questions.
    """
    meta = sample.meta
    kind = meta.get("kind", meta.get("task"))
    answer = meta.get("answer")
    if not isinstance(kind, str) or not isinstance(answer, str):
        raise ConfigError(
            f"datasets.{sample.dataset}: sample '{sample.key}' has no answer or no kind (its row "
            f"has: {', '.join(meta) or 'nothing'}); evaluate on a set of questions, e.g. type: "
            "mvbench"
        )
    options = meta.get("candidates") or ()
    assert isinstance(options, Iterable)
    candidates = tuple(str(option) for option in options)
    form: QuestionForm = "open"
    if {verdict(text) for text in (candidates or (answer,))} <= {"yes", "no"}:
        form = "yes_no"
    elif candidates:
        form = "multiple_choice"
    return Question(sample, kind=kind, form=form, answer=answer, candidates=candidates)


def chunks(questions: Sequence[Question], *, clips_per_chunk: int) -> list[list[Question]]:
    """Cut a question set into chunks that never share a clip.

    The cut depends on nothing but the questions, so any number of processes makes the same one.

    Args:
        questions: in the order of their set.
        clips_per_chunk: clips (or other combinations of media) of a chunk, >= 2; the last chunk
            may have one more, because a clip alone could not be swapped.
    """
    by_clip: dict[tuple[Shown, ...], list[Question]] = defaultdict(list)
    for question in questions:
        by_clip[question.shown].append(question)
    clips = list(by_clip.values())
    starts = list(range(0, len(clips), clips_per_chunk))
    if len(starts) > 1 and len(clips) - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], len(clips)] if starts else []
    return [
        [question for clip in clips[start:end] for question in clip]
        for start, end in zip(starts, ends, strict=True)
    ]


def first_of_each_kind(questions: Iterable[Question], *, limit: int | None) -> set[str]:
    """Return the keys of the first so many questions of every kind, of all without a limit."""
    counts: Counter[str] = Counter()
    chosen = set()
    for question in questions:
        counts[question.kind] += 1
        if limit is None or counts[question.kind] <= limit:
            chosen.add(question.sample.key)
    return chosen


def fair_shares(costs: Mapping[int, float], *, num_shares: int) -> list[list[int]]:
    """Divide work so that nobody waits long for another: the longest first, each to who has least.

    Args:
        costs: of pieces of work, by their index.
        num_shares: who it is divided among.

    Returns:
        The indices of each share, in order; every process that asks gets the same.
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    sums = [0.0] * num_shares
    for index in sorted(costs, key=lambda index: (-costs[index], index)):
        least = sums.index(min(sums))
        shares[least].append(index)
        sums[least] += costs[index]
    return [sorted(share) for share in shares]
