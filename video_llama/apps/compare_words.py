"""A comparison in words, and how its numbers are written."""

from __future__ import annotations

import math

from video_llama.apps.compare_answers import CellScore
from video_llama.apps.compare_losses import LossComparison
from video_llama.apps.compare_model import Comparison
from video_llama.apps.report import GROUPS, group_of, label_of
from video_llama.tasks.paired import LEVEL, Difference
from video_llama.tasks.verdicts import Verdict

HOW = (
    "Differences are paired: the same questions, seed by seed. Questions about one clip count "
    "together, and the intervals (95 %) are of what to expect of other clips and other seeds "
    "(crossed random effects; docs/experiments.md). An interval is of one comparison alone; a "
    "verdict takes into account, by Holm's correction, how many were made: cells on all questions "
    "are one family, cells by kinds another."
)


def verdict_sentences(comparison: Comparison) -> list[tuple[str, str]]:
    """Answer the question: one (word, sentence) per cell and question set."""
    sentences = []
    for asked in comparison.sets:
        base, *others = asked.rows[0].scores
        for score in others:
            where = f"{asked.name}: " if len(comparison.sets) > 1 else ""
            num = sum(other.difference is not None for other in others)
            sentences.append(_sentence(score, base, where=where, num_judged=num))
    if not comparison.sets:
        sentences += [_loss_sentence(loss, comparison.baseline) for loss in comparison.losses]
    return sentences


def _loss_sentence(loss: LossComparison, baseline: str) -> tuple[str, str]:
    """Where nothing was asked, say what the losses say."""
    if loss.difference is None or loss.verdict is None:
        return "missing", (
            f"{loss.cell} and {baseline} were not asked anything, and their losses cannot be "
            f"compared: {loss.reason}."
        )
    estimate, word = loss.difference.estimate, loss.verdict.word
    run, that = _called(loss.cell, baseline, difference=loss.difference)
    opening = {
        "better": f"{run} fits better than {that}",
        "worse": f"{run} fits worse than {that}",
        "no difference shown": f"no difference between {run} and {that} is shown",
        "too few samples": f"too few samples to tell {run} from {that}",
    }[word]
    return label(loss.difference, loss.verdict), (
        f"{opening}, by the training loss of the last steps: {loss.here:.4f} against "
        f"{loss.there:.4f} nats per token, {estimate.value:+.4f}, 95 % interval "
        f"[{estimate.low:+.4f}, {estimate.high:+.4f}] ({many(loss.difference.num_clips, 'clip')}, "
        f"{many(loss.difference.num_seeds, 'seed')}). Nothing was asked: name an evaluation."
    )


def _sentence(score: CellScore, base: CellScore, *, where: str, num_judged: int) -> tuple[str, str]:
    if score.difference is None or score.verdict is None:
        return (
            "missing",
            f"{where}{score.cell} and {base.cell} have no answered question in common.",
        )
    assert score.accuracy is not None, "a difference is made of answers"
    difference, word = score.difference, score.verdict.word
    run, that = _called(score.cell, base.cell, difference=difference)
    opening = {
        "better": f"{run} is better than {that}",
        "worse": f"{run} is worse than {that}",
        "no difference shown": f"no difference between {run} and {that} is shown",
        "too few samples": f"too few samples to tell {run} from {that}",
    }[word]
    if word not in ("better", "worse") and difference.p_value < LEVEL:
        would = "better" if difference.estimate.value > 0 else "worse"
        opening = (
            f"{run} would be {would} than {that} were this the only comparison, but "
            f"not as one of {num_judged}"
        )
    seen = ""
    if word == "no difference shown":
        seen = f"; one of {points(score.verdict.detectable)} points would have been seen"
    elif word == "too few samples":
        reach = score.verdict.detectable
        seen = (
            "; nothing could have been seen"
            if math.isinf(reach) or reach > 1
            else f"; only one of {points(reach)} points or more could have been seen"
        )
    return label(difference, score.verdict), (
        f"{where}{opening}: {signed(difference.estimate.value)} points, 95 % interval "
        f"{interval(difference)}{seen} ({counted(difference)})."
    )


def _called(cell: str, baseline: str, *, difference: Difference) -> tuple[str, str]:
    """Name two cells; of one seed only the models that it made."""
    if difference.num_seeds > 1:
        return cell, baseline
    return f"this run of {cell}", f"that of {baseline}"


