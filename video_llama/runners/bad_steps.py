"""What becomes of a step that would do harm: losses that are not finite, sudden jumps.

`run.on_nan` and `run.on_spike` decide. The verdict is a function of numbers that all ranks share,
so it is the same on each. What it is measured by, the losses and gradient norms of the last good
steps, is part of a checkpoint: a run that goes on judges as if it had never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from video_llama.common import dist
from video_llama.common.errors import VideoLlamaError
from video_llama.common.schema import RunConfig
from video_llama.runners.ledger import samples_of
from video_llama.runners.step import StepRecord, finite_or_none

BAD_STEPS_FILE = "bad_steps.jsonl"

NUM_REMEMBERED = 64
"""Good steps of a data set that a new one is compared with."""

NUM_JUDGED = 16
"""Good steps of a data set before which a jump is no ground to act: losses fall fast at first."""

Action = Literal["make", "skip", "stop"]


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a step.

    Attributes:
        action: make it, leave the weights as they are and go on, or stop.
        reason: in words, empty if there is nothing to say.
    """

    action: Action = "make"
    reason: str = ""


class StepJudge:
    """Compares every step with the good ones before it.

    Args:
        run: the policy.
        memory: of the judge before, see `memory`; empty in a new run.
    """

    def __init__(self, run: RunConfig, *, memory: Mapping[str, Any]) -> None:
        self._run = run
        self._recent: dict[str, list[list[float]]] = copy.deepcopy(memory.get("recent", {}))
        self._num_in_a_row: int = memory.get("num_in_a_row", 0)

    @property
    def memory(self) -> dict[str, Any]:
        """What a later judge must know: (loss, gradient norm) of the last good steps by data set.

        Plain containers, for a checkpoint.
        """
        return {"recent": copy.deepcopy(self._recent), "num_in_a_row": self._num_in_a_row}

    def __call__(self, record: StepRecord, *, loss_scale: float) -> Verdict:
        """Judge a step, and remember it if it is good.

        Args:
            record: of the step, its gradients computed and the weights not yet changed.
            loss_scale: above 1, the engine itself leaves out a step whose gradients overflow.
        """
        if (
            math.isfinite(record.loss_sum)
            and not math.isfinite(record.grad_norm)
            and loss_scale > 1
        ):
            return Verdict(reason=f"gradients overflow at loss scale {loss_scale:g}")
        action, reason = self._find_fault(record)
        if action == "make":
            self._remember(record)
            return Verdict()
        self._num_in_a_row += 1
        if action == "skip" and self._num_in_a_row > self._run.max_bad_steps:
            return Verdict(
                "stop",
                f"{reason}; {self._num_in_a_row} bad steps in a row are more than "
                f"run.max_bad_steps = {self._run.max_bad_steps}",
            )
        return Verdict(action, reason)

    def _find_fault(self, record: StepRecord) -> tuple[Action, str]:
        """Return what the run file says about a step, and why."""
        if not (math.isfinite(record.loss_sum) and math.isfinite(record.grad_norm)):
            return self._run.on_nan, f"loss {record.loss}, gradient norm {record.grad_norm}"
        before = self._recent.get(record.dataset, [])
        if self._run.on_spike == "ignore" or len(before) < NUM_JUDGED:
            return "make", ""
        factor = self._run.spike_factor
        # Gradient norms scatter far more than losses; the square leaves them as much room.
        limits = (("loss", record.loss, factor), ("gradient norm", record.grad_norm, factor**2))
        for index, (what, value, limit) in enumerate(limits):
            usual = median(pair[index] for pair in before)
            if value > limit * usual:
                return self._run.on_spike, (
                    f"{what} {value:.4g}, more than {limit:g} times the {usual:.4g} of the last "
                    f"{len(before)} steps of '{record.dataset}'"
                )
        return "make", ""

    def _remember(self, record: StepRecord) -> None:
        self._num_in_a_row = 0
        pairs = self._recent.setdefault(record.dataset, [])
        pairs.append([record.loss, record.grad_norm])
        del pairs[:-NUM_REMEMBERED]


@dataclass(frozen=True)
class BadStep:
    """A step whose gradients were thrown away, as a line of bad_steps.jsonl.

    Attributes:
        step: its number as metrics.jsonl counts, the first is 1.
        action: what was done about it.
        reason: in words.
        dataset: it was drawn from.
        loss: nats per supervised token; what is not finite is null in the file.
        grad_norm: before clipping.
        samples: (key, loss per supervised token) of all ranks.
    """

    step: int
    action: Action
    reason: str
    dataset: str
    loss: float | None
    grad_norm: float | None
    samples: tuple[tuple[str, float | None], ...]

    def error(self, folder: Path, *, weights: str | None) -> VideoLlamaError:
        """Return what stops the run.

        Args:
            folder: of the run.
            weights: options by which another run starts from its last checkpoint, None if none
                was written yet.
        """
        keys = [key for key, _ in self.samples]
        bad = [key for key, loss in self.samples if loss is None] or keys
        saved = "the last checkpoint is good" if weights else "there is no checkpoint yet"
        other = (
            f"make another run: take another run.output_dir, and {weights}"
            if weights
            else "may be had by starting anew in this folder"
        )
        return VideoLlamaError(
            f"step {self.step}: {self.reason}, in a batch of '{self.dataset}' with samples "
            f"{', '.join(bad)}; the weights were not changed and {saved}. Look at them with "
            f"`video-llama replay --run {folder} --step {self.step}`; all are in {BAD_STEPS_FILE}. "
            "Mend them where they stand (a row that goes moves all others), or leave such steps "
            "out with run.on_nan: skip (run.on_spike: skip), then set run.resume_ckpt_path=auto. A "
            f"lower run.init_lr, another run.grad_clip_norm or run.precision {other}"
        )


def describe(record: StepRecord, verdict: Verdict) -> BadStep:
    """Gather the samples of a bad step; every rank must call this.

    Args:
        record: of the step.
        verdict: on it.
    """
    own = [
        (sample.trace.key, sample.mean_loss)
        for iteration in samples_of(record)
        for sample in iteration
    ]
    return BadStep(
        step=record.step + 1,
        action=verdict.action,
        reason=verdict.reason,
        dataset=record.dataset,
        loss=finite_or_none(record.loss),
        grad_norm=finite_or_none(record.grad_norm),
        samples=tuple(sample for share in dist.gather_objects(own) for sample in share),
    )
