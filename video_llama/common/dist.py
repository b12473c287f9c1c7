"""Processes of one run: who am I, wait for the others, gather what they have.

Works the same in a single process, where every call is cheap and does nothing. Torch is imported
where it is used, so that asking for the rank (the log does) stays free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from video_llama.common.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Long enough for rank zero to write a big checkpoint, short enough to show a hang the same day."""


STORE_TIMEOUT = timedelta(seconds=30)
"""A look at what another rank has written waits for a network, never for the other rank."""


@dataclass(frozen=True)
class World:
    """Place of this process among those of the run.

    Attributes:
        rank: 0 .. size - 1 over all machines; rank 0 writes.
        size: number of processes.
        local_rank: index on this machine, chooses the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def own_device(self, device: str) -> str:
        """Return what this process computes on, given the device of the run.

        Args:
            device: a torch device; "cuda" gives each process its own GPU.

        Raises:
            ConfigError: several processes are to share one GPU.
        """
        if device == "cuda":
            return f"cuda:{self.local_rank}"
        if self.size > 1 and device.startswith("cuda"):
            raise ConfigError(
                f"run.device: '{device}' is one GPU, but the run has {self.size} processes; set "
                "run.device: cuda, which gives each its own"
            )
        return device


def read_world(environ: Mapping[str, str] | None = None) -> World:
    """Say which process this is from what torchrun or srun left in the environment.

    srun is believed only inside a step (`SLURM_STEP_NUM_TASKS`): a batch script that calls
    python directly sees the allocation's task count too, but runs one process.

    Args:
        environ: variables to read, those of the process by default.

    Raises:
        ConfigError: the variables are incomplete or contradict each other.
    """
    environ = os.environ if environ is None else environ
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    elif "RANK" not in environ:
        return World()
    missing = [name for name in names if name not in environ]
    if missing:
        raise ConfigError(
            f"environment: {names[0]} is set but {', '.join(missing)} is not; start several "
            "processes with torchrun or srun, which set all of them"
        )
    world = World(*(int(environ[name]) for name in names))
    if not 0 <= world.rank < world.size:
        raise ConfigError(
            f"environment: {names[0]}={world.rank} does not fit {names[1]}={world.size}"
        )
    return world


def is_main() -> bool:
    """Say whether this is the process that logs and writes."""
    return read_world().rank == 0


@contextmanager
def process_group(
    device: str, *, also_alone: bool = False, timeout: timedelta = COLLECTIVE_TIMEOUT
) -> Iterator[World]:
    """Join the other processes for the length of a `with` block.

    All ranks wait for each other before the group is taken down: rank 0 may still be writing
    when the others are done, and a rank that leaves early aborts it.

    Args:
        device: "cpu" talks through gloo, "cuda" through nccl, and gloo for what is on the host.
        also_alone: one process has a group of its own too, for a library that asks for one.
        timeout: after which a collective operation that not all ranks have joined fails.
    """
    import torch
    import torch.distributed as dist

    world = read_world()
    if device.startswith("cuda"):
        torch.cuda.set_device(world.own_device(device))
    if world.size == 1 and not also_alone:
        yield world
        return
    # Numbers in host memory travel without waiting for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    store = dist.HashStore() if world.size == 1 else None  # type: ignore[attr-defined]
    if store is None:
        _set_rendezvous(os.environ)
    dist.init_process_group(
        backend, rank=world.rank, world_size=world.size, timeout=timeout, store=store
    )
    try:
        yield world
        # Only on the good path: after an error the others may never arrive.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def connect_store() -> Store:
    """Return a connection of this process's own to the place where the ranks met.

    Raises:
        RuntimeError: it cannot be reached, here or later: the process that keeps it is gone.
    """
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=False, timeout=STORE_TIMEOUT
    )


def barrier() -> None:
    """Wait until every process is here."""
    import torch.distributed as dist

    if _joined():
        dist.barrier()


def gather_objects(value: object) -> list[Any]:
    """Return every rank's small picklable value, in rank order, on every rank."""
    import torch.distributed as dist

    if not _joined():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def any_rank(flag: bool) -> bool:
    """Tell every rank whether the flag of any is set; waits for no GPU."""
    import torch
    import torch.distributed as dist

    if not _joined():
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def sum_counts(counts: Sequence[int]) -> list[int]:
    """Return the sums of whole numbers over all ranks, exactly; waits for no GPU.

    Args:
        counts: as many on every rank.
    """
    import torch
    import torch.distributed as dist

    if not _joined():
        return list(counts)
    sums = torch.tensor(counts, dtype=torch.int64)
    dist.all_reduce(sums)
    return sums.tolist()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Add a tensor up over all ranks, in place, and return it.

    Args:
        values: float or int[...], of the same shape on every rank, on the device of the run.
    """
    import torch.distributed as dist

    if _joined():
        dist.all_reduce(values)
    return values


def max_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Return the greatest value of all ranks, in place; on the CPU it waits for no GPU."""
    import torch.distributed as dist

    if _joined():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def _joined() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _set_rendezvous(environ: Any) -> None:  # noqa: ANN401 - os.environ or a dict
    """Under srun, meet at the first machine of the job; torchrun has already said where."""
    if "MASTER_ADDR" not in environ:
        environ["MASTER_ADDR"] = first_host(environ.get("SLURM_STEP_NODELIST", "localhost"))
    if "MASTER_PORT" not in environ:
        environ["MASTER_PORT"] = str(20_000 + int(environ.get("SLURM_JOB_ID", "0")) % 20_000)


def first_host(node_list: str) -> str:
    """Return the first machine of a compressed SLURM list: "gpu[03-05,9],x" gives "gpu03"."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\])?", node_list)
    if match is None:
        raise ConfigError(f"environment: SLURM_STEP_NODELIST '{node_list}' names no machine")
    return match.group(1) + (match.group(2) or "")
