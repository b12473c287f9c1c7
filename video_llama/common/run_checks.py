"""What the `run` section of a run file may not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from video_llama.common.cadence import parse_cadence

if TYPE_CHECKING:
    from video_llama.common.schema import RunConfig

LEAST = {
    "max_epoch": 1,
    "iters_per_epoch": 1,
    "batch_size_train": 1,
    "batch_size_eval": 1,
    "accum_grad_iters": 1,
    "log_freq": 1,
    "valid_freq": 1,
    "max_new_tokens": 1,
    "probe_questions": 1,
    "max_bad_steps": 1,
    "keep_last": 0,
    "num_workers": 0,
    "warmup_steps": 0,
    "warmup_lr": 0,
    "weight_decay": 0,
}
"""Smallest value of keys of the `run` section."""

ABOVE_ZERO = {
    "grad_clip_norm": "null does not clip",
    "decode_timeout_s": "null sets no limit",
    "collective_timeout_s": "take a large number for no limit",
    "peak_tflops": "null takes what is known of the GPU",
}
"""Keys that must be above 0, and what to set instead."""


def run_problems(run: RunConfig) -> list[str]:
    """Say what is wrong with the numbers of a run, and what does not go together."""
    problems = [
        f"{name} must be at least {least}, found {value}"
        for name, least in LEAST.items()
        if (value := getattr(run, name)) not in (None, "auto") and value < least
    ]
    try:
        parse_cadence(run.save_freq)
    except ValueError as error:
        problems.append(f"save_freq must be {error}")
    iters, accum = run.iters_per_epoch, run.accum_grad_iters
    if iters != "auto" and accum >= 1 and iters % accum:
        problems.append(
            f"iters_per_epoch ({iters}) must be a multiple of accum_grad_iters ({accum}): an epoch "
            "ends with an optimizer step"
        )
    problems += _warmup_problems(run)
    if not 0 <= run.min_lr <= run.init_lr:
        problems.append(f"min_lr ({run.min_lr}) must lie between 0 and init_lr ({run.init_lr})")
    if run.lr_decay_rate is not None and not 0 < run.lr_decay_rate <= 1:
        problems.append(f"lr_decay_rate must be above 0 and at most 1, found {run.lr_decay_rate}")
    if run.lr_decay_rate is None and run.lr_sched == "linear_warmup_step_lr":
        problems.append(
            "lr_sched 'linear_warmup_step_lr' needs lr_decay_rate, the factor of every epoch, "
            "e.g. 0.5"
        )
    if not 0 <= run.max_skip_rate <= 1:
        problems.append(f"max_skip_rate must lie in 0..1, found {run.max_skip_rate}")
    problems += [
        f"{name} must be above 0, found {value}; {otherwise}"
        for name, otherwise in ABOVE_ZERO.items()
        if (value := getattr(run, name)) is not None and value <= 0
    ]
    if run.spike_factor <= 1:
        problems.append(f"spike_factor must be above 1, found {run.spike_factor}")
    if not 0 < run.beta2 < 1:
        problems.append(f"beta2 must lie between 0 and 1, found {run.beta2}")
    if run.zero is not None and run.engine != "deepspeed":
        problems.append(
            f"zero belongs to engine: deepspeed, found engine: {run.engine}; set that engine, "
            "or zero: null"
        )
    if run.compile is not False and run.zero is not None and run.zero.stage == 3:
        problems.append(
            f"compile: {str(run.compile).lower()} does not go with zero.stage: 3, whose weights "
            "come and go inside of layers, behind the compiler's back; set compile: false, or "
            "zero.stage: 2"
        )
    return problems


def _warmup_problems(run: RunConfig) -> list[str]:
    """Say what is wrong with the length of the warm-up."""
    problems = []
    if run.warmup_ratio is not None:
        if not 0 <= run.warmup_ratio < 1:
            problems.append(
                f"warmup_ratio must be at least 0 and below 1, found {run.warmup_ratio}"
            )
        if run.warmup_steps:
            problems.append(
                f"warmup_steps ({run.warmup_steps}) and warmup_ratio ({run.warmup_ratio}) are two "
                "lengths of one warm-up; keep one, and set the other to 0 or null"
            )
    return problems
