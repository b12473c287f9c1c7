"""Checkpoint writes that end in the middle; for `launch.start_ranks`.

Each write is made by a process forked for it: it is killed before one of its calls that change
the disk, or by the kernel at a byte of a file (RLIMIT_FSIZE, whose signal ends a process as SIGKILL
does: nothing is cleaned up), or is told at that byte that there is no room.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal

import torch

from video_llama.common.errors import VideoLlamaError
from video_llama.runners.checkpoint import RunState
from video_llama.runners.retention import save_checkpoint

CALLS = ("open", "fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir")
REPORT = "report.json"


def state_of(step, *, best_step=None):
    # The longest of the three files, so that there are limits that end each of them.
    config = {"run": {"words": "all the settings of a run " * 100}}
    return RunState(
        step=step, steps_per_epoch=9, global_batch_size=1, best_step=best_step, config=config
    )


def tensors_of(step):
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(100, generator=generator)}
    return weights, {"w::exp_avg": torch.randn(200, generator=generator)}


def save(folder, step, *, best_step=None, keep_last=1):
    weights, optimizer = tensors_of(step)
    state = state_of(step, best_step=best_step)
    return save_checkpoint(
        folder, weights=weights, optimizer=optimizer, state=state, keep_last=keep_last
    )


def before(folder, scene):
    """Put there what a scene starts with."""
    save(folder, 1)
    if scene == "best again":
        save(folder, 2)
    elif scene == "over a damaged one":
        path = save(folder, 2, keep_last=2) / "optimizer.safetensors"
        path.write_bytes(path.read_bytes()[:-1])


def then(folder, scene):
    """Write step 2."""
    save(folder, 2, best_step=2 if scene == "best again" else None)


def cut_at_calls(root, scene):
    """Write once for every call, killed before it; the last one is not killed."""
    point, codes = 0, []
    while not codes or codes[-1] != 0:
        folder = root / f"{point:04d}"
        before(folder, scene)
        codes.append(_forked(lambda folder=folder, point=point: _dying(folder, scene, point)))
        point += 1
    (root / REPORT).write_text(json.dumps(codes))


def cut_at_bytes(root, limits, *, is_full):
    """Write once for every limit in bytes of a file."""
    codes = []
    for limit in limits:
        folder = root / f"{limit:06d}"
        before(folder, "next")
        codes.append(_forked(lambda folder=folder, limit=limit: _limited(folder, limit, is_full)))
    (root / REPORT).write_text(json.dumps(codes))


def _forked(work):
    """Run in a process of its own; return its exit code, a negative signal if one ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _dying(folder, scene, point):
    left = [point]

    def dying(call):
        def wrapped(*args, **kwargs):
            changes = call is not real["open"] or args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if changes and left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= bool(changes)
            return call(*args, **kwargs)

        return wrapped

    real = {name: getattr(os, name) for name in CALLS}
    for name, call in real.items():
        setattr(os, name, dying(call))
    # rmtree takes its way by these only if they are the real ones.
    shutil._use_fd_functions = False
    then(folder, scene)
    return 0


def _limited(folder, limit, is_full):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN if is_full else signal.SIG_DFL)
    try:
        then(folder, "next")
    except VideoLlamaError as error:
        return 3 if "cannot write the checkpoint" in str(error) else 1
    return 0
