"""From predictions to the table of accuracies: by kind, beside chance, ceilings and bars.

Counting only; drawing the table belongs to the apps. A set's ceilings stand in `ceilings.json`
next to its questions, written by whoever knows the ground truth:

    {"colour": {"chance": 0.17, "blind": 0.17, "deaf": 1.0, "order_blind": 1.0}}
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.tasks.answers import mentions
from video_llama.tasks.predictions import NO_PROBE, Prediction
from video_llama.tasks.probes import PROBES
from video_llama.tasks.statistics import Estimate, paired_p_value, proportion

CEILINGS_FILE = "ceilings.json"
CHANCE = "chance"
PROBE_MARGIN = 0.05
"""How far above its ceiling a probe may lie: the ceiling is that of a set, not of a sample."""


@dataclass(frozen=True)
class Score:
    """Accuracy on one group of questions.

    Attributes:
        num: questions asked.
        num_correct: of them, answered right.
        accuracy: with its 95 % interval.
        at_least: the bar from below, None without one.
        at_most: the bar from above, None without one.
    """

    num: int
    num_correct: int
    accuracy: Estimate
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passes(self) -> bool | None:
        """Whether the interval is compatible with the bars, None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        high_enough = self.at_least is None or self.accuracy.may_reach(self.at_least)
        low_enough = self.at_most is None or self.accuracy.may_stay_below(self.at_most)
        return high_enough and low_enough


@dataclass(frozen=True)
class ProbeScore:
    """A group under a probe.

    Attributes:
        score: accuracy under the probe.
        without: accuracy on the same questions without it.
        p_value: of the difference between the two, exact McNemar.
    """

    score: Score
    without: Score
    p_value: float


@dataclass(frozen=True)
class KindScore:
    """A row of the table.

    Attributes:
        kind: of question.
        form: open, yes_no or multiple_choice; "mixed" if the kind has several.
        score: without any probe.
        ceilings: chance and ceilings by name, as far as the set knows them.
        probes: by the probe's name.
    """

    kind: str
    form: str
    score: Score
    ceilings: Mapping[str, float] = field(default_factory=dict)
    probes: Mapping[str, ProbeScore] = field(default_factory=dict)


def read_ceilings(folder: Path) -> dict[str, dict[str, float]]:
    """Read the ceilings that stand next to a question set, nothing if it has none.

    Raises:
        ConfigError: the file is not of the form shown above.
    """
    path = folder / CEILINGS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(kind): {str(name): float(value) for name, value in row.items()}
            for kind, row in content.items()
        }
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a mapping from kinds to mappings from names to numbers: {error}",
            where=str(path),
        ) from error


def score(
    predictions: Sequence[Prediction],
    *,
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    bars: Mapping[str, float] | None = None,
) -> list[KindScore]:
    """Count right answers by kind and probe.

    Args:
        predictions: of one question set; those with an error are left out.
        ceilings: chance and ceilings by kind and name.
        bars: lowest accuracy aimed at, by kind; a name with a star pools all kinds that match it
            ("mc_*": 0.9) in a row of its own.

    Returns:
        One row per kind, in the order of first appearance, then one per pool.
    """
    asked = [prediction for prediction in predictions if prediction.error is None]
    kinds = list(dict.fromkeys(prediction.kind for prediction in asked))
    pools = [pattern for pattern in bars or {} if is_pool(pattern)]
    rows = []
    for pattern in (*kinds, *pools):
        pooled = {kind for kind in kinds if fnmatchcase(kind, pattern)}
        members = [p for p in asked if p.kind in pooled]
        if members:
            known = _mean_ceilings(members, ceilings or {})
            rows.append(
                _score_kind(pattern, members, ceilings=known, bar=(bars or {}).get(pattern))
            )
    return rows


def is_pool(kind: str) -> bool:
    """Say whether a row pools several kinds, "mc_*" for example."""
    return "*" in kind


def _score_kind(
    kind: str,
    predictions: Sequence[Prediction],
    *,
    ceilings: Mapping[str, float],
    bar: float | None,
) -> KindScore:
    """Make one row."""
    by_probe: dict[str, dict[str, bool]] = defaultdict(dict)
    for prediction in predictions:
        by_probe[prediction.probe][prediction.key] = prediction.correct
    forms = {prediction.form for prediction in predictions}
    full = by_probe[NO_PROBE]
    return KindScore(
        kind=kind,
        form=forms.pop() if len(forms) == 1 else "mixed",
        score=_count(full, at_least=bar),
        ceilings=ceilings,
        probes={
            name: _score_probe(name, answers, full=full, ceilings=ceilings, bar=bar)
            for name, answers in by_probe.items()
            if name != NO_PROBE
        },
    )


