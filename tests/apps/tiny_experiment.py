"""An experiment small enough for a test: a recipe, an evaluation, two cells, eight clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tiny_project import NUM_CLIPS, write_project

STAGES = ("align", "tune")


def write_run_files(folder: Path, *, stages: tuple[str, ...] = STAGES) -> None:
    """Write clips and the run files align.yaml, tune.yaml and ask.yaml into a folder."""
    tree = yaml.safe_load(write_project(folder, streams=("video",)).read_text())
    tree["model"]["branches"]["audio"] = None
    for stage in stages:
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(tree))
    rows = [
        {"video": f"page/{i}.mp4", "question": "Which?", "answer": str(i), "kind": "number"}
        for i in range(NUM_CLIPS)
    ]
    (folder / "questions.json").write_text(json.dumps(rows))
    held_out = {"type": "mvbench", "split": "test", "streams": ["video"]}
    held_out |= {"annotations": str(folder / "questions.json"), "media": str(folder / "clips")}
    asking = {"task": "question_answering", "output_dir": "unused", "device": "cpu"}
    asking |= {"batch_size_eval": 4, "max_new_tokens": 2}
    tree |= {"datasets": {"held_out": held_out}, "run": asking}
    (folder / "ask.yaml").write_text(yaml.safe_dump(tree))


def write_experiment(folder: Path, **changes: Any) -> Path:
    """Write an experiment on the run files of a folder; return its file."""
    content = {
        "title": "A higher learning rate",
        "recipes": [str(folder / f"{stage}.yaml") for stage in STAGES],
        "evaluate": [str(folder / "ask.yaml")],
        "seeds": [1],
        "cells": {"slow": None, "fast": {"train_options": {"run.init_lr": 0.001}}},
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
