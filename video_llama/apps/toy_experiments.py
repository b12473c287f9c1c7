"""`video-llama toy experiments`: what the full toy model owes to what it sees, hears and knows.

Each cell is the toy recipe with one thing changed, trained and evaluated through the same verbs:
clips that do not belong to their text (trained blind), no frame positions, the audio branch on
pictures as published, two more seeds; and the full model on the composition split, whose clips it
writes. Finished cells are kept.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from video_llama.apps.evaluate import METRICS_NAME
from video_llama.apps.lanes import run_lanes
from video_llama.apps.toy_run import AUDIO, JOINT, VISION, open_recipes
from video_llama.apps.verb_processes import Verbs
from video_llama.common.errors import ConfigError
from video_llama.common.rng import permutation
from video_llama.toy.plan import Counts
from video_llama.toy.world import MANIFEST, write_world

WITH_AUDIO, ONLY_VL = "eval_configs/toy/withaudio.yaml", "eval_configs/toy/only_vl.yaml"
VOICES, COMPOSITION = "eval_configs/toy/voices.yaml", "eval_configs/toy/composition.yaml"
NO_PROBES = "run.probes=[]"
NO_POSITIONS = "model.branches.video.stages.video_qformer.num_positions=0"
RESULTS = "experiments.json"

CAPTIONS = "webvid/visual/train.csv"
QUESTIONS = "videochat_instruct/visual/train.json"
"""What the vision branch learns from, below the world's folder."""


@dataclass(frozen=True)
class Cell:
    """One experiment.

    Attributes:
        name: folder of its runs.
        question: what it answers.
        lanes: chains of recipes that train side by side, in rounds one after the other.
        evaluation: run file of the evaluation.
        train_options: overrides of every recipe.
        own_options: further overrides by recipe.
        eval_options: overrides of the evaluation.
    """

    name: str
    question: str
    lanes: tuple[tuple[tuple[str, ...], ...], ...]
    evaluation: str
    train_options: tuple[str, ...] = ()
    own_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    eval_options: tuple[str, ...] = field(default=(NO_PROBES,))


def cells(folder: Path, *, seed: int) -> tuple[Cell, ...]:
    """Return all experiments on the toy world in `folder`.

    Args:
        folder: of `video-llama toy run`.
        seed: of that run; the other seeds follow it.
    """
    no_positions = Cell(
        "no_positions",
        "without the table of frame positions",
        lanes=((VISION,),),
        evaluation=ONLY_VL,
        train_options=(NO_POSITIONS,),
        eval_options=(NO_PROBES, NO_POSITIONS),
    )
    other_seeds = (
        Cell(
            f"seed_{other}",
            f"the whole recipe with seed {other}",
            lanes=((VISION, AUDIO), (JOINT,)),
            evaluation=WITH_AUDIO,
            train_options=(f"run.seed={other}",),
        )
        for other in (seed + 1, seed + 2)
    )
    return (_blind(folder), no_positions, _audio_on_pictures(folder / "world"), *other_seeds)


def _blind(folder: Path) -> Cell:
    """Return the cell that never sees a clip or picture with its own text."""
    swapped = folder / "experiments" / "swapped"
    captions = f"datasets.webvid.annotations={swapped}/{CAPTIONS}"
    questions = f"datasets.webvid_instruct.annotations={swapped}/{QUESTIONS}"
    return Cell(
        "blind",
        "trained on clips that do not belong to their text",
        lanes=((VISION,),),
        evaluation=ONLY_VL,
        own_options={
            VISION[0]: (captions, "datasets.pictures=null"),
            VISION[1]: (captions, questions, "datasets.pictures_instruct=null"),
        },
    )


def _audio_on_pictures(world: Path) -> Cell:
    """Return the cell whose audio branch learns through ImageBind's vision trunk, as published."""
    return Cell(
        "audio_on_pictures",
        "the audio branch trained on pictures, then asked about voices",
        lanes=((AUDIO,),),
        evaluation=VOICES,
        train_options=(
            "model.audio_branch_media=video",
            "run.iters_per_epoch=150",  # sounds take half of it or less
            f"datasets.webvid.annotations={world}/{CAPTIONS}",
            "datasets.webvid.max_samples=null",
        ),
        own_options={
            AUDIO[0]: (_valid_option(world, "webvid_valid", CAPTIONS),),
            AUDIO[1]: (
                f"datasets.webvid_instruct.annotations={world}/{QUESTIONS}",
                "datasets.webvid_instruct.max_samples=null",
                _valid_option(world, "webvid_instruct_valid", QUESTIONS),
            ),
        },
        eval_options=(),
    )