def _mean_ceilings(
    predictions: Sequence[Prediction], ceilings: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Average the ceilings of kinds by their questions; a name that one kind lacks is left out."""
    shares = Counter(p.kind for p in predictions if p.probe == NO_PROBE)
    known = [(ceilings.get(kind, {}), num) for kind, num in shares.items()]
    names = [name for name in known[0][0] if all(name in row for row, _ in known)]
    total = sum(shares.values())
    return {name: sum(row[name] * num for row, num in known) / total for name in names}


def to_metrics(rows: Sequence[KindScore], *, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the table as plain values, as written to `metrics.json`.

    Under `lenient` a free answer counts if the right one stands anywhere in it, see `mentions`.

    Args:
        rows: from `score`.
        predictions: all of them; the ones that could not be asked are named.
    """
    broken = {p.key: p.error for p in predictions if p.error is not None}
    loosely = score([_read_loosely(p) for p in predictions if p.probe == NO_PROBE])
    return {
        **_means(rows),
        "num_unusable": len(broken),
        "unusable": broken,
        "kinds": {row.kind: _plain_row(row) for row in rows},
        "lenient": {**_means(loosely), "kinds": {r.kind: r.score.accuracy.value for r in loosely}},
    }


def _read_loosely(prediction: Prediction) -> Prediction:
    """Count a free answer as right if the right one stands anywhere in it."""
    is_free = prediction.form != "multiple_choice" and prediction.error is None
    if prediction.correct or not is_free:
        return prediction
    found = mentions(prediction.prediction, prediction.answer)
    return dataclasses.replace(prediction, correct=found)


def _means(rows: Sequence[KindScore]) -> dict[str, Any]:
    """Return the accuracy over questions, and the mean over kinds; pools count nowhere."""
    single = [row for row in rows if not is_pool(row.kind)]
    num = sum(row.score.num for row in single)
    num_correct = sum(row.score.num_correct for row in single)
    return {
        "micro_accuracy": num_correct / num if num else None,
        "macro_accuracy": (
            sum(row.score.accuracy.value for row in single) / len(single) if single else None
        ),
        "num_questions": num,
    }


def _count(
    answers: Mapping[str, bool], *, at_least: float | None = None, at_most: float | None = None
) -> Score:
    """Count one group."""
    right = sum(answers.values())
    return Score(len(answers), right, proportion(right, len(answers)), at_least, at_most)


def _score_probe(
    name: str,
    answers: Mapping[str, bool],
    *,
    full: Mapping[str, bool],
    ceilings: Mapping[str, float],
    bar: float | None,
) -> ProbeScore:
    """Hold a probe against the ceiling it should fall to, or the bar it should keep."""
    probe = PROBES[name]
    known = [ceilings[ceiling] for ceiling in probe.ceilings if ceiling in ceilings]
    lowest = min(known) if known else None
    at_least = bar if probe.spares_the_rest and lowest == 1.0 else None
    at_most = None if lowest is None or lowest == 1.0 else lowest + PROBE_MARGIN
    same = {key: full[key] for key in answers}
    return ProbeScore(
        score=_count(answers, at_least=at_least, at_most=at_most),
        without=_count(same),
        p_value=paired_p_value(
            sum(same[key] and not answers[key] for key in answers),
            sum(answers[key] and not same[key] for key in answers),
        ),
    )


def _plain_row(row: KindScore) -> dict[str, Any]:
    """Return a row as plain values."""
    return {
        "form": row.form,
        **_plain(row.score),
        "ceilings": dict(row.ceilings),
        "probes": {
            name: {
                **_plain(probe.score),
                "accuracy_without": probe.without.accuracy.value,
                "p_value": probe.p_value,
            }
            for name, probe in row.probes.items()
        },
    }


def _plain(value: Score) -> dict[str, Any]:
    """Return a score as plain values."""
    return {
        "num": value.num,
        "num_correct": value.num_correct,
        **{
            "accuracy" if k == "value" else k: v
            for k, v in dataclasses.asdict(value.accuracy).items()
        },
        "at_least": value.at_least,
        "at_most": value.at_most,
        "passes": value.passes,
    }
