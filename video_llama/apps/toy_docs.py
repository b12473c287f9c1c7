"""What the docs show of the toy world: tables in markdown, plots and a sheet of clips as pictures.

Made from what `video-llama toy run` and `toy experiments` leave behind; nothing is computed anew,
so the pages can be renewed with one command after a change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from video_llama.common.errors import ConfigError
from video_llama.toy import captions
from video_llama.toy.render import render_clip
from video_llama.toy.scenes import Scene, sample_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECIPES = {
    "visionbranch_stage1": "vision, captions",
    "visionbranch_stage2": "vision, questions",
    "audiobranch_stage1": "audio, captions",
    "audiobranch_stage2": "audio, questions",
    "audiovisual_stage3": "joint",
}
FOUNDATIONS = {
    "vision_curve.jsonl": ("vision", ("patch_shape", "slot_set_exact", "mean_set_exact")),
    "audio_curve.jsonl": ("audio", ("onsets", "pitch", "voice", "voice_of_picture")),
    "towers_curve.jsonl": ("towers", ("set_exact", "thing_of_patch", "ever_exact")),
    "decoder_curve.jsonl": ("decoder", ("recall", "motion", "in_time", "pair_colour", "who_first")),
}
"""Curve files of `video-llama toy foundations`, and what of them is plotted."""

SHEET_KINDS = ("single", "change", "bounce", "pair", "order", "single")
SCALE, CAPTION_PX, GAP_PX = 2, 16, 4

Kinds = Mapping[str, Mapping[str, Any]]


def write_docs(folder: Path, *, docs: Path) -> list[Path]:
    """Write everything the docs show.

    Args:
        folder: of a finished `video-llama toy run`, better with its experiments.
        docs: where the files go.

    Returns:
        The files.
    """
    docs.mkdir(parents=True, exist_ok=True)
    metrics = _read(folder / "eval_withaudio" / "metrics.json")
    composition = folder / "eval_composition" / "metrics.json"
    if composition.is_file():
        metrics |= _read(composition)
    names = ("results.md", "results.png", "curves.png", "clips.png", "foundations.png")
    written = [docs / name for name in names]
    tables = [_accuracy_table(name, metrics[name]["kinds"]) for name in metrics]
    experiments = folder / "experiments" / "experiments.json"
    if experiments.is_file():
        tables.append(_experiment_table(metrics, _read(experiments)))
    written[0].write_text("\n".join(tables), encoding="utf-8")
    plot_accuracies(metrics["test"]["kinds"], path=written[1])
    plot_curves({name: folder / name / "metrics.jsonl" for name in RECIPES}, path=written[2])
    draw_sheet(path=written[3])
    plot_foundations(docs, path=written[4])
    return written


def plot_accuracies(kinds: Kinds, *, path: Path) -> None:
    """Plot accuracy by kind of question with its interval, ceilings as marks beside it."""
    figure = _figure(width=10.0, height=0.26 * len(kinds) + 1.2)
    axes = _axes(figure)
    ordered = sorted(kinds, key=lambda kind: (kinds[kind].get("at_least") is None, kind))
    places = np.arange(len(ordered))[::-1]
    values = np.array([kinds[kind]["accuracy"] for kind in ordered])
    low = np.array([kinds[kind]["low"] for kind in ordered])
    high = np.array([kinds[kind]["high"] for kind in ordered])
    gated = [kinds[kind].get("at_least") is not None for kind in ordered]
    colours = ["#2a6f97" if is_gated else "#a9c4d6" for is_gated in gated]
    errors = np.stack([values - low, high - values])
    axes.barh(places, values, height=0.62, color=colours, xerr=errors, ecolor="#333333")
    marks = {"chance": ("|", "#d1495b"), "blind": ("x", "#edae49"), "order_blind": ("2", "#66a182")}
    for name, (marker, colour) in marks.items():
        known = [(kinds[k]["ceilings"].get(name), p) for k, p in zip(ordered, places, strict=True)]
        points = [(value, place) for value, place in known if value is not None and value < 1]
        if points:
            label = name.replace("_", "-") + ("" if name == "chance" else " ceiling")
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, label=label)
    axes.set_yticks(places, [kind.replace("_", " ") for kind in ordered])
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("accuracy on the test split, with 95 % intervals (dark: with a bar)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_curves(runs: Mapping[str, Path], *, path: Path) -> None:
    """Plot training and validation loss of every recipe that is there."""
    figure = _figure(width=9.0, height=4.0)
    axes = _axes(figure)
    for index, (name, file) in enumerate(runs.items()):
        if not file.is_file():
            continue
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for key, style, width in (("loss", "-", 1.0), ("valid_loss", "--", 1.8)):
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            if points:
                label = RECIPES[name] if key == "loss" else None
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{index}",
                    linewidth=width,
                    label=label,
                )
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("nats per supervised token (dashed: validation)")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_foundations(curves: Path, *, path: Path) -> None:
    """Plot what vision, audio, towers and decoder could do while they were pretrained.

    Args:
        curves: folder of the files in `FOUNDATIONS`.
        path: of the picture.
    """
    figure = _figure(width=15.0, height=3.4)
    for place, (file, (title, keys)) in enumerate(FOUNDATIONS.items(), start=1):
        axes = _axes(figure, rows_columns_place=(1, len(FOUNDATIONS), place))
        seconds, offset, last = [], 0.0, 0.0
        lines = [json.loads(line) for line in (curves / file).read_text("utf-8").splitlines()]
        for line in lines:
            # Every stage starts its clock anew.
            offset += last if line["cpu_s"] < last else 0.0
            last = line["cpu_s"]
            seconds.append(offset + last)
        for key in keys:
            points = [(t, line[key]) for t, line in zip(seconds, lines, strict=True) if key in line]
            axes.plot(*zip(*points, strict=True), label=key.replace("_", " "))
        axes.set(title=title, xlabel="CPU seconds", ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def draw_sheet(*, path: Path, seed: int = 0) -> None:
    """Draw one clip of every kind as a strip of its 8 frames, its caption below."""
    strips = [_strip(scene) for scene in _sheet_scenes(seed=seed)]
    height = sum(strip.height + GAP_PX for strip in strips)
    sheet = Image.new("RGB", (strips[0].width, height), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP_PX
    sheet.save(path, optimize=True)


def _sheet_scenes(*, seed: int) -> list[Scene]:
    """Pick the first scenes of the kinds in `SHEET_KINDS`."""
    wanted, scenes, index = list(SHEET_KINDS), [], 0
    while wanted:
        scene = sample_scene(index, seed=seed, split="valid")
        index += 1
        if scene.kind == wanted[0]:
            scenes.append(scene)
            wanted.pop(0)
    return scenes


def _strip(scene: Scene) -> Image.Image:
    """Draw the 8 frames a model sees side by side."""
    frames = render_clip(scene)[::2]
    side = frames.shape[1] * SCALE
    width = len(frames) * (side + GAP_PX) - GAP_PX
    strip = Image.new("RGB", (width, side + CAPTION_PX), "white")
    for index, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
        strip.paste(picture, (index * (side + GAP_PX), 0))
    ImageDraw.Draw(strip).text((2, side + 2), captions.joint_caption(scene), fill="black")
    return strip


def _accuracy_table(name: str, kinds: Kinds) -> str:
    """Return one question set as a markdown table."""
    probes = list(dict.fromkeys(probe for row in kinds.values() for probe in row["probes"]))
    ceilings = ("chance", "blind", "deaf", "order_blind")
    heads = ["kind", "n", "accuracy", "95 %", "bar", *ceilings, *probes]
    lines = [f"### {name}", "", _row(heads), _row(["---"] * len(heads))]
    for kind, row in kinds.items():
        bar = row.get("at_least")
        cells = [
            kind.replace("_", " ").replace("*", "(all)"),
            str(row["num"]),
            f"**{row['accuracy']:.3f}**",
            f"{row['low']:.3f} - {row['high']:.3f}",
            "" if bar is None else f"{bar:.2f} {'met' if row['passes'] else 'missed'}",
            *(_number(row["ceilings"].get(ceiling)) for ceiling in ceilings),
            *(_number(row["probes"].get(probe, {}).get("accuracy")) for probe in probes),
        ]
        lines.append(_row(cells))
    return "\n".join([*lines, ""])


def _experiment_table(full: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the accuracy of every cell by kind, beside the full model."""
    columns = {"full": full["test"]["kinds"]}
    for name, sets in cells.items():
        columns[name] = next(iter(sets.values()))["kinds"]
    kinds = list(dict.fromkeys(kind for column in columns.values() for kind in column))
    heads = ["kind", "blind ceiling", "order-blind ceiling", *columns]
    lines = ["### experiments", "", _row(heads), _row(["---"] * len(heads))]
    for kind in kinds:
        ceilings = columns["full"].get(kind, {}).get("ceilings", {})
        known = [_number(ceilings.get(name)) for name in ("blind", "order_blind")]
        values = [_number(column.get(kind, {}).get("accuracy")) for column in columns.values()]
        lines.append(_row([kind.replace("_", " ").replace("*", "(all)"), *known, *values]))
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _figure(*, width: float, height: float) -> Figure:
    """Return an empty figure; no window is opened."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib; run: pip install 'video-llama[eval]'") from error
    return Figure(figsize=(width, height))


def _axes(figure: Figure, *, rows_columns_place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """Add axes without a frame on top and on the right."""
    axes = figure.add_subplot(*rows_columns_place)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: not there; run `video-llama toy run` first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
