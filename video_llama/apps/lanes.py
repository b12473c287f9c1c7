"""Jobs side by side, each in processes of its own, in the order they need each other, with bars.

A job is started when those it needs are done and a slot is free: a GPU or several, or cores. When
this process is asked to stop (Ctrl-C, SIGTERM), every job is asked once and waited for, so that it
can save; asked a second time, the jobs are killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from video_llama.apps.lanes_board import Board
from video_llama.apps.stopping import VerbProcess, stop, stoppable, unbroken
from video_llama.apps.verb_processes import Call, Verbs
from video_llama.common.errors import VideoLlamaError

POLL_S = 0.2
NUM_LOG_LINES = 15
CONSOLE_LOG = "console.log"


class Job(Protocol):
    """One call of a verb that can be left and taken up again.

    Attributes:
        name: what its bar is called.
        folder: where its console.log goes; it may not be there yet.
        size: of the whole job, in steps or files; may become known while it runs.
        ok_exit_codes: exit codes that are no failure.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def folder(self) -> Path:
        """See above."""

    @property
    def size(self) -> int:
        """See above."""

    @property
    def ok_exit_codes(self) -> tuple[int, ...]:
        """See above."""

    def kept(self) -> int:
        """Return how much would not have to be done again."""

    def done(self) -> int:
        """Return how far the running job is."""

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line behind `video-llama`."""


@dataclass(frozen=True)
class Task:
    """A job among others.

    Attributes:
        job: what is done.
        bar: name of its bar; several tasks may share one.
        after: positions of the tasks that must be done before.
        is_spare: asked to stop, or never started, once nothing else is left to do; that it fails
            ends nothing else.
    """

    job: Job
    bar: str
    after: tuple[int, ...] = ()
    is_spare: bool = False


@dataclass(frozen=True)
class Slots:
    """Where tasks run.

    Attributes:
        environments: one for every task that may run at the same time; added to this process's.
        num_ranks: processes of a task, one thread each.
    """

    environments: Sequence[Mapping[str, str]]
    num_ranks: int = 1


@dataclass
class _State:
    """What has become of the tasks, by position."""

    waiting: list[int]
    running: dict[int, tuple[int, VerbProcess]] = field(default_factory=dict)
    """By slot: the task, and its process."""
    done: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def left(self) -> list[int]:
        """Tasks that wait or run."""
        return [*self.waiting, *(position for position, _ in self.running.values())]


def run_lanes(
    lanes: Sequence[Sequence[Job]],
    *,
    verbs: Verbs,
    spare: Sequence[Job] = (),
    num_parallel: int = 2,
    num_ranks: int = 1,
) -> None:
    """Run several chains of jobs, as many side by side as there shall be.

    Args:
        lanes: each lane's jobs go one after the other; those that are finished are left out.
        verbs: starts them.
        spare: jobs behind the last lane that only fill the time until all lanes are done.
        num_parallel: jobs at the same time.
        num_ranks: processes of a job, one thread each.

    Raises:
        VideoLlamaError: a job failed, or was stopped from outside.
    """
    tasks: list[Task] = []
    before: tuple[int, ...] = ()
    for jobs, is_spare in [*((lane, False) for lane in lanes), (spare, True)]:
        before = before if is_spare else ()
        for job in jobs:
            if job.kept() < job.size:
                tasks.append(Task(job, job.name, before, is_spare=is_spare))
                before = (len(tasks) - 1,)
    run_tasks(tasks, slots=Slots([{}] * num_parallel, num_ranks=num_ranks), verbs=verbs)


def run_tasks(
    tasks: Sequence[Task],
    *,
    slots: Slots,
    verbs: Verbs,
    keeps_going: bool = False,
    on_start: Callable[[int], None] = lambda position: None,
    on_done: Callable[[int], None] = lambda position: None,
) -> dict[int, str]:
    """Run tasks, each as soon as it may.

    Args:
        tasks: those that others come after stand before them.
        slots: where they run.
        verbs: starts them.
        keeps_going: a task that fails takes only those that need it with it; else it ends all.
        on_start: called with a task's position before it starts.
        on_done: called with its position when it is done.

    Returns:
        Why tasks failed or were left out, by position.

    Raises:
        VideoLlamaError: a task failed and the others were not to go on.
    """
    state = _State(waiting=list(range(len(tasks))))
    with stoppable(), Board([task.bar for task in tasks]) as board:
        try:
            while any(not tasks[position].is_spare for position in state.left):
                _leave_out(state, tasks, board=board)
                _fill_slots(state, tasks, slots=slots, verbs=verbs, on_start=on_start)
                time.sleep(POLL_S)
                for slot, (position, process) in list(state.running.items()):
                    job = tasks[position].job
                    board.show(position, name=job.name, done=job.done(), size=job.size)
                    if process.poll() is None:
                        continue
                    del state.running[slot]
                    failure = _failure(tasks[position], process)
                    if failure is None:
                        state.done.add(position)
                        on_done(position)
                        board.finish(position)
                    elif keeps_going or tasks[position].is_spare:
                        state.failed[position] = failure
                        board.fail(position, failure)
                    else:
                        raise VideoLlamaError(failure)
        finally:
            stop([process for _, process in state.running.values()])
    return state.failed


def _fill_slots(
    state: _State,
    tasks: Sequence[Task],
    *,
    slots: Slots,
    verbs: Verbs,
    on_start: Callable[[int], None],
) -> None:
    """Start what may start, where there is room."""
    for slot in range(len(slots.environments)):
        position = _next(state, tasks) if slot not in state.running else None
        if position is not None:
            on_start(position)
            state.waiting.remove(position)
            with unbroken():
                process = _start(tasks[position].job, slots=slots, slot=slot, verbs=verbs)
                state.running[slot] = (position, process)


def _next(state: _State, tasks: Sequence[Task]) -> int | None:
    """Return the first task that may start, None if none may."""
    return next((p for p in state.waiting if state.done.issuperset(tasks[p].after)), None)


def _leave_out(state: _State, tasks: Sequence[Task], *, board: Board) -> None:
    """Give up the tasks that need one that failed."""
    for position in list(state.waiting):
        needed = [before for before in tasks[position].after if before in state.failed]
        if needed:
            state.waiting.remove(position)
            state.failed[position] = (
                f"{tasks[position].job.name}: left out, because {tasks[needed[0]].job.name} failed"
            )
            board.fail(position, state.failed[position])


def _start(job: Job, *, slots: Slots, slot: int, verbs: Verbs) -> VerbProcess:
    """Start a job; what it says goes into its folder's console.log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    return verbs.start(
        Call(
            job.words(num_ranks=slots.num_ranks),
            num_ranks=slots.num_ranks,
            log=job.folder / CONSOLE_LOG,
            environment=slots.environments[slot],
        )
    )


def _failure(task: Task, process: VerbProcess) -> str | None:
    """Return the end of the log of a job that failed, or was stopped from outside."""
    job = task.job
    code = process.wait()
    if code in job.ok_exit_codes and job.kept() >= job.size:
        return None
    log = job.folder / CONSOLE_LOG
    said = log.read_text(errors="replace") if log.exists() else ""
    tail = "\n".join(said.splitlines()[-NUM_LOG_LINES:])
    return f"{job.name}: exit code {code}; the end of {log}:\n{tail}"
