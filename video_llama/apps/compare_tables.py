"""A comparison as tables, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from video_llama.apps.compare_answers import ALL, CellScore, SetComparison
from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_words import (
    HOW,
    caveats,
    data_sentence,
    full_label,
    interval,
    number,
    percent,
    signed,
    told,
    verdict_sentences,
    with_interval,
)

COLOURS = {"better": "green", "worse": "red", "no difference shown": "", "too few samples": "dim"}


def console_tables(comparison: Comparison) -> Iterator[Any]:
    """Yield what the terminal shows: one table per question set, and the sentences."""
    for asked in comparison.sets:
        table = Table(title=f"{asked.name}: accuracy in percent", title_justify="left")
        table.add_column("kind")
        for place, score in enumerate(asked.rows[0].scores):
            table.add_column(score.cell + ("\n(baseline)" if place == 0 else ""), justify="right")
            if place:
                table.add_column("difference", justify="right")
                table.add_column("verdict")
        for row in asked.rows:
            cells = [text for score in row.scores for text in _console_cells(score)]
            table.add_row(full_label(row.kind), *cells[:1], *cells[3:])
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


def _markdown_table(asked: SetComparison) -> Iterator[str]:
    base, *others = asked.rows[0].scores
    headers = ["kind", f"{base.cell} (baseline)"]
    for score in others:
        headers += [score.cell, "difference", "verdict"]
    yield _row(headers)
    yield _rule(len(headers))
    for row in asked.rows:
        texts = [f"**{ALL}**" if row.kind == ALL else full_label(row.kind)]
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
            texts[3] = one.verdict.word
        yield _row([one.cell, one.recipe, *texts])
    yield ""


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _rule(num: int) -> str:
    return "|" + "---|" * num
