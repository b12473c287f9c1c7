"""A project of clips, sounds and texts, small enough to be trained in a moment.

Made to be uneven: answers of 1 to 15 words, clips with sound and without, batches without any
media, one clip that cannot be read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from apps.tiny_project import MODEL, NUM_CLIPS, write_clips
from promises.recorded_task import RecordedPretrain

WORDS = ("red", "blue", "ball", "moves", "to", "the", "left", "and", "then", "stops", "here")
BROKEN = 3


def sentence(number: int) -> str:
    """Return a text of 1, 3, 5, ... 15 words."""
    return " ".join(WORDS[(number + i) % len(WORDS)] for i in range(1 + 2 * number))


def write_project(folder: Path, *, iters: int, batch_size: int) -> Path:
    """Write media, tables and run file below a folder; return the run file.

    Args:
        folder: of the project.
        iters: forward passes of the whole run, in four epochs.
        batch_size: samples of each.
    """
    clips = write_clips(folder / "clips")
    (clips / "page" / f"{BROKEN}.mp4").write_bytes(b"")
    table = folder / "clips.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["videoid", "name", "page_dir"])
        rows.writerows((str(i), sentence(i), "page") for i in range(NUM_CLIPS))
    own = folder / "own.jsonl"
    own.write_text("\n".join(json.dumps(row) for row in conversations()))
    captioned = {"type": "webvid", "annotations": str(table), "media": str(clips)}
    datasets = {
        "both": {**captioned, "streams": ["video", "audio"]},
        "silent": {**captioned, "streams": ["video"]},
        "own": {"type": "messages", "annotations": str(own), "media": str(clips)},
    }
    run = {
        "task": "recorded_pretrain",
        "output_dir": str(folder / "out"),
        "device": "cpu",
        "precision": "fp32",
        "init_lr": 1.0e-3,
        "max_epoch": 4,
        "iters_per_epoch": iters // 4,
        "batch_size_train": batch_size,
        "log_freq": 1,
        "max_skip_rate": 0.5,
    }
    assert RecordedPretrain.__module__ == "promises.recorded_task"
    tree = {"imports": ["promises.recorded_task"], "model": MODEL, "datasets": datasets}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**tree, "run": run}))
    return path


def conversations() -> list[dict[str, Any]]:
    """Return rows about a clip, a sound, both, or nothing at all."""
    media = ([], ["video"], ["audio"], ["video", "audio"])
    return [conversation(number, kinds=media[number % len(media)]) for number in range(NUM_CLIPS)]


def conversation(number: int, *, kinds: Sequence[str], path: str = "page/1.mp4") -> dict[str, Any]:
    """Return a row about a file, told by its kinds of media; none asks about nothing."""
    parts = [{"type": kind, kind: path} for kind in kinds]
    question = [*parts, {"type": "text", "text": f"What moves {number}?"}]
    answer = {"role": "assistant", "content": sentence(number % NUM_CLIPS)}
    return {"messages": [{"role": "user", "content": question}, answer], "id": number}
