"""The ledger: what every sample of every step was made of, and what it cost.

    ledger/steps_0001001.jsonl.gz    a line per optimizer step, for steps 1001 to 2000

A line is an `Entry`. Lines are gathered from all ranks and written by rank zero, many at a time, at
the latest before a checkpoint; so a run that goes on from a checkpoint finds all lines up to there,
and drops the others. `replay` rebuilds a step from its line.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.common import dist
from video_llama.common.dist import World
from video_llama.common.whole_files import write_whole
from video_llama.datasets.trace import MediaTrace, SampleTrace
from video_llama.runners.step import StepRecord, finite_or_none
from video_llama.runners.write_errors import explained

LEDGER_FOLDER = "ledger"

STEPS_PER_FILE = 1000

STEPS_PER_WRITE = 50
"""Steps that are gathered at once: the ranks meet once for all of them."""

COMPRESSION = 4
"""Of gzip, 1 to 9; above it the file shrinks by little and the time doubles."""


@dataclass(frozen=True)
class SampleEntry:
    """One sample of a step.

    Attributes:
        trace: what it was made of.
        loss: in nats, summed over its supervised tokens; None if it was not finite.
        num_targets: supervised tokens.
    """

    trace: SampleTrace
    loss: float | None
    num_targets: int

    @property
    def mean_loss(self) -> float | None:
        """In nats per supervised token, None if it was not finite."""
        return None if self.loss is None else self.loss / max(self.num_targets, 1)


@dataclass(frozen=True)
class Entry:
    """One optimizer step.

    Attributes:
        step: its number as metrics.jsonl counts, the first is 1.
        dataset: it was drawn from.
        lr: learning rate.
        grad_norm: before clipping, None if it was not finite.
        reader: library that decoded video.
        num_ranks: processes.
        accum: iterations.
        samples: iteration by iteration and, in each, rank by rank: the order of the run.
    """

    step: int
    dataset: str
    lr: float
    grad_norm: float | None
    reader: str
    num_ranks: int
    accum: int
    samples: tuple[SampleEntry, ...]


class Ledger:
    """Keeps the entries of a run; every rank has one, and all make the same calls.

    Args:
        folder: of the run.
        world: this process among the others.
        reader: library that decodes video.
        is_kept: false keeps nothing.
    """

    def __init__(self, folder: Path, *, world: World, reader: str, is_kept: bool) -> None:
        self._folder = folder / LEDGER_FOLDER
        self._world = world
        self._reader = reader
        self._is_kept = is_kept
        self._waiting: list[tuple[StepRecord, list[list[SampleEntry]]]] = []

    def add(self, record: StepRecord) -> None:
        """Note a step; the ranks meet once in a while."""
        if not self._is_kept:
            return
        # Without its batches, which would stay in memory.
        bare = dataclasses.replace(record, loaded=(), outputs=())
        self._waiting.append((bare, samples_of(record)))
        if len(self._waiting) >= STEPS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Write down all steps so far; every rank must call this.

        Raises:
            VideoLlamaError: they cannot be written.
        """
        if not self._is_kept or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        by_rank = dist.gather_objects([shares for _, shares in waiting])
        if self._world.rank == 0:
            entries = [
                self._entry(record, [shares[number] for shares in by_rank])
                for number, (record, _) in enumerate(waiting)
            ]
            self._write(entries)

    def _entry(self, record: StepRecord, shares: Sequence[list[list[SampleEntry]]]) -> Entry:
        """Put the ranks' samples in the order of the run."""
        return Entry(
            step=record.step + 1,
            dataset=record.dataset,
            lr=record.lr,
            grad_norm=finite_or_none(record.grad_norm),
            reader=self._reader,
            num_ranks=len(shares),
            accum=len(shares[0]),
            samples=tuple(
                sample
                for iteration in zip(*shares, strict=True)
                for share in iteration
                for sample in share
            ),
        )

    def _write(self, entries: Sequence[Entry]) -> None:
        """Append to the files the steps belong to; a file is a chain of gzip members."""
        by_file: dict[Path, list[Entry]] = {}
        for entry in entries:
            by_file.setdefault(_file_of(self._folder, entry.step), []).append(entry)
        for path, own in by_file.items():
            with explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(_member(own))


