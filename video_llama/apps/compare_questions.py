"""What cells were asked and answered, and whether it was the same.

Only questions asked with their media as they are count; probes belong to `evaluate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.compare_runs import CellRuns
from video_llama.tasks.predictions import (
    NO_PROBE,
    PREDICTIONS_FILE,
    Prediction,
    read_predictions,
)

Answers = Mapping[str, Prediction]
"""What one model answered, by the question's key."""


@dataclass(frozen=True)
class QuestionProof:
    """Whether a cell was asked what the baseline was asked.

    Attributes:
        cell: its name.
        num_both: questions that both answered, over all seeds.
        only_here: keys that only the cell was asked, over all seeds.
        only_there: keys that only the baseline was asked, over all seeds.
        problem: the first difference as a sentence, "" if there is none.
        num_errors: questions one of them could not be asked, left out for both.
    """

    cell: str
    num_both: int
    only_here: int
    only_there: int
    problem: str
    num_errors: int


def read_sets(runs: CellRuns) -> dict[str, Answers]:
    """Return a cell's answers by question set; sets of one name also bear their folder's.

    Args:
        runs: of the cell, with one seed.
    """
    files = [path for folder in runs.evaluations for path in sorted(_answer_files(folder))]
    counts = Counter(path.parent.name for path in files)
    answers: dict[str, Answers] = {}
    for path in files:
        name = path.parent.name
        label = name if counts[name] == 1 else f"{path.parent.parent.name}/{name}"
        asked = [p for p in read_predictions(path) if p.probe == NO_PROBE]
        answers[label] = {prediction.key: prediction for prediction in asked}
    return answers


def _answer_files(folder: Path) -> list[Path]:
    own = folder / PREDICTIONS_FILE
    return [own] if own.is_file() else list(folder.glob(f"*/{PREDICTIONS_FILE}"))


def prove(name: str, couples: Sequence[tuple[Answers, Answers]]) -> QuestionProof:
    """Compare what a cell and the baseline were asked.

    Args:
        name: of the cell.
        couples: its answers and the baseline's, a pair for every seed.
    """
    num_both = only_here = only_there = num_errors = 0
    problem = ""
    for here, there in couples:
        only_here += len(here.keys() - there.keys())
        only_there += len(there.keys() - here.keys())
        for key in dict.fromkeys((*here, *there)):
            one, other = here.get(key), there.get(key)
            if one is None or other is None:
                where = "the baseline" if one is None else name
                problem = problem or f"question '{key}' was asked of {where} alone"
            elif asked(one) != asked(other):
                problem = problem or (
                    f"question '{key}' is '{one.question}' ({one.answer}) of {_files(one)} here "
                    f"and '{other.question}' ({other.answer}) of {_files(other)} there"
                )
            elif one.error is None and other.error is None:
                num_both += 1
            else:
                num_errors += 1
    return QuestionProof(name, num_both, only_here, only_there, problem, num_errors)


def asked(prediction: Prediction) -> tuple[object, ...]:
    """Return what makes two questions the same; media may lie in another folder.

    Args:
        prediction: the answer to one of them.
    """
    shown = [
        (item.kind, Path(item.path).name, item.start_s, item.end_s) for item in prediction.media
    ]
    return prediction.kind, prediction.question, prediction.answer, prediction.candidates, shown


def _files(prediction: Prediction) -> str:
    return ", ".join(dict.fromkeys(Path(item.path).name for item in prediction.media)) or "no media"


def clip_of(prediction: Prediction) -> frozenset[str] | str:
    """Return what questions about one clip share: its files, whichever seconds of them.

    A question without media stands alone.

    Args:
        prediction: the answer to one of them.
    """
    return frozenset(item.path for item in prediction.media) or prediction.key
