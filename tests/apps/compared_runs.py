"""Run and evaluation folders with numbers known beforehand, as training would leave them."""

from __future__ import annotations

import dataclasses
import json

import torch
import yaml
from ledger_files import a_sample, a_step, write_ledger

from video_llama.runners.checkpoint import RunState, write_checkpoint
from video_llama.tasks.predictions import NO_PROBE, Prediction, Shown

NUM_STEPS = 20
KEYS = [f"clip{index}" for index in range(NUM_STEPS * 2)]


def write_run(folder, *, seed=0, loss=1.0, run=None, keys=KEYS, num_targets=2, times_s=(0.0,)):
    """A run of 20 steps of 2 samples at 4 samples per second: 10 s."""
    entries = [
        a_step(
            step,
            *(
                a_sample(
                    keys[2 * step - 2 + place],
                    2 * step - 2 + place,
                    loss=loss * num_targets + 0.01 * place,
                    num_targets=num_targets,
                    times_s=times_s,
                )
                for place in range(2)
            ),
        )
        for step in range(1, NUM_STEPS + 1)
    ]
    write_ledger(folder, entries)
    lines = [
        {"step": step, "kind": "train", "loss": loss + 1 / step, "samples_per_s": 4.0}
        for step in (5, 10, 15, 20)
    ]
    lines.append({"step": 20, "kind": "valid", "valid_loss": loss / 2})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    config = {
        "run": {"seed": seed, "output_dir": str(folder), **(run or {})},
        "model": {"arch": "x"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_checkpoint(
        folder / "checkpoints" / f"step_{NUM_STEPS:07d}",
        weights={"bridge.weight": torch.zeros(3, 4), "bridge.bias": torch.zeros(4)},
        optimizer={},
        state=RunState(
            step=NUM_STEPS,
            steps_per_epoch=NUM_STEPS,
            global_batch_size=2,
            num_ranks=2,
            written_by={"versions": {"torch": "2.11.0"}},
        ),
    )
    return folder


def an_answer(key, is_right, *, kind="colour", clip="a.mp4", probe=NO_PROBE, **keys):
    """A question about a clip, answered right or wrong."""
    said = "red" if is_right else "<blue>"
    shown = (Shown("video", str(clip)),)
    return Prediction(
        key, probe, kind, "open", "<What> colour?", "red", said, is_right, media=shown, **keys
    )


def answers(num_right, *, num=40, per_clip=1, first=0, **keys):
    """`num` questions, the ones from `first` on answered right."""
    return [
        an_answer(f"q{i}", first <= i < first + num_right, clip=f"clip{i // per_clip}.mp4", **keys)
        for i in range(num)
    ]


def write_answers(folder, predictions, *, name="test"):
    """What an evaluation leaves of one question set."""
    path = folder / name / "predictions.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in predictions))
    return folder
