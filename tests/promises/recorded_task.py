"""The training task, which notes what it is given and may ask its own process to stop.

A run file names it by `imports: [promises.recorded_task]`, as any part from outside the package.
"""

from __future__ import annotations

import json
import os
import signal
from itertools import chain
from pathlib import Path

from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.dist import read_world
from video_llama.common.registry import registry
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

FOLDER, STOP_AFTER = "TEST_RECORD_FOLDER", "TEST_STOP_AFTER"


@registry.register_task("recorded_pretrain")
class RecordedPretrain(VideoTextPretrain):
    """Writes the samples of every forward pass of a rank to `rank<R>.jsonl`."""

    def __init__(self):
        self.calls = 0

    def train_step(self, model, batch):
        self.calls += 1
        path = Path(os.environ[FOLDER]) / f"rank{read_world().rank}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps([batch.dataset, *batch.keys]) + "\n")
        if os.environ.get(STOP_AFTER) == str(self.calls):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(model, batch)


def samples_in_order(folder: Path) -> list[str]:
    """Return the samples of a run in the order of their positions, whatever rank had them."""
    ranks = sorted(folder.glob("rank*.jsonl"), key=lambda path: int(path.stem[4:]))
    passes = zip(*(path.read_text().splitlines() for path in ranks), strict=True)
    lines = [json.loads(line) for line in chain.from_iterable(passes)]
    return [f"{dataset}/{key}" for dataset, *keys in lines for key in keys]


def train_recorded(
    run_file: Path, options: list[str], *, record: Path, stop_after: int | None = None
) -> None:
    """Train in this process.

    Args:
        run_file: whose task is the one above.
        options: as behind `--options`.
        record: folder for what the ranks are given.
        stop_after: forward passes of this rank until it asks itself to stop.
    """
    record.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(record)
    os.environ[STOP_AFTER] = str(stop_after)
    train(load(run_file, options=options))
