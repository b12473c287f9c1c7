"""Tiny runs to which something happens; for `launch.start_ranks`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import torch
from tiny_run import TinyDataset, build, config_of

from video_llama.common.dist import process_group
from video_llama.runners import signals
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

BROKEN = ("clips-1", "clips-4", "talks-2")


class Watched(VideoTextPretrain):
    """Writes down every forward pass, and sends its own process a signal before one of them.

    Args:
        notes: file that gets a line for every forward pass of training.
        at: passes of that kind in this process before the signal; None never.
        kind: of pass, train or valid.
        number: the signal.
        times: how often it is sent.
        to_group: send it to the data workers as well, as launchers do, and give them time to end.
    """

    def __init__(
        self, notes, *, at=None, kind="train", number=signal.SIGKILL, times=1, to_group=False
    ):
        self.notes = notes
        self.at = at
        self.kind = kind
        self.number = number
        self.times = times
        self.to_group = to_group
        if to_group:
            os.setsid()
        self.num_passes = 0

    def train_step(self, model, batch):
        self._pass("train")
        output = super().train_step(model, batch)
        # The seed of dropout tells step, iteration and rank.
        record = {"seed": torch.initial_seed(), "keys": batch.keys}
        self._note({**record, "loss": float(output.loss_sum).hex()})
        return output

    def evaluate(self, model, batches):
        return super().evaluate(model, self._watched(batches))

    def _watched(self, batches):
        for batch in batches:
            self._pass("valid")
            yield batch

    def _pass(self, kind):
        if kind != self.kind:
            return
        if self.num_passes == self.at:
            for _ in range(self.times):
                os.kill(0 if self.to_group else os.getpid(), self.number)
            time.sleep(self.to_group)
        self.num_passes += 1

    def _note(self, record):
        with self.notes.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Stuck(TinyDataset):
    """One clip takes for ever to read; a file tells that the reading has begun."""

    def __init__(self, key, flag):
        super().__init__()
        self.key = key
        self.flag = flag

    def __getitem__(self, ref):
        if f"{ref.dataset}-{ref.index}" == self.key:
            self.flag.touch()
            time.sleep(3600)
        return super().__getitem__(ref)


def train(out, *, changes, trigger=None, only_rank=None, stuck_on=None, repeat_s=None):
    """Train, or go on, in `out`.

    Args:
        out: the run's folder.
        changes: keys of the run section.
        trigger: of `Watched`.
        only_rank: the only rank that it concerns.
        stuck_on: a sample that is never read; `out`/stuck tells that it is tried.
        repeat_s: for `signals.REPEAT_S`.
    """
    if repeat_s is not None:
        signals.REPEAT_S = repeat_s
    out.mkdir(parents=True, exist_ok=True)
    with process_group("cpu") as world:
        concerned = only_rank in (None, world.rank)
        task = Watched(out / f"notes_{world.rank}.jsonl", **(trigger or {} if concerned else {}))
        dataset = TinyDataset(broken=BROKEN)
        if stuck_on is not None and concerned:
            dataset = Stuck(stuck_on, out / "stuck")
        config = config_of(out, resume_ckpt_path="auto", max_skip_rate=1.0, **changes)
        build(config, world, task=task, dataset=dataset).train()


def add_up_and_stop(out):
    """Add up numbers of two ranks, and again when the second was asked to stop."""
    with process_group("cpu") as world, signals.StopRequest() as request:
        sums = [request.sum_unless_asked(2**60 + world.rank)]
        if world.rank == 1:
            signal.raise_signal(signal.SIGTERM)
        sums.append(request.sum_unless_asked(2**60))
        (out / f"sums_{world.rank}.json").write_text(json.dumps(sums))


def notes(out, rank=0):
    """Return what a rank wrote down; the last line may be cut off."""
    lines = (Path(out) / f"notes_{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
