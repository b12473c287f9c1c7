"""A comparison as tables, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from video_llama.apps.compare_answers import CellScore, SetComparison
from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_words import (
    HOW,
    caveats,
    data_sentence,
    full_label,
    interval,
    label,
    number,
    percent,
    signed,
    told,
    verdict_sentences,
    with_interval,
)

COLOURS = {"better": "green", "worse": "red", "too few samples": "dim", "missing": "red"}
"""Of verdicts; of one seed they have none."""

TRAINING = "Training"
"""The section of what each run took, which has the learning curves."""

MOST_WITH_INTERVALS = 2
"""Cells beside the baseline, of which a table by kinds can show differences and intervals."""

MOST_COLUMNS = 6
"""Cells that stand beside each other in a terminal; of more, only what was shown is listed."""


def console_tables(comparison: Comparison) -> Iterator[Any]:
    """Yield what the terminal shows: tables of every question set, and the sentences."""
    for asked in comparison.sets:
        yield _console_cells(asked)
        is_narrow = len(asked.rows[0].scores) <= MOST_COLUMNS
        yield _console_kinds(asked) if is_narrow else _console_shown(asked)
    is_same, data = data_sentence(comparison)
    yield Text(data, style="green" if is_same else "bold red")
    for word, sentence in verdict_sentences(comparison):
        yield Text(sentence, style=COLOURS.get(word, ""))
    yield from (Text(text, style="dim") for text in caveats(comparison))


def _console_cells(asked: SetComparison) -> Table:
    """Lay out all questions, a row for every cell."""
    table = Table(title=f"{asked.name}: all questions, accuracy in percent", title_justify="left")
    table.add_column("cell")
    for name in ("questions", "accuracy", "95 %", "difference", "95 %"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for score in asked.rows[0].scores:
        texts: list[str | Text] = [Text(score.cell), f"{score.num_questions:,}"]
        texts += ["-", "", "baseline", "", ""]
        if score.accuracy is not None:
            low, high = percent(score.accuracy.low), percent(score.accuracy.high)
            texts[2:4] = [percent(score.accuracy.value), f"{low} to {high}"]
        if score.difference is not None and score.verdict is not None:
            estimate = score.difference.estimate
            texts[4] = signed(estimate.value)
            texts[5] = f"{signed(estimate.low)} to {signed(estimate.high)}"
            texts[6] = _marked(score, told(score.difference, score.verdict))
        elif score is not asked.rows[0].scores[0]:
            texts[4] = "-"
        table.add_row(*texts)
    return table


def _console_kinds(asked: SetComparison) -> Table:
    """Lay out the kinds, a column for every cell, coloured by verdict."""
    table = Table(
        title=f"{asked.name}: by kind (green and red: better and worse)",
        title_justify="left",
    )
    table.add_column("kind")
    for score in asked.rows[0].scores:
        table.add_column(Text(score.cell), justify="right")
    for row in asked.rows[1:]:
        cells = [
            _marked(score, "-" if score.accuracy is None else percent(score.accuracy.value))
            for score in row.scores
        ]
        table.add_row(full_label(row.kind), *cells)
    return table


def _console_shown(asked: SetComparison) -> Table:
    """List the kinds in which cells were shown to differ, where all would not fit."""
    table = Table(title=f"{asked.name}: by kind, differences shown", title_justify="left")
    table.add_column("cell")
    table.add_column("kind")
    table.add_column("difference", justify="right")
    table.add_column("verdict")
    for place, cell in enumerate(asked.rows[0].scores):
        for row in asked.rows[1:]:
            score = row.scores[place]
            if word := _shown(score):
                assert score.difference is not None, "shown"
                text = signed(score.difference.estimate.value)
                table.add_row(cell.cell, full_label(row.kind), text, _marked(score, word))
    if not table.rows:
        table.caption = "none; all accuracies stand in results.md and on the page"
    return table


def _marked(score: CellScore, text: str) -> Text:
    """Colour a text by a score's verdict."""
    if score.difference is None or score.verdict is None:
        return Text(text)
    return Text(text, style=COLOURS.get(label(score.difference, score.verdict), ""))


