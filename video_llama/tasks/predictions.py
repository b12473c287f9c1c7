"""Predictions on disk: written chunk by chunk, found again by a run that was interrupted.

    output_dir/identity.json       what these predictions are predictions of
    output_dir/parts/rank0.jsonl   one line per finished chunk, while the evaluation runs
    output_dir/predictions.jsonl   one line per prediction, when everything is there

Chunks are numbered by position in the question set, never by rank, so a run may go on with
another number of processes. Does not know what a question or a model is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.common import dist
from video_llama.common.errors import ConfigError

IDENTITY_FILE = "identity.json"
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
        self._identity = json.loads(json.dumps(identity))
        self._check_identity()
        self._parts = folder / "parts"
        self._final = folder / PREDICTIONS_FILE

    def finished(self) -> set[int]:
        """Return the chunks that need not be computed again."""
        return set(self._read_parts())

    def is_complete(self) -> bool:
        """Say whether the final file is there."""
        return self._final.is_file()

    def add(self, chunk: int, predictions: Sequence[Prediction]) -> None:
        """Keep the predictions of one chunk; they survive a kill from here on."""
        self._claim()
        self._parts.mkdir(exist_ok=True)
        path = self._parts / f"rank{dist.read_world().rank}.jsonl"
        line = {"chunk": chunk, "predictions": [dataclasses.asdict(p) for p in predictions]}
        # A killed run may have left half a line; a new line keeps the next one readable.
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(line) + "\n")

    def collect(self) -> list[Prediction]:
        """Wait for all ranks, write the final file once, and return every prediction.

        The order is that of the chunks, whatever rank computed them.
        """
        dist.barrier()
        if dist.is_main() and not self.is_complete():
            self._claim()
            parts = self._read_parts()
            predictions = [p for chunk in sorted(parts) for p in parts[chunk]]
            text = "".join(json.dumps(p) + "\n" for p in predictions)
            unfinished = self._final.with_suffix(".unfinished")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self._final)
            for part in self._parts.glob("*.jsonl"):
                part.unlink()
        dist.barrier()
        return read_predictions(self._final)

    def _check_identity(self) -> None:
        """Accept a fresh folder or our own, refuse anybody else's."""
        path = self.folder / IDENTITY_FILE
        if not path.is_file():
            return
        known, wanted = json.loads(path.read_text(encoding="utf-8")), self._identity
        differing = [
            f"{key}: {known.get(key)!r} there, {wanted.get(key)!r} now"
            for key in sorted({*known, *wanted})
            if known.get(key) != wanted.get(key)
        ]
        if differing:
            raise ConfigError(
                "run.output_dir: it holds the predictions of another evaluation ("
                + "; ".join(differing)
                + "); choose another run.output_dir or delete the folder",
                where=str(self.folder),
            )

    def _claim(self) -> None:
        """Say whose folder it is; several ranks may do so at once, with the same words."""
        path = self.folder / IDENTITY_FILE
        if path.is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".rank{dist.read_world().rank}")
        unfinished.write_text(json.dumps(self._identity, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)

    def _read_parts(self) -> dict[int, list[dict[str, Any]]]:
        """Return the plain predictions of every finished chunk; half lines are skipped."""
        chunks = {}
        for path in sorted(self._parts.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue
                chunks[entry["chunk"]] = entry["predictions"]
        return chunks


def read_predictions(path: Path) -> list[Prediction]:
    """Read a `predictions.jsonl`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_parse(json.loads(line)) for line in lines]


def _parse(node: dict[str, Any]) -> Prediction:
    """Build a prediction from plain values."""
    node["media"] = tuple(Shown(**item) for item in node["media"])
    node["candidates"], node["scores"] = tuple(node["candidates"]), tuple(node["scores"])
    return Prediction(**node)
