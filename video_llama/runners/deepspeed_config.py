"""DeepSpeed's JSON, generated from a run file; nobody writes it by hand.

Optimizer, schedule, precision and loss scaling are ours, and DeepSpeed is not told of them: it
sees float32 parameters and an optimizer. See https://www.deepspeed.ai/docs/config-json.
"""

from __future__ import annotations

import json
from typing import Any

from video_llama.common.schema import RunConfig
from video_llama.common.zero import Zero

BUCKET_ELEMENTS = 50_000_000
"""Of a buffer for gradients or weights on their way, 200 MB. What learns in these models is small;
DeepSpeed's own 500,000,000 would take 2 GB beside it."""

WHOLE_ELEMENTS = 100_000
"""A weight of stage 3 with at most so many stays whole everywhere; gathering it would cost more."""


def zero_settings(run: RunConfig) -> Zero | None:
    """Return the `run.zero` block, or its defaults; None if DeepSpeed is not used."""
    if run.engine != "deepspeed":
        return None
    return run.zero or Zero()


def deepspeed_config(run: RunConfig, *, world_size: int) -> dict[str, Any]:
    """Return what DeepSpeed is told of a run.

    Args:
        run: the `run` section, its engine DeepSpeed.
        world_size: processes of the run.
    """
    zero = zero_settings(run)
    assert zero is not None, "asked of runs with this engine only"
    stage: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if zero.stage == 3:
        stage["stage3_prefetch_bucket_size"] = BUCKET_ELEMENTS
        stage["stage3_param_persistence_threshold"] = WHOLE_ELEMENTS
        # It would put another function in the place of torch's for all modules of the process.
        stage["memory_efficient_linear"] = False
    pinned = {"device": "cpu", "pin_memory": run.device != "cpu"}
    if zero.offload_optimizer == "cpu":
        stage["offload_optimizer"] = pinned
    if zero.offload_parameters == "cpu":
        stage["offload_param"] = pinned
    return {
        "train_batch_size": run.batch_size_train * run.accum_grad_iters * world_size,
        "train_micro_batch_size_per_gpu": run.batch_size_train,
        "gradient_accumulation_steps": run.accum_grad_iters,
        "gradient_clipping": run.grad_clip_norm or 0.0,
        # The optimizer is torch's; DeepSpeed's own would need a compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": stage,
        # It would wait for the GPU at every iteration.
        "timers": {"throughput": {"enabled": False}},
    }


def show(config: dict[str, Any]) -> str:
    """Return the JSON as it is logged and kept."""
    return json.dumps(config, indent=2)
