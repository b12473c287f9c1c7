"""From prompts to answers: encode media once, generate freely, or weigh given options.

Knows the model through its calls alone: features of media, greedy generation, losses of options.
Does not know what is right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from torch import Tensor

from video_llama.common.errors import VideoLlamaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.tasks.base import Model
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.questions import Question

T = TypeVar("T")

ABOUT_EQUAL = 48
"""Characters by which questions may differ without much padding for the shorter."""


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: its answer; of a multiple choice question, the chosen option.
        scores: mean log-likelihood per token of every option, in nats.
    """

    text: str
    scores: tuple[float, ...] = ()


class MediaEncoder:
    """Turns raw media into features at the cache frontier, equal tensors once.

    Args:
        model: in evaluation mode.
        prompter: makes batches.
        batch_size: items per forward pass.
    """

    def __init__(self, model: Model, *, prompter: Prompter, batch_size: int) -> None:
        self._model = model
        self._prompter = prompter
        self._batch_size = batch_size
        # By identity: what a probe alters is another tensor. It is kept with its features, because
        # the identity of a dead object may be given to a new one.
        self._encoded: dict[int, tuple[Tensor, Tensor]] = {}

    def encode(self, items: Sequence[MediaItem | None]) -> list[MediaItem | None]:
        """Return the items with features in place of pixels and mels, places of None kept."""
        fresh = {
            id(_raw(item)): item
            for item in items
            if item is not None and item.features is None and id(_raw(item)) not in self._encoded
        }
        for group in batched(fresh.values(), self._batch_size):
            self._encode_group(group)
        return [None if item is None else self._with_features(item) for item in items]

    def _with_features(self, item: MediaItem) -> MediaItem:
        """Return an item that was encoded, or came with features."""
        if item.features is not None:
            return item
        _, features = self._encoded[id(_raw(item))]
        return dataclasses.replace(item, pixels=None, mel=None, features=features, feature_key=None)

    def _encode_group(self, group: Sequence[MediaItem]) -> None:
        """Run one forward pass; the text is only there because a decoder must read something."""
        keys = [str(number) for number in range(len(group))]
        samples = [
            Sample(
                key=item.path,
                messages=[Message("assistant", [dataclasses.replace(item, feature_key=key), "."])],
                form="caption",
            )
            for key, item in zip(keys, group, strict=True)
        ]
        frontier = self._model(self._prompter.collate(samples)).frontier
        for key, item in zip(keys, group, strict=True):
            features = frontier[key].cpu()
            self._prompter.keep(item, features)
            self._encoded[id(_raw(item))] = (_raw(item), features)


def answer_questions(
    model: Model,
    questions: Sequence[Question],
    *,
    prompter: Prompter,
    settings: GenerationSettings,
    batch_size: int,
) -> list[Answer]:
    """Answer questions whose media are loaded or encoded.

    Args:
        model: in evaluation mode.
        questions: multiple choice is decided by likelihood, everything else by generation.
        prompter: makes batches.
        settings: of the generation.
        batch_size: samples per forward pass.

    Returns:
        One answer per question, in their order.
    """
    answers: dict[int, Answer] = {}
    choices = [i for i, question in enumerate(questions) if question.form == "multiple_choice"]
    others = [i for i, question in enumerate(questions) if question.form != "multiple_choice"]
    for group in _alike(others, questions, size=batch_size):
        batch = prompter.collate([questions[i].sample for i in group])
        rows = model.generate(batch, settings=settings, stop=prompter.stop_rule)
        for i, ids in zip(group, rows, strict=True):
            answers[i] = Answer(prompter.decode(ids))
    num_options = max((len(questions[i].candidates) for i in choices), default=1)
    for group in batched(choices, max(1, batch_size // num_options)):
        chosen = weigh_options(model, [questions[i] for i in group], prompter=prompter)
        answers.update(zip(group, chosen, strict=True))
    return [answers[i] for i in range(len(questions))]


def _alike(
    indices: Iterable[int], questions: Sequence[Question], *, size: int
) -> Iterator[list[int]]:
    """Cut questions into batches of about equal length; otherwise clips stay together."""
    lengths = {index: len(questions[index].text) // ABOUT_EQUAL for index in indices}
    for _, group in groupby(sorted(lengths, key=lengths.__getitem__), key=lengths.__getitem__):
        yield from batched(group, size)


def weigh_options(
    model: Model, questions: Sequence[Question], *, prompter: Prompter
) -> list[Answer]:
    """Choose the option that is the most likely answer; questions are read once for all options.

    The mean over tokens, the end of the turn included, keeps long options from losing merely by
    their length.

    Args:
        model: in evaluation mode.
        questions: with candidates.
        prompter: makes batches.

    Raises:
        VideoLlamaError: a loss is not finite, and nothing can be compared with it.
    """
    forks = prompter.collate_forks([[q.answered_with(o) for o in q.candidates] for q in questions])
    output = model.score(forks.prompts, continuations=forks.continuations, rows=forks.rows)
    means = (-output.sample_loss.double() / output.sample_targets).cpu().tolist()
    remaining = iter(means)
    answers = []
    for question in questions:
        scores = tuple(islice(remaining, len(question.candidates)))
        if not all(map(math.isfinite, scores)):
            raise VideoLlamaError(
                f"question {question.sample.key}: the model's losses of its options are not finite "
                f"(scores {', '.join(map(str, scores))}); set run.precision to bf16 or fp32 and "
                "another run.output_dir, or look at the weights"
            )
        best = max(range(len(scores)), key=scores.__getitem__)
        answers.append(Answer(question.candidates[best], scores))
    return answers


def _raw(item: MediaItem) -> Tensor:
    """Return the pixels or the mel of an item."""
    raw = item.pixels if item.pixels is not None else item.mel
    assert raw is not None, f"{item.path} was not loaded"
    return raw


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut values into lists of `size`, the last one shorter."""
    iterator = iter(values)
    while group := list(islice(iterator, size)):
        yield group
