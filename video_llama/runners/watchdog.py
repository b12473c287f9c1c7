"""Finding hangs: which rank stands where, and an end to a run that has come to a standstill.

When one rank of several waits for ever, e.g. for a file system, the others wait for it in a
collective operation, whose own time limit fires late and names nobody. So every rank notes where it
is (`Heartbeat`), a thread beside it (`Watchdog`) shows that note to the others, and when no rank
has moved for `run.collective_timeout_s` each one says who is behind and where, writes down its own
stack, and ends.

A single process waits for nobody, and is not watched.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar

from video_llama.common import dist
from video_llama.common.dist import COLLECTIVE_TIMEOUT, World
from video_llama.common.logger import get_logger

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

T = TypeVar("T")

EXIT_CODE = 124
"""Of a run that hung; what `timeout` of the GNU core utilities ends with."""

STDERR = 2
"""File number; whatever `sys.stderr` may be replaced by, a launcher reads this."""

Phase = Literal["starting", "validating", "saving", "reading data", "computing"]

PHASES: Mapping[Phase, int] = {
    "starting": 6,
    "validating": 1,
    "saving": 6,
    "reading data": 1,
    "computing": 1,
}
"""What a rank does at one number of steps done, in order, and how many time limits it may take:
a first step compiles and warms up, a checkpoint may be large and its disk slow."""


@dataclass(frozen=True)
class Place:
    """Where a rank is.

    Attributes:
        step: optimizer steps done.
        phase: what it does.
        part: how far it is in that, e.g. iterations begun.
        patience: how many time limits it may stay there.
        host: machine.
    """

    step: int = 0
    phase: Phase = "starting"
    part: int = 0
    patience: int = PHASES["starting"]
    host: str = field(default_factory=platform.node)

    @property
    def order(self) -> tuple[int, int, int]:
        """Greater for a rank that is further."""
        return (self.step, list(PHASES).index(self.phase), self.part)


@dataclass(frozen=True)
class Sighting:
    """Where a rank was when this process last saw it move.

    Attributes:
        place: the same.
        seen_s: this process's own clock then, so that no two machines' clocks are compared.
    """

    place: Place
    seen_s: float


class Heartbeat:
    """Where this process is; noting it costs microseconds."""

    def __init__(self) -> None:
        self.place = Place()
        self._first_step: int | None = None

    def beat(self, phase: Phase, *, step: int, part: int = 0) -> None:
        """Note that something new begins.

        Args:
            phase: what.
            step: optimizer steps done.
            part: how far it is in that.
        """
        if self._first_step is None and phase == "computing":
            self._first_step = step
        is_first = phase == "computing" and step == self._first_step
        patience = PHASES["starting" if is_first else phase]
        self.place = Place(step, phase, part, patience=patience, host=self.place.host)

    def along(self, batches: Iterable[T], *, step: int) -> Iterator[T]:
        """Hand on the batches of a validation, noting which one is read and which is worked on."""
        iterator = iter(batches)
        for part in itertools.count():
            self.beat("validating", step=step, part=2 * part)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.beat("validating", step=step, part=2 * part + 1)
            yield batch


class Watchdog:
    """Ends this process when no rank has moved for too long, for the length of a `with` block.

    Args:
        heartbeat: of this process.
        world: this process among the others.
        limit_s: seconds without any movement.
    """

    def __init__(self, heartbeat: Heartbeat, *, world: World, limit_s: float) -> None:
        self._heartbeat = heartbeat
        self._world = world
        self._limit_s = limit_s
        self._tick_s = min(max(limit_s / 20, 0.1), 10.0)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._store: Store | None = None
        self._sightings: dict[int, Sighting] = {}

    def __enter__(self) -> Watchdog:
        if self._world.size > 1:
            # A connection of its own: another thread may be waiting on the group's.
            self._store = dist.connect_store()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        if self._store is not None:
            self._thread.join()

    def _watch(self) -> None:
        """Show where this rank is, and look where the others are."""
        while not self._left.wait(self._tick_s):
            now_s = time.monotonic()
            try:
                self._look(now_s)
            except RuntimeError as error:
                # Torch's errors of the store; it lives in the launcher, or in rank 0.
                self._look_at(self._world.rank, self._heartbeat.place, now_s=now_s)
                lost = f" (the ranks' meeting point is gone: {error})"
            else:
                lost = ""
            behind = min(self._sightings.values(), key=lambda sighting: sighting.place.order)
            newest_s = max(sighting.seen_s for sighting in self._sightings.values())
            if now_s - newest_s > self._limit_s * behind.place.patience:
                self._end(describe(self._sightings, now_s=now_s) + lost, waited_s=now_s - newest_s)

    def _look(self, now_s: float) -> None:
        """Exchange places; a rank that never showed itself has not started."""
        assert self._store is not None
        self._store.set(_key(self._world.rank), json.dumps(asdict(self._heartbeat.place)))
        keys = [_key(rank) for rank in range(self._world.size)]
        if self._store.check(keys):
            shown = self._store.multi_get(keys)
        else:
            shown = [self._store.get(key) if self._store.check([key]) else b"" for key in keys]
        for rank, text in enumerate(shown):
            place = Place(**json.loads(text)) if text else Place(host="unknown")
            self._look_at(rank, place, now_s=now_s)

    def _look_at(self, rank: int, place: Place, *, now_s: float) -> None:
        known = self._sightings.get(rank)
        if known is None or known.place != place:
            self._sightings[rank] = Sighting(place, now_s)

    def _end(self, what: str, *, waited_s: float) -> None:
        """Say it, show where this process stands, and leave without waiting for anything."""
        # Should the log itself be what hangs, e.g. on a disk that does not answer.
        faulthandler.dump_traceback_later(10 * self._tick_s, exit=True, file=STDERR)
        get_logger().error(
            "no rank has moved for %.0f s (run.collective_timeout_s: %g): %s. The stacks of rank "
            "%d follow; the last checkpoint is good, go on with run.resume_ckpt_path=auto",
            waited_s,
            self._limit_s,
            what,
            self._world.rank,
        )
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        # The launcher ends the others as soon as one has left; they have their own say first.
        time.sleep(3 * self._tick_s)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(EXIT_CODE)


def group_timeout(limit_s: float) -> timedelta:
    """Return when a collective operation is to fail by itself: later than any watchdog barks.

    Args:
        limit_s: `run.collective_timeout_s`.
    """
    return max(COLLECTIVE_TIMEOUT, timedelta(seconds=(1 + max(PHASES.values())) * limit_s))


def describe(sightings: Mapping[int, Sighting], *, now_s: float) -> str:
    """Say which ranks are behind the others.

    Args:
        sightings: of all ranks.
        now_s: on the clock of the sightings.
    """
    furthest = max((sighting.place for sighting in sightings.values()), key=lambda p: p.order)
    behind = {r: seen for r, seen in sightings.items() if seen.place.order < furthest.order}
    if not behind:
        return (
            f"all {len(sightings)} ranks stand at the same place, {_where(furthest)}, so that none "
            "has failed to come and the operation itself hangs; look at the network between them"
        )
    named = "; ".join(
        f"rank {rank} of {len(sightings)} (host {seen.place.host}) has not reached "
        f"{_where(furthest)}: last seen {now_s - seen.seen_s:.0f} s ago in {_where(seen.place)}"
        for rank, seen in behind.items()
    )
    return f"{named}; the others wait"


def _where(place: Place) -> str:
    """Say it as metrics.jsonl counts: the step that is being made is one more than those done."""
    if place.phase == "starting":
        return "phase starting, before the training loop"
    if place.phase in ("reading data", "computing"):
        return f"step {place.step + 1}, phase {place.phase}, part {place.part}"
    return f"the end of step {place.step}, phase {place.phase}, part {place.part}"


def _key(rank: int) -> str:
    """Return a rank's key; a launcher that starts the ranks again keeps the store."""
    return f"video_llama/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"
