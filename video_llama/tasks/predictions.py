"""What an evaluation asked and was told, on disk: `predictions.jsonl`, written by `resumable`.

Does not know what a question or a model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.common.errors import VideoLlamaError
from video_llama.tasks.resumable import ResumableResults

PREDICTIONS_FILE = "predictions.jsonl"
NO_PROBE = "none"
"""Value of `Prediction.probe` for questions asked with their media as they are."""


@dataclass(frozen=True)
class Shown:
    """One media item of a question, enough to find it again.

    Attributes:
        kind: image, video or audio.
        path: the file.
        start_s: first second used, None for the beginning.
        end_s: last second used, None for the end.
    """

    kind: str
    path: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What was asked, what was right, what the model said.

    Attributes:
        key: of the question in its set.
        probe: name of the probe, `NO_PROBE` without one.
        kind: kind of question, the unit of the accuracy table.
        form: open, yes_no or multiple_choice.
        question: its text.
        answer: the right answer.
        prediction: the model's answer as text; for multiple choice the chosen option.
        correct: whether the verdicts agree.
        candidates: options of a multiple choice question.
        scores: mean log-likelihood per token of every candidate, if that decided.
        media: what was shown, before any probe.
        error: why the question could not be asked (a broken clip); it then counts nowhere.
    """

    key: str
    probe: str
    kind: str
    form: str
    question: str
    answer: str
    prediction: str
    correct: bool
    candidates: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    media: tuple[Shown, ...] = ()
    error: str | None = None


class PredictionStore:
    """The predictions of one evaluation below one folder.

    Args:
        folder: made with the first prediction, so that a run that fails before leaves nothing.
        identity: plain values that decide every prediction (checkpoint hash, config, questions).

    Raises:
        ConfigError: the folder holds predictions with another identity.
    """

    def __init__(self, folder: Path, *, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._results = ResumableResults(
            folder,
            final=folder / PREDICTIONS_FILE,
            identity=identity,
            key="run.output_dir",
            run="evaluation",
        )

    def finished(self) -> set[int]:
        """Return the chunks that need not be computed again."""
        return self._results.finished()

    def is_complete(self) -> bool:
        """Say whether the final file is there."""
        return self._results.is_complete()

    def add(self, chunk: int, predictions: Sequence[Prediction]) -> None:
        """Keep the predictions of one chunk; they survive a kill from here on."""
        self._results.add({chunk: [_plain(prediction) for prediction in predictions]})

    def collect(self) -> list[Prediction]:
        """Wait for all ranks, write the final file once, and return every prediction."""
        return [_parse(row) for row in self._results.collect()]


def read_predictions(path: Path) -> list[Prediction]:
    """Read a `predictions.jsonl`.

    Raises:
        VideoLlamaError: a line is not a prediction, as after a copy that was cut off.
    """
    predictions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            predictions.append(_parse(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise VideoLlamaError(
                f"{path}:{number}: not a prediction ({error}); a whole file has one JSON object a "
                "line: copy it again, or remove its folder and evaluate again"
            ) from error
    return predictions


def _plain(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain values, its own, to be written and not kept."""
    return {**vars(prediction), "media": [vars(shown) for shown in prediction.media]}


def _parse(node: dict[str, Any]) -> Prediction:
    """Build a prediction from plain values."""
    node["media"] = tuple(Shown(**item) for item in node["media"])
    node["candidates"], node["scores"] = tuple(node["candidates"]), tuple(node["scores"])
    return Prediction(**node)
