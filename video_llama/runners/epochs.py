"""How long an epoch is: a number of iterations, or one pass over the training data.

`iters_per_epoch: auto` becomes a number where annotations are read and processes are counted, once,
before a schedule or a loop asks. A run that goes on keeps the length it was begun with, as the
learning rate of every step depends on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sized

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.schema import Config, RunConfig
from video_llama.runners.checkpoint import RunState


def steps_per_epoch(run: RunConfig) -> int:
    """Return the optimizer steps of an epoch.

    Raises:
        ConfigError: it is a pass over data that nobody has counted yet.
    """
    if run.iters_per_epoch == "auto":
        raise ConfigError(
            "run.iters_per_epoch: auto is one pass over the data, and they are not read here; "
            "give a number of iterations"
        )
    return run.iters_per_epoch // run.accum_grad_iters


def num_steps(run: RunConfig) -> int:
    """Return the optimizer steps of a whole run.

    Raises:
        ConfigError: as `steps_per_epoch`.
    """
    return run.max_epoch * steps_per_epoch(run)


def settle_epochs(
    config: Config,
    *,
    readers: Mapping[str, Sized],
    global_batch_size: int,
    state: RunState | None = None,
) -> Config:
    """Put a number in the place of `iters_per_epoch: auto`; any other run file stays as it is.

    Worked example, 10 samples, 4 in a step: an epoch is 3 steps, and the last one of the run takes
    2 samples a second time.

    Args:
        config: the run file; its `resolved` copy keeps the word.
        readers: of its data sets; nothing the training sets need is missing.
        global_batch_size: samples of an optimizer step, over all ranks.
        state: of the checkpoint the run goes on from; None for a fresh start.
    """
    if config.run.iters_per_epoch != "auto":
        return config
    num_samples = sum(
        len(readers[name]) for name, entry in config.datasets.items() if entry.split == "train"
    )
    steps = -(-num_samples // global_batch_size)
    get_logger().info("an epoch is one pass: %d samples, %d optimizer steps", num_samples, steps)
    if state is not None and state.steps_per_epoch != steps:
        get_logger().warning(
            "the data have changed: the run was begun with epochs of %d steps and keeps them",
            state.steps_per_epoch,
        )
        steps = state.steps_per_epoch
    iters = steps * config.run.accum_grad_iters
    return dataclasses.replace(config, run=dataclasses.replace(config.run, iters_per_epoch=iters))