def _shown(score: CellScore) -> str:
    """Return a score's verdict if it is one for either side, "" if not."""
    if score.difference is None or score.verdict is None:
        return ""
    is_shown = score.verdict.word in ("better", "worse")
    return label(score.difference, score.verdict) if is_shown else ""


def to_markdown(comparison: Comparison, *, pictures: Mapping[str, str]) -> str:
    """Write the tables as Markdown.

    Args:
        comparison: what came out.
        pictures: paths of the plots by the section they stand in: a question set's name or
            `TRAINING`.
    """
    is_same, data = data_sentence(comparison)
    lines = [
        f"# {_one_line(comparison.title)}",
        "",
        *([comparison.question, ""] if comparison.question else []),
    ]
    lines += [*(f"- {_one_line(sentence)}" for _, sentence in verdict_sentences(comparison)), ""]
    lines += [f"Data: {data}" if is_same else f"**{data}**", ""]
    lines += [f"> {text}\n" for text in caveats(comparison)]
    for asked in comparison.sets:
        lines += [f"## {_one_line(asked.name)}", "", *_markdown_cells(asked), ""]
        lines += _markdown_picture(pictures, asked.name, "Accuracies with 95 % intervals")
        lines += [*_markdown_kinds(asked), "", HOW, ""]
    lines += [f"## {TRAINING}", "", *_markdown_picture(pictures, TRAINING, "Learning curves")]
    lines += [*_training_table(comparison), ""]
    lines += _markdown_losses(comparison)
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


def _markdown_picture(pictures: Mapping[str, str], section: str, alt: str) -> Iterator[str]:
    if section in pictures:
        yield f"![{alt}]({quote(pictures[section])})"
        yield ""


def _markdown_cells(asked: SetComparison) -> Iterator[str]:
    """Yield the rows of all questions, one for every cell."""
    yield _row(["cell", "questions", "accuracy, 95 % interval", "difference", "verdict"])
    yield _rule(5)
    for score in asked.rows[0].scores:
        texts = [score.cell, f"{score.num_questions:,}", with_interval(score), "baseline", ""]
        if score is not asked.rows[0].scores[0]:
            texts[3:] = _markdown_difference(score)
        yield _row(texts)


def _markdown_kinds(asked: SetComparison) -> Iterator[str]:
    """Yield the rows of the kinds: of few cells with intervals, of many with verdicts alone."""
    base, *others = asked.rows[0].scores
    is_wide = len(others) <= MOST_WITH_INTERVALS
    if not is_wide:
        yield "By kind, in percent; (better) and (worse) stand where that was shown."
        yield ""
    headers = ["kind", f"{base.cell} (baseline)"]
    for score in others:
        headers += [score.cell, "difference", "verdict"] if is_wide else [score.cell]
    yield _row(headers)
    yield _rule(len(headers))
    for row in asked.rows[1:]:
        texts = [full_label(row.kind)]
        for score in row.scores:
            if is_wide or score.accuracy is None:
                texts.append(with_interval(score))
            else:
                word = _shown(score)
                texts.append(percent(score.accuracy.value) + (f" ({word})" if word else ""))
            if is_wide and score.cell != base.cell:
                texts += _markdown_difference(score)
        yield _row(texts)


def _markdown_difference(score: CellScore) -> list[str]:
    if score.difference is None or score.verdict is None:
        return ["-", "-"]
    text = f"{signed(score.difference.estimate.value)} {interval(score.difference)}"
    return [text, told(score.difference, score.verdict)]


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


def _markdown_losses(comparison: Comparison) -> Iterator[str]:
    if not comparison.losses:
        return
    yield "Loss on the same samples, over the last tenth of the steps (nats per supervised token):"
    yield ""
    yield _row(["cell", "run", "its loss", comparison.baseline, "difference", "verdict"])
    yield _rule(6)
    for one in comparison.losses:
        texts = [number(one.here, "{:.4f}"), number(one.there, "{:.4f}"), one.reason, "-"]
        if one.difference is not None and one.verdict is not None:
            value = one.difference.estimate
            texts[2] = f"{value.value:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"
            texts[3] = label(one.difference, one.verdict)
        yield _row([one.cell, one.recipe, *texts])
    yield ""


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(text).replace("|", "\\|") for text in texts) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rule(num: int) -> str:
    return "|" + "---|" * num
