"""Which sample takes the place of one that cannot be used, and the record that keeps it so.

The place alone decides: candidate number n is a function of the seed, the position and n. It comes
from the same data set and has the same kinds of media (text only, image, video, audio, video and
audio), so that a step stays what the plan meant it to be; only where a data set has no more of
them it may have others. What was once decided is written down, one line per sample that could not
be used, and a run that goes on reads that instead of trying again: a file that has been mended
since, or is broken on another machine, changes nothing of what was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from video_llama.common.logger import get_logger
from video_llama.common.rng import fold
from video_llama.common.types import MediaKind
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.collate import Skip
from video_llama.datasets.stream import SampleRef

MAX_FILLS = 63
"""Samples tried in place of one that cannot be used. So many faults in a row are no accident, even
where four rows of five are broken; how many may be is for `run.max_skip_rate` to say."""

MAX_LOOKED_AT = 10_000
"""Rows looked at for one of the same kinds of media before others will do."""


Record = Mapping[tuple[str, int], Sequence[Skip]]
"""The skips of every place that was filled, in the order they were tried, by data set and place."""


def read_record(path: Path) -> dict[tuple[str, int], tuple[Skip, ...]]:
    """Read what `write_record` wrote; a line that a kill cut off is left out.

    Args:
        path: `skipped.jsonl` of a run; none is an empty record.
    """
    record: dict[tuple[str, int], tuple[Skip, ...]] = {}
    names = {field.name for field in fields(Skip)}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            skip = Skip(**{name: content[name] for name in names})
        except (ValueError, KeyError, TypeError):
            get_logger().warning("%s:%d is no whole line and is not used", path, number)
            continue
        place = skip.dataset, skip.position
        others = tuple(o for o in record.get(place, ()) if o.identity != skip.identity)
        record[place] = (*others, skip)
    return record


def write_record(path: Path, skips: Sequence[Skip], *, step: int) -> None:
    """Add a line for every skip.

    Args:
        path: made if it is not there.
        skips: in the order they were tried.
        step: optimizer steps done.
    """
    lines = "".join(json.dumps({"step": step, **asdict(skip)}) + "\n" for skip in skips)
    with path.open("ab") as file:
        # What a kill left of a line must not swallow the next one.
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")
        file.write(lines.encode())


def candidates(
    reader: DatasetReader, ref: SampleRef, *, seed: int, known: Sequence[Skip] = ()
) -> Iterator[int]:
    """Yield what may stand at a place: the sample meant, then those that may fill it.

    Args:
        reader: of the data set.
        ref: the place.
        seed: of the run.
        known: skips recorded for the place; what filled it then comes first, and what could not
            be used then is not tried again.

    Yields:
        Indices, each once.
    """
    tried = {skip.index for skip in known}
    if known and known[-1].filled_by is not None:
        tried.add(known[-1].filled_by)
        yield known[-1].filled_by
    yield from (index for index in _in_order(reader, ref, seed=seed) if index not in tried)


def _in_order(reader: DatasetReader, ref: SampleRef, *, seed: int) -> Iterator[int]:
    """Yield the sample meant, then candidates number 0, 1, ..."""
    yield ref.index
    tried = {ref.index}
    kinds = None if reader.kinds is not None else reader.kinds_of(ref.index)
    for attempt in range(MAX_FILLS):
        point = fold(seed, "fill", ref.position, attempt)
        for pool, wanted in _pools(reader, ref.index, kinds):
            index = _first_fit(reader, pool, point=point, kinds=wanted, tried=tried)
            if index is not None:
                tried.add(index)
                yield index
                break
        else:
            return


def _pools(
    reader: DatasetReader, index: int, kinds: frozenset[MediaKind] | None
) -> Iterator[tuple[range, frozenset[MediaKind] | None]]:
    """Yield where to look for a fill: its shard, which is open, then everywhere."""
    places = [reader.blocks.range_of(index)] if reader.blocks else []
    places.append(range(len(reader)))
    if kinds is not None:
        yield from ((place, kinds) for place in places)
    yield from ((place, None) for place in places)


def _first_fit(
    reader: DatasetReader,
    pool: range,
    *,
    point: int,
    kinds: frozenset[MediaKind] | None,
    tried: set[int],
) -> int | None:
    """Return the first sample from a point on that has the wanted kinds of media."""
    for offset in range(min(len(pool), MAX_LOOKED_AT)):
        index = pool[(point + offset) % len(pool)]
        if index not in tried and kinds in (None, reader.kinds_of(index)):
            return index
    return None


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
