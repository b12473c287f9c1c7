"""An evaluation that notes which chunks of questions it finishes, and may kill its own process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from unittest.mock import patch

from video_llama.apps.evaluate import evaluate
from video_llama.common.config import load
from video_llama.common.dist import read_world
from video_llama.tasks.predictions import PredictionStore
from video_llama.tasks.question_answering import QuestionAnswering

CLIPS_PER_CHUNK = 2


def evaluate_recorded(
    run_file: Path, options: list[str], *, record: Path, kill_after: int | None = None
) -> None:
    """Evaluate in this process, in small chunks.

    Args:
        run_file: with question sets.
        options: as behind `--options`.
        record: folder for the numbers of finished chunks, a file per rank.
        kill_after: chunks until this process is killed as if the machine had gone.
    """
    record.mkdir(parents=True, exist_ok=True)
    path = record / f"rank{read_world().rank}.jsonl"
    add = PredictionStore.add

    def add_and_note(store, chunk, predictions):
        add(store, chunk, predictions)
        with path.open("a") as file:
            file.write(f"{chunk}\n")
        if kill_after is not None and len(path.read_text().split()) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        patch.object(PredictionStore, "add", add_and_note),
        patch.object(QuestionAnswering.Config, "clips_per_chunk", CLIPS_PER_CHUNK),
    ):
        evaluate(load(run_file, options=options))


def finished_chunks(record: Path) -> list[list[int]]:
    """Return the chunks each rank finished, in its order."""
    ranks = sorted(record.glob("rank*.jsonl"), key=lambda path: int(path.stem[4:]))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in ranks]
