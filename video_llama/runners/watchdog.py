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
        since_s: clock when it came there, in seconds since 1970.
        host: machine.
    """

    step: int = 0
    phase: Phase = "starting"
    part: int = 0
    patience: int = PHASES["starting"]
    since_s: float = field(default_factory=time.time)
    host: str = field(default_factory=platform.node)

    @property
    def order(self) -> tuple[int, int, int]:
        """Greater for a rank that is further."""
        return (self.step, list(PHASES).index(self.phase), self.part)


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
        """Show where this rank is, and look at the others when it does not move."""
        while not self._left.wait(self._tick_s):
            own = self._heartbeat.place
            try:
                self._show(own)
                if time.time() - own.since_s <= self._limit_s:
                    continue
                places = self._places()
            except RuntimeError as error:
                # Torch's errors of the store; it lives in the launcher, or in rank 0.
                if time.time() - own.since_s > self._limit_s * own.patience:
                    self._end(f"the ranks' meeting point is gone: {error}")
                continue
            behind = min(places.values(), key=lambda place: place.order)
            newest_s = max(place.since_s for place in places.values())
            if time.time() - newest_s > self._limit_s * behind.patience:
                self._end(describe(places, now_s=time.time()))

    def _show(self, own: Place) -> None:
        assert self._store is not None
        self._store.set(_key(self._world.rank), json.dumps(asdict(own)))

    def _places(self) -> dict[int, Place]:
        """Return where every rank is; one that never showed itself has not started."""
        assert self._store is not None
        places = {}
        for rank in range(self._world.size):
            places[rank] = Place(since_s=0.0, host="unknown")
            if self._store.check([_key(rank)]):
                places[rank] = Place(**json.loads(self._store.get(_key(rank))))
        return places

    def _end(self, what: str) -> None:
        """Say it, show where this process stands, and leave without waiting for anything."""
        get_logger().error(
            "no rank has moved for %.0f s (run.collective_timeout_s: %g): %s. The stacks of rank "
            "%d follow; the last checkpoint is good, go on with run.resume_ckpt_path=auto",
            time.time() - self._heartbeat.place.since_s,
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


def describe(places: Mapping[int, Place], *, now_s: float) -> str:
    """Say which ranks are behind the others.

    Args:
        places: of all ranks.
        now_s: seconds since 1970.
    """
    furthest = max(places.values(), key=lambda place: place.order)
    behind = {rank: place for rank, place in places.items() if place.order < furthest.order}
    if not behind:
        return (
            f"all {len(places)} ranks stand at the same place, {_where(furthest)}, so that none "
            "has failed to come and the operation itself hangs; look at the network between them"
        )
    named = "; ".join(
        f"rank {rank} of {len(places)} (host {place.host}) has not reached {_where(furthest)}: "
        + (
            f"last seen {now_s - place.since_s:.0f} s ago in {_where(place)}"
            if place.since_s
            else "never seen in the training loop"
        )
        for rank, place in behind.items()
    )
    return f"{named}; the others wait"


def _where(place: Place) -> str:
    """Say it as metrics.jsonl counts: the step that is being made is one more than those done."""
    if place.phase in ("reading data", "computing"):
        return f"step {place.step + 1}, phase {place.phase}, part {place.part}"
    return f"the end of step {place.step}, phase {place.phase}, part {place.part}"


def _key(rank: int) -> str:
    """Return a rank's key; a launcher that starts the ranks again keeps the store."""
    return f"video_llama/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"
