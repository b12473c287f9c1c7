"""What a run says about itself: metrics.jsonl, TensorBoard if it is installed, see docs/metrics.md.

Only rank zero writes. A run that goes on from step N first drops what was written after N, so that
the file of an interrupted run reads like that of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from video_llama.common.whole_files import write_whole
from video_llama.runners.board import Board
from video_llama.runners.step import StepRecord, finite_or_none
from video_llama.runners.trackers import Tracker
from video_llama.runners.write_errors import explained

METRICS_FILE = "metrics.jsonl"


KEPT = (
    "loss_sum",
    "num_targets",
    "modality_loss_sum",
    "modality_targets",
    "grad_norm",
    "num_left_out",
)
"""Of a window, what does not depend on the clock."""


@dataclass
class Window:
    """Sums since the last log line.

    Attributes:
        loss_sum: summed over supervised tokens, by data set.
        num_targets: supervised tokens, by data set.
        modality_loss_sum: summed over supervised tokens, by modality.
        modality_targets: supervised tokens, by modality.
        num_tokens: decoder positions that are not padding.
        num_samples: samples.
        num_items: clips, pictures and sounds.
        flops: operations, None if nobody counts them.
        data_wait_s: seconds the loop waited for batches.
        grad_norm: of the last step that was made, before clipping.
        num_left_out: steps that did not change the weights.
        started_s: clock at the window's start.
    """

    loss_sum: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_targets: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    modality_loss_sum: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    modality_targets: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    num_tokens: int = 0
    num_samples: int = 0
    num_items: int = 0
    flops: float | None = None
    data_wait_s: float = 0.0
    grad_norm: float = 0.0
    num_left_out: int = 0
    started_s: float = field(default_factory=time.perf_counter)

    def add(self, step: StepRecord) -> None:
        """Add an optimizer step; a loss that is not finite would hide those of the others."""
        if math.isfinite(step.loss_sum):
            self.loss_sum[step.dataset] += step.loss_sum
            self.num_targets[step.dataset] += step.num_targets
            for name, loss in step.modalities.items():
                self.modality_loss_sum[name] += loss.total
                self.modality_targets[name] += loss.num_targets
        self.num_tokens += step.num_tokens
        self.num_samples += step.num_samples
        self.num_items += step.num_items
        if step.flops is not None:
            self.flops = (self.flops or 0.0) + step.flops
        self.data_wait_s += step.data_wait_s
        if step.is_left_out:
            self.num_left_out += 1
        else:
            self.grad_norm = step.grad_norm

    def sums(self) -> dict[str, Any]:
        """Return what a run that goes on needs for its next line; rates start anew."""
        values = ((name, getattr(self, name)) for name in KEPT)
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values}

    @classmethod
    def restored(cls, sums: Mapping[str, Any]) -> Window:
        """Return a window that goes on from `sums`, whose clock starts now; {} for a new one."""
        window = cls()
        for name, value in sums.items():
            if isinstance(value, Mapping):
                getattr(window, name).update(value)
            else:
                setattr(window, name, value)
        return window

    def record(self, *, peak: float | None = None) -> dict[str, float | None]:
        """Return the window as numbers to write; losses are in nats per supervised token.

        Args:
            peak: operations per second of all GPUs at best, None if unknown.
        """
        seconds = max(time.perf_counter() - self.started_s, 1e-9)
        mfu = None if peak is None or self.flops is None else self.flops / seconds / peak
        total = sum(self.loss_sum.values()) / max(sum(self.num_targets.values()), 1)
        return {
            # Every step may have been left out, because its loss was none.
            **({"loss": total} if self.loss_sum else {}),
            **_means("loss", self.loss_sum, self.num_targets),
            **_means("modality_loss", self.modality_loss_sum, self.modality_targets),
            "grad_norm": self.grad_norm,
            **({"steps_left_out": self.num_left_out} if self.num_left_out else {}),
            "tokens_per_s": self.num_tokens / seconds,
            "samples_per_s": self.num_samples / seconds,
            "clips_per_s": self.num_items / seconds,
            "mfu": mfu,
            "data_wait_share": self.data_wait_s / seconds,
            **memory_gib(),
        }


def _means(prefix: str, sums: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    return {f"{prefix}/{name}": sums[name] / max(count, 1) for name, count in counts.items()}


def train_numbers(
    last: StepRecord,
    *,
    window: Window,
    scales: Mapping[str, float],
    loss_scale: float,
    num_skipped: Mapping[str, int],
    peak: float | None,
) -> dict[str, float | None]:
    """Return a line of training.

    Args:
        last: the latest step.
        window: it and those before it, since the last line.
        scales: factor of the learning rate, by part that learns.
        loss_scale: 1 where losses are not scaled.
        num_skipped: samples that could not be used, by data set, as `RunState` counts them.
        peak: operations per second of all GPUs at best, None if unknown.
    """
    rates = {f"lr/{part}": last.lr * scale for part, scale in scales.items()}
    return {
        "lr": last.lr,
        **(rates if set(scales.values()) - {1.0} else {}),
        **window.record(peak=peak),
        **({"loss_scale": loss_scale} if loss_scale != 1 else {}),
        "num_skipped": sum(num_skipped.values()),
        **{f"num_skipped/{name}": count for name, count in num_skipped.items()},
    }


def memory_gib() -> dict[str, float]:
    """Return the peak memory of this process, host and GPU, in GiB."""
    # Linux counts ru_maxrss in KiB.
    peaks = {"rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        peaks["gpu_mem_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return peaks


class MetricsLog:
    """Appends lines to metrics.jsonl and mirrors them to TensorBoard and to a tracker.

    Args:
        folder: the run folder.
        step: optimizer step the run starts from; later lines are dropped.
        tracker: open; None for none.
    """

    def __init__(self, folder: Path, *, step: int, tracker: Tracker | None = None) -> None:
        self._tracker = tracker
        self._path = folder / METRICS_FILE
        drop_lines_after(self._path, step=step)
        self._board = Board(folder / "tensorboard", step=step)

    def write(self, step: int, *, kind: str, values: Mapping[str, float | None]) -> None:
        """Write one line.

        Args:
            step: optimizer steps done.
            kind: train or valid.
            values: numbers by name, units in the name; None for what nobody knows, and in the
                file for what is not finite.

        Raises:
            VideoLlamaError: it cannot be written.
        """
        rounded = {
            name: None if value is None else finite_or_none(float(f"{value:.6g}"))
            for name, value in values.items()
        }
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **rounded}) + "\n")
        known = {f"{kind}/{name}": value for name, value in values.items() if value is not None}
        self._board.write(step, values=known)
        if self._tracker is not None:
            self._tracker.log(step, values=known)

    def close(self) -> None:
        """Close what is open."""
        self._board.close()
        if self._tracker is not None:
            self._tracker.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file; a last line cut off by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for index, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if index < len(lines) - 1:
                raise
    return records


def drop_lines_after(path: Path, *, step: int) -> None:
    """Rewrite a .jsonl file without the records of later steps."""
    if not path.exists():
        return
    kept = [record for record in read_lines(path) if record["step"] <= step]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