def samples_of(record: StepRecord) -> list[list[SampleEntry]]:
    """Return this process's samples of a step, iteration by iteration."""
    return [
        [
            SampleEntry(trace, finite_or_none(loss), count)
            for trace, loss, count in zip(
                loaded.traces,
                output.sample_loss.tolist(),
                output.sample_targets.tolist(),
                strict=True,
            )
        ]
        for loaded, output in zip(record.loaded, record.outputs, strict=True)
    ]


def read_entry(folder: Path, *, step: int) -> Entry | None:
    """Return the entry of a step, None if the run kept none.

    Args:
        folder: of the run.
        step: its number as metrics.jsonl counts.
    """
    path = _file_of(folder / LEDGER_FOLDER, step)
    found = [values for values in _read(path) if values["step"] == step]
    return _unpacked(found[-1]) if found else None


def read_entries(folder: Path) -> Iterator[Entry]:
    """Yield all entries of a run in the order of its steps; nothing if it kept none.

    Args:
        folder: of the run.
    """
    for path in sorted((folder / LEDGER_FOLDER).glob("steps_*.jsonl.gz")):
        # As in `read_entry`, what was written last of a step holds.
        last = {values["step"]: values for values in _read(path)}
        yield from (_unpacked(last[step]) for step in sorted(last))


def drop_entries_after(folder: Path, *, step: int) -> None:
    """Forget what was written after a step, of a run that goes on from there.

    Args:
        folder: of the run.
        step: optimizer steps done.
    """
    last = _file_of(folder / LEDGER_FOLDER, max(step, 1))
    for path in sorted((folder / LEDGER_FOLDER).glob("steps_*.jsonl.gz")):
        if path.name > last.name or step == 0:
            path.unlink()
        elif path == last:
            kept = [values for values in _read(path) if values["step"] <= step]
            write_whole(path, _member(kept))


def _file_of(folder: Path, step: int) -> Path:
    """Return the file that holds a step."""
    first = (step - 1) // STEPS_PER_FILE * STEPS_PER_FILE + 1
    return folder / f"steps_{first:07d}.jsonl.gz"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file up to where a kill cut it off."""
    if not path.exists():
        return
    rest = path.read_bytes()
    while rest:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            text = member.decompress(rest)
        except zlib.error:
            return
        if not member.eof:
            return
        rest = member.unused_data
        yield from map(json.loads, text.decode().splitlines())


def _member(lines: Sequence[Entry | Mapping[str, Any]]) -> bytes:
    """Return lines as one gzip member."""
    encode = json.JSONEncoder(separators=(",", ":"), default=_written_fields).encode
    return gzip.compress("".join(encode(line) + "\n" for line in lines).encode(), COMPRESSION)


def _written_fields(node: object) -> dict[str, Any]:
    """Return a dataclass's fields without what is empty, as most of most samples are."""
    # Not by truth: zero is a position, and a loss.
    return {
        key: value
        for key, value in vars(node).items()
        if value is not None and value is not False and value != ()
    }


def _unpacked(values: Mapping[str, Any]) -> Entry:
    """Return the entry that was written as these values."""
    samples = tuple(
        SampleEntry(
            trace=_trace(sample["trace"]),
            loss=sample.get("loss"),
            num_targets=sample["num_targets"],
        )
        for sample in values["samples"]
    )
    return Entry(**{"grad_norm": None, **values, "samples": samples})


def _trace(values: Mapping[str, Any]) -> SampleTrace:
    media = tuple(
        MediaTrace(
            kind=item["kind"],
            path=item["path"],
            branch=item["branch"],
            times_s=tuple(item.get("times_s", ())),
            span_s=_tuple(item.get("span_s")),
            crop=_tuple(item.get("crop")),
            is_cached=item.get("is_cached", False),
        )
        for item in values.get("media", ())
    )
    filled_for = tuple((key, reason) for key, reason in values.get("filled_for", ()))
    return SampleTrace(**{**values, "media": media, "filled_for": filled_for})


def _tuple(values: Sequence[Any] | None) -> Any:  # noqa: ANN401 - of what the field says
    return None if values is None else tuple(values)
