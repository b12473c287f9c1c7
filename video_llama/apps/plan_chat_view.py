"""`video-llama plan --chat`: what one GPU holds while a model talks, for a file or for presets.

    video-llama plan --chat --cfg-path eval_configs/video_llama_eval_withaudio.yaml --load-4bit
    video-llama plan --chat --cfg-path ... --length 2000 --presets vicuna7b vicuna13b

With --presets it prints a table in every number of bits: the one of docs/chat_memory.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from rich.table import Table

from video_llama.apps.console import wide_console
from video_llama.apps.opening import open_config
from video_llama.apps.plan_chat import BITS, ChatPlan, ChatPlanner
from video_llama.apps.plan_memory import GIB, memory_bytes, total
from video_llama.common.errors import ConfigError
from video_llama.common.gpus import Gpu
from video_llama.common.yaml_files import assignments

HEADER = ("preset", "decoder in", "weights", "key-values", "computing", "allowances", "GiB in all")


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `plan --chat`."""
    parser.add_argument(
        "--chat", action="store_true", help="plan talking to the model, on one GPU, not training it"
    )
    parser.add_argument(
        "--presets", nargs="+", default=[], metavar="NAME",
        help="with --chat: one row for each and every number of bits, as a table for a page",
    )  # fmt: skip


def plan_talking(args: argparse.Namespace, *, gpu: Gpu) -> int:
    """Print the plan; return 0 if it fits the GPU, 2 if not.

    Raises:
        ConfigError: the path means no model, or a key or a flag is wrong.
    """
    if args.gpus * args.nodes != 1:
        raise ConfigError(
            f"--gpus {args.gpus} --nodes {args.nodes}: a conversation is planned for one GPU; "
            "leave both out (run.device_map spreads a decoder over several)"
        )
    options = assignments(args.options)
    if args.presets:
        for line in preset_rows(args.cfg_path, args.presets, options=options, length=args.length):
            print(line)
        return 0
    if args.low_resource is not None:
        options.append(f"model.low_resource={args.low_resource}")
    config = open_config(args.cfg_path, options=options)
    plan = ChatPlanner(config.model, positions=args.length).plan()
    return 0 if show_plan(plan, gpu=gpu) else 2


def preset_rows(
    cfg_path: str, presets: Sequence[str], *, options: Sequence[str] = (), length: int | None = None
) -> Iterator[str]:
    """Yield the lines of a table in Markdown.

    Args:
        cfg_path: file that says which branches there are.
        presets: model types in its place.
        options: overrides.
        length: positions of the decoder in use, None for all.
    """
    yield _row(HEADER)
    yield _row(["---"] * 2 + ["---:"] * (len(HEADER) - 2))
    for preset in presets:
        config = open_config(cfg_path, options=[*options, f"model.model_type={preset}"])
        planner = ChatPlanner(config.model, positions=length)
        dtype = str(getattr(config.model.decoder.config, "dtype", "its dtype"))
        for bits in BITS:
            plan = planner.plan(low_resource=bits)
            yield _row([preset, dtype if bits == "none" else bits, *_cells(plan)])


def show_plan(plan: ChatPlan, *, gpu: Gpu) -> bool:
    """Print what a GPU holds, and the verdict; return whether it fits."""
    console, has = wide_console(), memory_bytes(gpu)
    table = Table(title=f"memory of one {gpu.name}, one conversation", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    table.add_column("")
    for line in plan.lines:
        table.add_row(line.name, f"{line.size / GIB:.2f}", line.note)
    table.add_section()
    table.add_row("total", f"{plan.total_bytes / GIB:.2f}", f"of {has / GIB:.2f}")
    console.print(table)
    fits = plan.total_bytes <= has
    if fits:
        room = plan.num_caches(has - plan.weight_bytes, most=1000)
        console.print(f"fits, with key-values of {room} conversations at once", style="bold green")
    else:
        way = (
            "" if "4bit" in str(plan) else "; --load-8bit or --load-4bit makes the decoder smaller"
        )
        console.print(f"does not fit{way}", style="bold red")
    return fits


def _cells(plan: ChatPlan) -> list[str]:
    """Return the numbers of a row."""
    allowed = [line for line in plan.working if line.note.startswith("allowance")]
    computed = [line for line in plan.working if line not in allowed]
    sizes = (plan.weight_bytes, plan.cache_bytes, total(computed), total(allowed), plan.total_bytes)
    return [f"{size / GIB:.2f}" for size in sizes]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