def label(difference: Difference, verdict: Verdict) -> str:
    """Return a verdict's word; with one seed it is of two models, not of two ways to train.

    Args:
        difference: that was judged.
        verdict: what it means.
    """
    is_shown = verdict.word in ("better", "worse")
    return f"this run {verdict.word}" if is_shown and difference.num_seeds == 1 else verdict.word


def counted(difference: Difference) -> str:
    """Say what a difference was made of."""
    return (
        f"{many(difference.num_questions, 'question')} on {many(difference.num_clips, 'clip')}, "
        f"{many(difference.num_seeds, 'seed')}"
    )


def data_sentence(comparison: Comparison) -> tuple[bool, str]:
    """Say whether all cells provably saw the same data: (they did, sentence)."""
    problems = comparison.problems
    if problems:
        more = f" ({len(problems) - 1} more below)" if len(problems) > 1 else ""
        is_known = all(proof.same.is_known for proof in comparison.proofs)
        opening = "Not the same data." if is_known else "Not proved to be the same data."
        return False, f"{opening} {problems[0]}{more}"
    trained = [proof.same for proof in comparison.proofs if proof.same.is_same]
    texts = []
    if trained:
        samples = sum(same.num_samples for same in trained)
        texts.append(
            f"{many(len(trained), 'pair')} of runs saw the same samples in the same order, by "
            f"their ledgers ({samples:,} samples compared by key and media; ledgers hold no texts)"
        )
    asked = [proof for asked in comparison.sets for proof in asked.proofs]
    if any(not proof.problem for proof in asked):
        whole = all(not proof.problem for proof in asked)
        texts.append(f"{'all' if whole else 'the other'} cells were asked the same questions")
    if not texts:
        return True, "Nothing was trained or asked side by side."
    text = "; ".join(texts)
    return True, f"{text[0].upper()}{text[1:]}."


def caveats(comparison: Comparison) -> list[str]:
    """Name what a reader must know before believing a verdict."""
    texts = [f"not compared: {text}" for text in comparison.missing]
    differences = [s.difference for a in comparison.sets for s in a.rows[0].scores if s.difference]
    if not comparison.sets:
        differences = [loss.difference for loss in comparison.losses if loss.difference]
    if any(difference.num_seeds == 1 for difference in differences):
        texts.append(
            "One seed: this tells two trained models apart, not two ways to train; the same "
            "settings with another seed may come out otherwise."
        )
    elif any(difference.num_seeds == 2 for difference in differences):
        texts.append("Two seeds say little about others; the intervals are wide for it.")
    texts += [
        f"{name} has data of its own, as it was set, in training, questions or both: a difference "
        "may come from these"
        for name in comparison.with_own_data
    ]
    for asked in comparison.sets:
        texts += [f"{asked.name}: {note}" for note in asked.notes]
        texts += [
            f"{asked.name}: {many(proof.num_errors, 'question')} could not be asked of "
            f"{proof.cell} or the baseline, and count for neither"
            for proof in asked.proofs
            if proof.num_errors
        ]
    return texts


def full_label(kind: str) -> str:
    """Return how a kind of question is called where no heading stands above it."""
    label = label_of(kind)
    form = next((form for start, (_, form) in GROUPS.items() if kind.startswith(start)), "")
    return f"{label}, {group_of(kind).lower()}" if form == "{}" else label


def percent(value: float) -> str:
    """Write a share as a percentage with one digit."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """Write a difference of shares in percentage points with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def interval(difference: Difference) -> str:
    """Write the ends of an interval in percentage points."""
    return f"[{signed(difference.estimate.low)}, {signed(difference.estimate.high)}]"


def with_interval(score: CellScore) -> str:
    """Write an accuracy and its interval in percent."""
    accuracy = score.accuracy
    if accuracy is None:
        return "-"
    return f"{percent(accuracy.value)} [{percent(accuracy.low)}, {percent(accuracy.high)}]"


def told(difference: Difference, verdict: Verdict) -> str:
    """Write a verdict; where nothing was shown, with what would have been."""
    if verdict.word in ("better", "worse"):
        return label(difference, verdict)
    reach = verdict.detectable
    return verdict.word + (f" (sees {points(reach)} points)" if reach <= 1 else "")


def number(value: float | None, form: str) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else form.format(value)


def many(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
