"""Did two runs see the same data? The proof, from their ledgers.

Of every step, what must be equal: its data set, how many samples it has, and at each place of the
order the sample's key and the files and seconds its media were cut from. What may differ, and is
told: the frames that were taken of a clip (other systems look at other frames), the folder the
files lie in, the number of processes, and how a step is cut into iterations. A ledger holds no
texts: equal keys with other captions pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePath

from video_llama.datasets.trace import MediaTrace, SampleTrace
from video_llama.runners.ledger import Entry, read_entries

NO_LEDGER = "ledger (run.ledger: false, or nothing was trained)"


@dataclass(frozen=True)
class SameData:
    """What the ledgers of two runs say.

    Attributes:
        num_steps: steps that both have.
        num_samples: samples of these.
        problem: the first thing that differs and must not, as a sentence; "" if nothing does.
        is_known: both kept a ledger of every step.
        frames: how the frames of equal clips first differ, "" if they do not.
        num_filled: places that were filled for a sample that could not be used, in both alike.
        notes: what else differs and may.
    """

    num_steps: int = 0
    num_samples: int = 0
    problem: str = ""
    is_known: bool = True
    frames: str = ""
    num_filled: int = 0
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether both provably saw the same samples in the same order."""
        return self.is_known and not self.problem


def compare_ledgers(
    first: Path, second: Path, *, names: tuple[str, str] = ("the first", "the second")
) -> SameData:
    """Walk through two ledgers side by side.

    Args:
        first: folder of a run.
        second: folder of another.
        names: what they are called; where both are told of, the first comes first.

    Returns:
        What was found, up to the first step that differs.
    """
    kept = [any(read_entries(folder)) for folder in (first, second)]
    if not all(kept):
        whose = f"{names[kept[0]]} has no" if any(kept) else "neither has a"
        return SameData(problem=f"{whose} {NO_LEDGER}", is_known=False)
    num_steps = num_samples = num_filled = 0
    problem = frames = ""
    notes: dict[str, None] = {}
    for one, other in zip_longest(read_entries(first), read_entries(second)):
        problem = _first_difference(one, other, num_steps=num_steps, names=names)
        if problem:
            break
        num_steps += 1
        num_samples += len(one.samples)
        pairs = list(zip(_in_order(one), _in_order(other), strict=True))
        num_filled += sum(bool(a.filled_for) for a, _ in pairs)
        frames = frames or next((t for a, b in pairs if (t := _frames_differ(a, b, one))), "")
        notes |= dict.fromkeys(_notes(one, other, pairs))
    return SameData(
        num_steps,
        num_samples,
        problem=problem,
        frames=frames,
        num_filled=num_filled,
        notes=tuple(notes),
    )


def _first_difference(
    one: Entry | None, other: Entry | None, *, num_steps: int, names: tuple[str, str]
) -> str:
    """Say how two steps differ that should be the same, "" if they do not."""
    if one is None or other is None:
        return f"{names[one is None]} has more steps than the {num_steps} that both have"
    where = f"step {one.step}"
    if (one.step, other.step) != (num_steps + 1, num_steps + 1):
        return f"the ledgers go on with steps {one.step} and {other.step} after {num_steps}"
    if one.dataset != other.dataset:
        return f"{where}: drawn from '{one.dataset}' and from '{other.dataset}'"
    if len(one.samples) != len(other.samples):
        return f"{where}: {len(one.samples)} samples and {len(other.samples)}"
    for a, b in zip(_in_order(one), _in_order(other), strict=True):
        place = f"{where}, position {a.position}"
        if (a.position, a.key) != (b.position, b.key):
            there = f"'{a.key}'{_filled(a)}"
            here = f"'{b.key}'{_filled(b)}"
            moved = f" at position {b.position}" if a.position != b.position else ""
            return f"{place}: {there} and {here}{moved}"
        if _spans(a) != _spans(b):
            return f"{place}, '{a.key}': media {_told(a)} and {_told(b)}"
        if [key for key, _ in a.filled_for] != [key for key, _ in b.filled_for]:
            return f"{place}, '{a.key}': {_filled(a) or 'as drawn'} and {_filled(b) or 'as drawn'}"
    return ""


def _in_order(entry: Entry) -> list[SampleTrace]:
    """Return the samples of a step by position; how ranks share them changes no gradient."""
    return sorted((sample.trace for sample in entry.samples), key=lambda trace: trace.position)


def _spans(trace: SampleTrace) -> list[tuple[str, str, object]]:
    """Return what was cut from which files; the folders may be others on another machine."""
    return [(item.kind, PurePath(item.path).name, item.span_s) for item in trace.media]


def _told(trace: SampleTrace) -> str:
    """Name the media of a sample with the seconds that were asked for."""
    texts = []
    for item in trace.media:
        start, end = item.span_s or (None, None)
        span = "" if item.span_s is None else f" from {start or 0:g} s"
        span += "" if end is None else f" to {end:g} s"
        texts.append(f"{item.kind} {PurePath(item.path).name}{span}")
    return ", ".join(texts) or "none"


def _filled(trace: SampleTrace) -> str:
    """Say in whose place a sample stands."""
    reasons = ", ".join(f"'{key}' ({reason})" for key, reason in trace.filled_for)
    return f" in place of {reasons}" if reasons else ""


def _frames_differ(a: SampleTrace, b: SampleTrace, entry: Entry) -> str:
    """Say how other frames or boxes were taken of the same clip."""
    for one, other in zip(a.media, b.media, strict=True):
        # Cached features do not tell which frames they were made of.
        if not one.times_s or not other.times_s:
            continue
        if (one.times_s, one.crop) != (other.times_s, other.crop):
            return (
                f"first at step {entry.step}, position {a.position}, '{a.key}': "
                f"{_frames(one)} and {_frames(other)}"
            )
    return ""


def _frames(item: MediaTrace) -> str:
    crop = "" if item.crop is None else " of box {3}x{2}+{1}+{0}".format(*item.crop)
    times = ", ".join(f"{time_s:g}" for time_s in item.times_s[:4])
    more = ", ..." if len(item.times_s) > 4 else ""
    return f"{len(item.times_s)} at {times}{more} s{crop}"


def _notes(one: Entry, other: Entry, pairs: Sequence[tuple[SampleTrace, SampleTrace]]) -> list[str]:
    """Name what differs and may."""
    notes = []
    if (one.num_ranks, one.accum) != (other.num_ranks, other.accum):
        notes.append(
            f"steps were divided into {one.num_ranks} x {one.accum} and {other.num_ranks} x "
            f"{other.accum} (processes x iterations)"
        )
    if one.reader != other.reader:
        notes.append(f"video was decoded by {one.reader} and {other.reader}")
    folders = [
        (str(Path(x.path).parent), str(Path(y.path).parent))
        for a, b in pairs
        for x, y in zip(a.media, b.media, strict=True)
        if x.path != y.path
    ]
    if folders:
        notes.append("media lie in other folders")
    return notes
