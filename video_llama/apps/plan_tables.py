"""The tables of `video-llama plan` and `train.py --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from video_llama.apps.checks import MissingFile
from video_llama.apps.plan_memory import (
    GIB,
    Line,
    Sharding,
    Weights,
    host_bytes,
    largest_batch,
    memory_bytes,
    memory_lines,
    total,
    ways_out,
)
from video_llama.apps.plan_run import Machine, RunTime
from video_llama.apps.plan_steps import StepCost
from video_llama.common.schema import Config
from video_llama.models.fidelity import fidelity_of
from video_llama.models.video_llm import VideoLLM

MUCH = 0.3
"""Share of the time above which operations in float32 are worth a word."""


def show_parts(model: VideoLLM, *, console: Console) -> None:
    """Print one line per part: parameters, how many learn, dtype, where the weights come from."""
    table = _table("parts", "part", "type", "#parameters", "#trainable", "dtype", "weights from")
    rows = model.rows()
    for row in rows:
        trainable = f"{row.num_trainable:,}"
        name = row.name.removeprefix("branches.")
        table.add_row(name, row.type, f"{row.num_params:,}", trainable, row.dtype, row.weights)
    num_params = sum(row.num_params for row in rows)
    learning = sum(row.num_trainable for row in rows)
    table.add_section()
    table.add_row("total", "", f"{num_params:,}", f"{learning:,}", "", "")
    console.print(table)
    show_fidelity(model, console=console)


def show_fidelity(model: VideoLLM, *, console: Console) -> None:
    """Print how near a model is to what was published, if its system says so."""
    judged = fidelity_of(model.config)
    if judged is not None:
        style = "" if judged.is_exact else "bold yellow"
        text = f"fidelity to what was published: {judged}"
        console.print(text, style=style, markup=False, highlight=False)


def show_slots(model: VideoLLM, *, console: Console) -> None:
    """Print how much of the context one item of each branch takes."""
    table = _table("slots", "branch", "takes", "steps", "slots")
    slots = 0
    for name, spec in model.branch_specs().items():
        steps = spec.spec.num_steps
        slots += spec.slots(steps)
        table.add_row(name, ", ".join(spec.media), str(steps), str(spec.slots(steps)))
    console.print(table)
    budget, context = model.config.max_txt_len, model.max_context
    console.print(f"{slots} slots of {budget} positions (max_txt_len); context {context}")


def show_missing(missing: Sequence[MissingFile], *, console: Console) -> None:
    """Print a row for every file that is not there."""
    table = _table(f"{len(missing)} missing files", "key", "not found", "where to get it")
    table.show_lines = True
    for file in missing:
        table.add_row(file.key, file.text, file.source)
    console.print(table)


def show_memory(
    config: Config,
    *,
    weights: Weights,
    steps: Sequence[StepCost],
    machine: Machine,
    sharding: Sharding,
    console: Console,
) -> bool:
    """Print what one GPU holds, and the verdict.

    Returns:
        Whether it fits.
    """
    dearest = max(steps, key=lambda step: step.memory.total_bytes)
    memory, run = dearest.memory, config.run
    lines = memory_lines(
        weights,
        sharding=sharding,
        activation_bytes=memory.total_bytes,
        logit_bytes=memory.logit_bytes,
    )
    has, needs = memory_bytes(machine.gpu), total(lines)
    title = (
        f"memory of one of {machine.world_size} x {machine.gpu.name}, {sharding.name}, "
        f"{run.batch_size_train} samples of {config.model.max_txt_len} positions"
    )
    table = _table(f"{title}, {dearest.dataset}", "what", "#GiB", "")
    for line in lines:
        table.add_row(line.name, _gib(line.size), line.note)
    table.add_section()
    table.add_row("total", _gib(needs), f"of {_gib(has)}")
    console.print(table)
    saved = memory.total_bytes - dearest.recomputed_bytes
    console.print(
        f"activations and logits: {_gib(memory.total_bytes)} GiB as the file says, "
        f"{_gib(dearest.recomputed_bytes)} GiB with gradient_checkpointing in every part that can"
    )
    on_host = host_bytes(weights, sharding=sharding)
    if on_host:
        console.print(f"in the host's memory, per GPU: {_gib(on_host)} GiB")
    batch = largest_batch(
        lines, activation_bytes=memory.total_bytes, batch=run.batch_size_train, gpu=machine.gpu
    )
    if needs <= has:
        console.print(f"fits; batch_size_train up to {batch} would", style="bold green")
    else:
        console.print(f"does not fit: {_gib(needs)} GiB of {_gib(has)}", style="bold red")
        for way in ways_out(
            config, weights=weights, sharding=sharding, saved_bytes=saved, batch=batch
        ):
            console.print(f"  - {way}", markup=False)
    return needs <= has


def show_steps(
    steps: Sequence[StepCost], *, length: int, machine: Machine, console: Console
) -> None:
    """Print what a forward and a backward pass on one GPU cost, data set by data set."""
    title = f"one iteration on one GPU, samples of {length} positions"
    headers = ("data set", "#of steps", "items", "#TFLOP", "#s", "#TFLOP, cached", "#s, cached")
    table = _table(title, *headers)
    for step in steps:
        items = ", ".join(f"{name} of {num}" for name, num in step.takes.items()) or "text"
        costs = [
            text
            for flops in (step.flops, step.cached_flops)
            for text in (
                f"{sum(flops.values()) / 1e12:.1f}",
                f"{machine.seconds(flops):.2f}",
            )
        ]
        table.add_row(step.dataset, f"{step.share:.0%}", items, *costs)
    console.print(table)
    most = max(steps, key=lambda step: machine.single_share(step.flops))
    share = machine.single_share(most.flops)
    if share > MUCH and len(most.flops) > 1:
        console.print(
            f"float32 takes {share:.0%} of the time of {most.dataset}: frozen parts may be "
            "bfloat16 where they have a dtype, and with run.feature_cache they run once a clip"
        )


def show_time(time: RunTime, *, machine: Machine, console: Console) -> None:
    """Print how long the run computes."""
    peak = machine.gpu.half_tflops
    cached = f", {time.share_cached:.0%} of the features cached" if time.share_cached else ""
    if time.total_s is None:
        console.print(
            f"optimizer steps of {time.step_s:.2f} s; how many make one pass over the data "
            "(run.iters_per_epoch: auto) is known where their annotations are"
        )
    else:
        hours = time.total_s / 3600
        console.print(
            f"{time.num_steps:,} optimizer steps of {time.step_s:.2f} s: "
            f"{timedelta(seconds=round(time.total_s))}, {hours / 24:.2f} days, "
            f"{hours * machine.world_size:,.1f} GPU-hours{cached}"
        )
    console.print(
        f"assumed: {machine.mfu:.0%} of the {peak:g} TFLOP/s of {machine.gpu.name} (--mfu), "
        "computing alone; not measured"
    )


def show_disk(lines: Sequence[Line], *, console: Console) -> None:
    """Print what the run writes."""
    table = _table("disk", "what", "#GiB", "")
    for line in lines:
        table.add_row(line.name, f"{line.size / GIB:.3g}", line.note)
    console.print(table)


def _table(title: str, *headers: str) -> Table:
    """Return a table; columns whose header starts with # hold numbers."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        justify = "right" if header.startswith("#") else "left"
        table.add_column(header.removeprefix("#"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
