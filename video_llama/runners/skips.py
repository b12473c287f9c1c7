"""Counting samples that could not be used, and stopping when there are too many of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from video_llama.common import dist
from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.datasets.collate import Skip
from video_llama.datasets.fills import Record
from video_llama.runners.checkpoint import RunState

NUM_JUDGED = 100
"""Samples before which the share of skipped ones is no ground to stop: one would be too many."""


@dataclasses.dataclass(frozen=True)
class SkipCounts:
    """Samples skipped so far.

    Attributes:
        by_dataset: how many, by data set.
    """

    by_dataset: Mapping[str, int]

    @property
    def total(self) -> int:
        """Over all data sets."""
        return sum(self.by_dataset.values())

    def plus(self, skips: Sequence[Skip]) -> SkipCounts:
        """Return the counts with some more."""
        counts = Counter(self.by_dataset)
        counts.update(skip.dataset for skip in skips)
        return SkipCounts(dict(sorted(counts.items())))

    def check(self, *, num_used: int, max_rate: float, last: Sequence[Skip], where: str) -> None:
        """Stop a run whose data are broken.

        Args:
            num_used: samples that could be used.
            max_rate: largest share of skipped samples among all, 0..1.
            last: the skips of the latest step, shown as examples.
            where: file with all of them.

        Raises:
            VideoLlamaError: the share is larger; the counts and examples are listed.
        """
        num_seen = num_used + self.total
        if self.total <= max_rate * max(num_seen, NUM_JUDGED):
            return
        counts = ", ".join(f"{name} {count}" for name, count in self.by_dataset.items())
        listed = "\n".join(f"  - {skip.path or skip.key}: {skip.reason}" for skip in last[:10])
        raise VideoLlamaError(
            f"{self.total} of {num_seen} samples could not be used ({counts}), more than "
            f"run.max_skip_rate = {max_rate}; the last ones:\n{listed}\nall are in {where}. Mend "
            "them where they stand (a row that goes moves all others) and delete that file, so "
            "that they are tried again and counted anew, or raise run.max_skip_rate; then set "
            "run.resume_ckpt_path=auto"
        )


def counted_anew(state: RunState, *, record: Record) -> RunState:
    """Forget the skips of a run whose record was deleted; every rank must call this.

    Who deletes it has mended the samples. The share is then that of the steps to come.

    Args:
        state: where the run starts.
        record: how places were filled before; that of rank 0 counts.

    Returns:
        The same state if nothing was skipped, or the record still knows of it.
    """
    num_before = state.step * state.global_batch_size
    # Lines of later steps prove nothing: a run that was killed after the deletion wrote them.
    is_known = any(name in state.num_skipped and position < num_before for name, position in record)
    if not dist.gather_objects(bool(state.num_skipped) and not is_known)[0]:
        return state
    get_logger().info("the record of skipped samples is gone; they are counted anew")
    return dataclasses.replace(state, num_skipped={}, skips_since=state.step)
