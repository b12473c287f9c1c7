"""The runs of an experiment as jobs: the verbs that a person would call one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from video_llama.apps.evaluate import METRICS_NAME
from video_llama.apps.experiment_runs import Run
from video_llama.apps.experiment_stamp import has_result
from video_llama.apps.run_progress import done_steps, kept_steps

PLAIN = b'"probe": "none"'
"""Stands once in the file of predictions for every question asked as it is."""


@dataclass(frozen=True)
class TrainJob:
    """A recipe of one cell with one seed.

    Attributes:
        run: what is trained.
        size: its optimizer steps.
    """

    ok_exit_codes: ClassVar[tuple[int, ...]] = (0,)

    run: Run
    size: int

    @property
    def name(self) -> str:
        """What is shown beside the bar of its cell."""
        return self.run.step.stem

    @property
    def folder(self) -> Path:
        """The run's own."""
        return self.run.folder

    def kept(self) -> int:
        """Return the step of the newest complete checkpoint."""
        return kept_steps(self.folder)

    def done(self) -> int:
        """Return the step of the newest line of the run's metrics."""
        return done_steps(self.folder)

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line; the samples of a step are the same for any number of ranks."""
        share = f"run.batch_size_train={self.run.config.run.batch_size_train // num_ranks}"
        words = [*self.run.words, share]
        return ["train", "--cfg-path", self.run.step.file, "--options", *words]


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation of one cell with one seed.

    Attributes:
        run: what is asked.
        size: its questions, probes not counted.
    """

    ok_exit_codes: ClassVar[tuple[int, ...]] = (0,)

    run: Run
    size: int

    @property
    def name(self) -> str:
        """What is shown beside the bar of its cell."""
        return self.run.step.folder

    @property
    def folder(self) -> Path:
        """The evaluation's own."""
        return self.run.folder

    def kept(self) -> int:
        """Return all questions once all sets are finished; the evaluation knows what is left."""
        is_done = (self.folder / METRICS_NAME).is_file() and has_result(self.run)
        return self.size if is_done else 0

    def done(self) -> int:
        """Return the questions answered so far."""
        files = (*self.folder.glob("*/parts/*.jsonl"), *self.folder.glob("*/*.jsonl"))
        return sum(_num_plain(file) for file in files)

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line; every process takes its share of the questions."""
        del num_ranks
        return ["evaluate", "--cfg-path", self.run.step.file, "--options", *self.run.words]


def _num_plain(file: Path) -> int:
    """Return how many lines of a file are no probe's."""
    try:
        return file.read_bytes().count(PLAIN)
    except FileNotFoundError:
        # The evaluation has put its parts together since they were listed.
        return 0
