"""Processes of a run without the cost of starting them: one server imports all, ranks fork off it.

A rank is told who it is by the variables torchrun sets, or those of srun; what it writes to the
console goes into a file.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LIMIT_S = 600
"""Ends what hangs; far more than anything here takes on a busy machine."""

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.utils.tensorboard",
        "video_llama.apps.evaluate",
        "video_llama.apps.train",
        "video_llama.models.decoders.causal_lm",
        "video_llama.models.encoders.eva_vit_g",
        "video_llama.models.encoders.imagebind",
    ]
)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Say whether nobody listens on a port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def as_torchrun(num_ranks: int) -> list[dict[str, str]]:
    """Return the variables torchrun gives to each process of one machine."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        for rank in range(num_ranks)
    ]


def as_srun(num_ranks: int) -> list[dict[str, str]]:
    """Return the variables srun gives to each task of a step on one machine; no address."""
    # The port follows from the job's number.
    first = 20_000 + os.getpid() % 10_000
    port = next(port for port in range(first, 40_000) if is_free(port))
    job = {"SLURM_JOB_ID": str(port - 20_000), "SLURM_STEP_NODELIST": "localhost"}
    return [
        {**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
         "SLURM_STEP_NUM_TASKS": str(num_ranks), "SLURM_NTASKS": str(num_ranks)}
        for rank in range(num_ranks)
    ]  # fmt: skip


def start_ranks(
    work: Callable[[], None], *, worlds: Sequence[Mapping[str, str]], logs: Path
) -> list[Any]:
    """Start `work` (a function of a module, or a `partial` of one) in a process per world."""
    logs.mkdir(parents=True, exist_ok=True)
    # A rank may have workers of its own, which daemons may not.
    ranks = [
        _SERVER.Process(target=_run, args=(work, dict(world), logs / f"{rank}.log"))
        for rank, world in enumerate(worlds)
    ]
    for process in ranks:
        process.start()
    return ranks


def finish(ranks: Sequence[Any]) -> list[int]:
    """Wait for all and return their exit codes; after the limit they are killed."""
    deadline = time.monotonic() + LIMIT_S
    for process in ranks:
        process.join(max(deadline - time.monotonic(), 0))
    for process in ranks:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in ranks]


def run_ranks(work: Callable[[], None], *, worlds: Sequence[Mapping[str, str]], logs: Path) -> None:
    """Run `work` in all ranks to a good end, or say what they wrote."""
    codes = finish(start_ranks(work, worlds=worlds, logs=logs))
    written = "\n".join(path.read_text("utf-8")[-3000:] for path in sorted(logs.glob("*.log")))
    assert codes == [0] * len(worlds), written


def _run(work: Callable[[], None], world: Mapping[str, str], log: Path) -> None:
    os.environ.update(world)
    # What a rank starts itself, it starts as without this server.
    multiprocessing.set_start_method("fork", force=True)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    work()


def lines_within(stream: IO[str], limit_s: float) -> Iterator[str]:
    """Yield what a process says.

    Raises:
        TimeoutError: it said nothing for so long.
    """
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=limit_s)
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            return
        yield line