def _valid_option(world: Path, name: str, file: str) -> str:
    """Point a validation set at the annotations beside the training annotations."""
    return f"datasets.{name}.annotations={world}/{file.replace('train.', 'valid.')}"


def run_experiments(folder: Path, *, seed: int, console: Console, verbs: Verbs) -> dict[str, Any]:
    """Train and evaluate every cell that is not there yet.

    Args:
        folder: of a finished `video-llama toy run`.
        seed: of that run.
        console: tables go there.
        verbs: runs them.

    Returns:
        Metrics of every cell by question set, also written to `folder`/experiments.

    Raises:
        ConfigError: there is no finished toy run, or its world is gone.
        VideoLlamaError: a cell failed.
    """
    base = folder / "eval_withaudio" / METRICS_NAME
    if not base.is_file():
        raise ConfigError(f"{base}: no results; run `video-llama toy run --out {folder}` first")
    _complete(folder / "world")
    _write_swapped(folder)
    plan = cells(folder, seed=seed)
    options = {
        cell.name: (f"model.toy_dir={folder}", f"model.toy_runs={_runs_of(folder, cell)}")
        for cell in plan
    }
    for number in range(max(len(cell.lanes) for cell in plan)):
        run_lanes(
            [
                open_recipes(
                    lane,
                    (*options[cell.name], *cell.train_options),
                    own_options=cell.own_options,
                )
                for cell in plan
                for side_by_side in cell.lanes[number : number + 1]
                for lane in side_by_side
            ],
            verbs=verbs,
        )
    composition = ["evaluate", "--cfg-path", COMPOSITION, "--options", f"model.toy_dir={folder}"]
    verbs.call(composition, num_ranks=2)
    results = {}
    for cell in plan:
        words = ["evaluate", "--cfg-path", cell.evaluation, "--options", *options[cell.name]]
        verbs.call([*words, *cell.eval_options], num_ranks=2)
        evaluation = _runs_of(folder, cell) / f"eval_{Path(cell.evaluation).stem}"
        results[cell.name] = json.loads((evaluation / METRICS_NAME).read_text(encoding="utf-8"))
    path = folder / "experiments" / RESULTS
    path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print(f"{path}")
    return results


def _runs_of(folder: Path, cell: Cell) -> Path:
    """Return where a cell's runs are kept."""
    return folder / "experiments" / cell.name


def _complete(world: Path) -> None:
    """Write the clips that `video-llama toy run` left for later."""
    manifest = world / MANIFEST
    if not manifest.is_file():
        raise ConfigError(
            f"there is no {manifest}; run `video-llama toy run --out {world.parent}` again"
        )
    made = json.loads(manifest.read_text(encoding="ascii"))
    try:
        seed, counts = made["seed"], Counts(**made["counts"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{manifest}: of another version ({error}); delete {world.parent} and run "
            f"`video-llama toy run --out {world.parent}` again"
        ) from error
    write_world(world, seed=seed, counts=counts)


def _write_swapped(folder: Path) -> None:
    """Write the vision branch's training annotations with every clip exchanged for another."""
    for file in (CAPTIONS, QUESTIONS):
        target = folder / "experiments" / "swapped" / file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (folder / "world" / file).read_text(encoding="utf-8")
            swapped = swap_clips(text, is_csv=file.endswith(".csv"))
            target.write_text(swapped, encoding="utf-8")


def swap_clips(text: str, *, is_csv: bool) -> str:
    """Give every row the clip of another row; all clips stay in use.

    Args:
        text: WebVid's csv (videoid, name, page_dir) or VideoChat's json.
        is_csv: which of the two.
    """
    rows = list(csv.DictReader(io.StringIO(text))) if is_csv else json.loads(text)
    names = ("videoid", "page_dir") if is_csv else ("video",)
    clips = [{name: row[name] for name in names} for row in rows]
    swapped = [row | clip for row, clip in zip(rows, _next_in_circle(clips), strict=True)]
    if not is_csv:
        return json.dumps(swapped)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(swapped)
    return out.getvalue()


def _next_in_circle(clips: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield for each clip another one: its neighbour in a shuffled circle."""
    circle = permutation(len(clips), seed=0).tolist()
    following = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    return (clips[following[index]] for index in range(len(clips)))
