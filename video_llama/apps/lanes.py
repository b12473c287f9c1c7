"""Chains of jobs side by side, each job in processes of its own, with a bar for every job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from video_llama.common.errors import VideoLlamaError

POLL_S = 0.5
NUM_LOG_LINES = 15


class Job(Protocol):
    """One call of a verb that can be left and taken up again.

    Attributes:
        name: what its bar is called.
        folder: where its console.log goes; it may not be there yet.
        size: of the whole job, in steps or files; may become known while it runs.
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

    def kept(self) -> int:
        """Return how much would not have to be done again."""

    def done(self) -> int:
        """Return how far the running job is."""

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line behind `video-llama`."""


def run_lanes(lanes: Sequence[Sequence[Job]], *, num_parallel: int = 2, num_ranks: int = 1) -> None:
    """Run several chains of jobs, as many side by side as there shall be.

    Args:
        lanes: each lane's jobs go one after the other; those that are finished are left out.
        num_parallel: jobs at the same time.
        num_ranks: processes of a job, one thread each.

    Raises:
        VideoLlamaError: a job failed, or was stopped from outside.
    """
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    waiting = [[job for job in lane if job.kept() < job.size] for lane in lanes]
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with Progress(*columns) as progress:
        bars = {
            id(job): progress.add_task(job.name, total=job.size, completed=job.kept())
            for lane in lanes
            for job in lane
        }
        try:
            while any(waiting) or running:
                for index, lane in enumerate(waiting):
                    if lane and index not in running and len(running) < num_parallel:
                        job = lane.pop(0)
                        running[index] = (job, _start(job, num_ranks=num_ranks))
                time.sleep(POLL_S)
                for index, (job, process) in list(running.items()):
                    progress.update(bars[id(job)], completed=job.done(), total=job.size)
                    if process.poll() is not None:
                        del running[index]
                        _check(job, process)
                        progress.update(bars[id(job)], completed=job.size)
        finally:
            for _, process in running.values():
                process.terminate()
                process.wait()


def call_verb(words: Sequence[str], *, num_ranks: int = 1) -> None:
    """Run a verb in processes of its own, their output on this console.

    Args:
        words: of the command line.
        num_ranks: more than one are started by torchrun.

    Raises:
        VideoLlamaError: it failed.
    """
    code = subprocess.run(_command(words, num_ranks=num_ranks), env=_environment()).returncode
    if code:
        raise VideoLlamaError(f"video-llama {' '.join(words)}: exit code {code}")


def _start(job: Job, *, num_ranks: int) -> subprocess.Popen[bytes]:
    """Start a job; what it says goes into its folder's console.log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "console.log").open("ab") as log:
        return subprocess.Popen(
            _command(job.words(num_ranks=num_ranks), num_ranks=num_ranks),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )


def _command(words: Sequence[str], *, num_ranks: int) -> list[str]:
    """Return the command line of a verb."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    module = ["-m", "video_llama.apps.main", *words]
    return [sys.executable, *(launcher if num_ranks > 1 else []), *module]


def _environment() -> dict[str, str]:
    """Return the environment of a process that keeps to one core."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _check(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Show the end of the log of a job that failed, or was stopped from outside."""
    if process.returncode == 0 and job.kept() >= job.size:
        return
    log = job.folder / "console.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])
    raise VideoLlamaError(f"{job.name}: exit code {process.returncode}; the end of {log}:\n{tail}")
