"""Where the runs of an experiment compute: GPUs divided among them, or processes on the CPU."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from video_llama.apps.devices import available_devices
from video_llama.common.errors import ConfigError, VideoLlamaError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCK_FILE = "lock"


def open_slots(
    *, kinds: Collection[str], num_parallel: int | None, num_ranks: int
) -> list[dict[str, str]]:
    """Return what the environment of each run at the same time adds.

    Args:
        kinds: of the devices that runs compute on.
        num_parallel: runs at the same time; None for one per GPU or core, or per `num_ranks` of
            them, and one at a time on any other device. More than there are GPUs share them.
        num_ranks: processes of a run.

    Raises:
        ConfigError: there are fewer GPUs than a run has processes.
    """
    if "cuda" not in kinds:
        cores = len(os.sched_getaffinity(0)) if set(kinds) <= {"cpu"} else 1
        return [{}] * (max(cores // num_ranks, 1) if num_parallel is None else num_parallel)
    gpus = _visible_gpus()
    groups = [gpus[i : i + num_ranks] for i in range(0, len(gpus) - num_ranks + 1, num_ranks)]
    if not groups:
        raise ConfigError(f"--ranks {num_ranks}: a run needs as many GPUs, found {len(gpus)}")
    number = len(groups) if num_parallel is None else num_parallel
    return [{VISIBLE: ",".join(groups[i % len(groups)])} for i in range(number)]


def _visible_gpus() -> list[str]:
    """Return the GPUs of this process as the environment names them."""
    number = available_devices().get("cuda", 0)
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:number] if named else [str(index) for index in range(number)]


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Hold a folder's lock, so that no two calls work on one experiment.

    What is started meanwhile holds it too if it keeps the file open: runs that outlive a killed
    call keep others out until they are done.

    Args:
        folder: of the experiment; made if it is not there.

    Yields:
        The open file.

    Raises:
        VideoLlamaError: another call, or a run that it left behind, is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VideoLlamaError(
                f"{folder}: this experiment is at work already, in another call or in runs that a "
                "killed call left behind; wait for it, or end it"
            ) from error
        yield file.fileno()
