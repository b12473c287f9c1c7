"""What a comparison of cells consists of."""

from __future__ import annotations

from dataclasses import dataclass

from video_llama.apps.compare_answers import SetComparison
from video_llama.apps.compare_data import TrainingProof
from video_llama.apps.compare_losses import LossComparison
from video_llama.apps.compare_runs import CellRuns
from video_llama.apps.compare_training import Setting, Training


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        title: heading.
        question: that the comparison is to answer.
        baseline: name of the cell the others are compared with.
        cells: what was compared.
        sets: accuracies by question set.
        proofs: of the same training data, a run each.
        losses: of the last training steps, a cell each.
        trainings: what every run took.
        settings: keys in which the cells differ.
        command: that made it, "" if nobody said.
        missing: what should have been compared too and was not there, and why, a sentence each.
    """

    title: str
    question: str
    baseline: str
    cells: tuple[CellRuns, ...]
    sets: tuple[SetComparison, ...]
    proofs: tuple[TrainingProof, ...]
    losses: tuple[LossComparison, ...]
    trainings: tuple[Training, ...]
    settings: tuple[Setting, ...]
    command: str = ""
    missing: tuple[str, ...] = ()

    @property
    def with_own_data(self) -> list[str]:
        """Cells that were to be trained on other data than the baseline."""
        return list(dict.fromkeys(runs.name for runs in self.cells if runs.has_own_data))

    @property
    def problems(self) -> list[str]:
        """Why the cells were not trained or asked on provably the same data, none if they were.

        Cells that were to have data of their own differ from the baseline in these without being
        one, in training and in questions.
        """
        trained = [
            f"{proof.cell}, seed {proof.seed}, {proof.recipe}: {proof.same.problem}"
            for proof in self.proofs
            if not proof.same.is_same and proof.cell not in self.with_own_data
        ]
        asked = [
            f"{proof.cell}, {asked.name}: {proof.problem}"
            for asked in self.sets
            for proof in asked.proofs
            if proof.problem and proof.cell not in self.with_own_data
        ]
        return trained + asked
