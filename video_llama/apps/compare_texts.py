"""A comparison in words, as tables of the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from video_llama.apps.compare_answers import ALL, CellScore, SetComparison
from video_llama.apps.compare_model import Comparison
from video_llama.apps.report import label_of
from video_llama.tasks.paired import Difference, Verdict

COLOURS = {"better": "green", "worse": "red", "no difference shown": "", "too few samples": "dim"}

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
            sentences.append(_sentence(score, base, where=where))
    return sentences


def _sentence(score: CellScore, base: CellScore, *, where: str) -> tuple[str, str]:
    if score.difference is None or score.verdict is None:
        return (
            "missing",
            f"{where}{score.cell} and {base.cell} have no answered question in common.",
        )
    assert score.accuracy is not None, "a difference is made of answers"
    difference, word = score.difference, score.verdict.word
    opening = {
        "better": f"{score.cell} is better than {base.cell}",
        "worse": f"{score.cell} is worse than {base.cell}",
        "no difference shown": f"no difference between {score.cell} and {base.cell} is shown",
        "too few samples": f"too few samples to tell {score.cell} from {base.cell}",
    }[word]
    seen = ""
    if word == "no difference shown":
        seen = f"; one of {points(difference.detectable)} points would have been seen"
    elif word == "too few samples":
        reach = difference.detectable
        seen = (
            "; nothing could have been seen"
            if math.isinf(reach) or reach > 1
            else f"; only one of {points(reach)} points or more could have been seen"
        )
    return word, (
        f"{where}{opening}: {signed(difference.estimate.value)} points, 95 % interval "
        f"{interval(difference)}{seen} ({counted(difference)})."
    )


def counted(difference: Difference) -> str:
    """Say what a difference was made of."""
    return (
        f"{difference.num_questions:,} questions on {_many(difference.num_clips, 'clip')}, "
        f"{_many(difference.num_seeds, 'seed')}"
    )


def data_sentence(comparison: Comparison) -> tuple[bool, str]:
    """Say whether all cells provably saw the same data: (they did, sentence)."""
    problems = comparison.problems
    if problems:
        more = f" ({len(problems) - 1} more below)" if len(problems) > 1 else ""
        return False, f"Not the same data. {problems[0]}{more}"
    trained = [proof.same for proof in comparison.proofs if proof.same.num_samples]
    texts = []
    if trained:
        samples = sum(same.num_samples for same in trained)
        texts.append(
            f"{_many(len(trained), 'pair')} of runs saw the same samples in the same order, by "
            f"their ledgers ({samples:,} samples compared)"
        )
    if any(asked.proofs for asked in comparison.sets):
        texts.append("all cells were asked the same questions")
    if not texts:
        return True, "Nothing was trained or asked side by side."
    text = "; ".join(texts)
    return True, f"{text[0].upper()}{text[1:]}."


def caveats(comparison: Comparison) -> list[str]:
    """Name what a reader must know before believing a verdict."""
    texts = []
    differences = [s.difference for a in comparison.sets for s in a.rows[0].scores if s.difference]
    if any(difference.num_seeds == 1 for difference in differences):
        texts.append(
            "One seed: this tells two trained models apart, not two ways to train; the same "
            "settings with another seed may come out otherwise."
        )
    elif any(difference.num_seeds == 2 for difference in differences):
        texts.append("Two seeds say little about others; the intervals are wide for it.")
    for asked in comparison.sets:
        texts += [f"{asked.name}: {note}" for note in asked.notes]
        texts += [
            f"{asked.name}: {_many(proof.num_errors, 'question')} could not be asked of "
            f"{proof.cell} or the baseline, and count for neither"
            for proof in asked.proofs
            if proof.num_errors
        ]
    return texts


def console_tables(comparison: Comparison) -> Iterator[Any]:
    """Yield what the terminal shows: one table per question set, and the sentences."""
    for asked in comparison.sets:
        table = Table(title=f"{asked.name}: accuracy in percent", title_justify="left")
        table.add_column("kind")
        for number, score in enumerate(asked.rows[0].scores):
            table.add_column(score.cell + ("\n(baseline)" if number == 0 else ""), justify="right")
            if number:
                table.add_column("difference", justify="right")
                table.add_column("verdict")
        for row in asked.rows:
            cells = [text for score in row.scores for text in _console_cells(score)]
            table.add_row(label_of(row.kind), *cells[:1], *cells[3:])
        yield table
    is_same, data = data_sentence(comparison)
    yield f"[green]{data}[/]" if is_same else f"[bold red]{data}[/]"
    for word, sentence in verdict_sentences(comparison):
        colour = COLOURS.get(word, "red")
        yield f"[{colour}]{sentence}[/]" if colour else sentence
    yield from (f"[dim]{text}[/]" for text in caveats(comparison))


def _console_cells(score: CellScore) -> tuple[str, str, str]:
    value = "-" if score.accuracy is None else percent(score.accuracy.value)
    if score.difference is None or score.verdict is None:
        return value, "", ""
    word = score.verdict.word
    text = f"{signed(score.difference.estimate.value)} {interval(score.difference)}"
    return value, text, f"[{COLOURS[word]}]{word}[/]" if COLOURS[word] else word


def to_markdown(comparison: Comparison) -> str:
    """Write the tables as Markdown."""
    is_same, data = data_sentence(comparison)
    lines = [
        f"# {comparison.title}",
        "",
        *([comparison.question, ""] if comparison.question else []),
    ]
    lines += [*(f"- {sentence}" for _, sentence in verdict_sentences(comparison)), ""]
    lines += [f"Data: {data}" if is_same else f"**{data}**", ""]
    lines += [f"> {text}\n" for text in caveats(comparison)]
    for asked in comparison.sets:
        lines += [f"## {asked.name}", "", *_markdown_table(asked), "", HOW, ""]
    lines += ["## Training", "", *_training_table(comparison), ""]
    if comparison.settings:
        names = list(dict.fromkeys(runs.name for runs in comparison.cells))
        lines += [
            "## Settings that differ",
            "",
            _row(["run", "key", *names]),
            _rule(2 + len(names)),
        ]
        for setting in comparison.settings:
            values = [setting.values.get(name, "-") for name in names]
            lines.append(_row([setting.recipe, f"`{setting.key}`", *values]))
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(asked: SetComparison) -> Iterator[str]:
    base, *others = asked.rows[0].scores
    headers = ["kind", f"{base.cell} (baseline)"]
    for score in others:
        headers += [score.cell, "difference", "verdict"]
    yield _row(headers)
    yield _rule(len(headers))
    for row in asked.rows:
        texts = [f"**{ALL}**" if row.kind == ALL else label_of(row.kind)]
        for score in row.scores:
            texts.append("-" if score.accuracy is None else with_interval(score))
            if score.cell != base.cell:
                texts += _markdown_difference(score)
        yield _row(texts)


def _markdown_difference(score: CellScore) -> list[str]:
    if score.difference is None or score.verdict is None:
        return ["-", "-"]
    text = f"{signed(score.difference.estimate.value)} {interval(score.difference)}"
    return [text, told(score.verdict)]


def _training_table(comparison: Comparison) -> Iterator[str]:
    headers = ["cell", "seed", "run", "parameters that learn", "steps", "seconds"]
    headers += ["device seconds", "last training loss", "lowest validation loss"]
    yield _row(headers)
    yield _rule(len(headers))
    for one in comparison.trainings:
        yield _row(
            [
                one.cell,
                str(one.seed),
                one.recipe,
                number(one.num_trainable, "{:,}"),
                number(one.num_steps, "{:,}"),
                number(one.seconds, "{:,.0f}"),
                number(one.device_seconds, "{:,.0f} " + one.device),
                number(one.last_loss, "{:.4f}"),
                number(one.lowest_valid, "{:.4f}"),
            ]
        )


def to_json(comparison: Comparison) -> str:
    """Write every number."""
    tree = {
        "title": comparison.title,
        "question": comparison.question,
        "command": comparison.command,
        "baseline": comparison.baseline,
        "is_same_data": not comparison.problems,
        "problems": comparison.problems,
        "verdicts": [sentence for _, sentence in verdict_sentences(comparison)],
        "caveats": caveats(comparison),
        "cells": [_plain(runs) for runs in comparison.cells],
        "sets": [
            {"name": a.name, "rows": _plain(a.rows), "proofs": _plain(a.proofs), "notes": a.notes}
            for a in comparison.sets
        ],
        "training": [_plain(training) for training in comparison.trainings],
        "training_data": [_plain(proof) for proof in comparison.proofs],
        "settings": [_plain(setting) for setting in comparison.settings],
    }
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def _plain(node: Any) -> Any:  # noqa: ANN401 - a dataclass, or what JSON holds
    """Turn dataclasses and paths into what JSON holds; what is not finite becomes null."""
    if dataclasses.is_dataclass(node):
        return {field.name: _plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_plain(value) for value in node]
    if isinstance(node, Path):
        return str(node)
    return None if isinstance(node, float) and not math.isfinite(node) else node


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


def told(verdict: Verdict) -> str:
    """Write a verdict; where nothing was shown, with what would have been."""
    if verdict.word in ("better", "worse"):
        return verdict.word
    reach = verdict.detectable
    return verdict.word + (f" (sees {points(reach)})" if reach <= 1 else "")


def number(value: float | None, form: str) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else form.format(value)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _rule(num: int) -> str:
    return "|" + "---|" * num
