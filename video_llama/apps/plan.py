"""`train.py --dry-run`: what a run would build, and every file it would miss, in seconds.

The model is built on the meta device, so that full size costs no memory and no weights are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from video_llama.apps.checks import MissingFile, meta_model, misfits, missing_files
from video_llama.apps.console import wide_console
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.models.branch import num_steps
from video_llama.models.video_llm import VideoLLM


def show_plan(config: Config) -> int:
    """Print the resolved config, the table of parts, slots against context, and missing files.

    Returns:
        0 if the run could start, 2 if files are missing or something does not fit.
    """
    console = wide_console()
    console.print(Syntax(OmegaConf.to_yaml(OmegaConf.create(config.resolved)), "yaml"))
    model = meta_model(config.model)
    show_parts(model, console=console)
    show_slots(model, console=console)
    readers = {
        name: registry.get_dataset_class(entry.type)(entry.config, name=name)
        for name, entry in config.datasets.items()
    }
    missing, problems = list(missing_files(config, readers)), misfits(model, readers)
    if missing:
        show_missing(missing, console=console)
    else:
        console.print("every file is there")
    for problem in problems:
        console.print(problem, style="bold red", markup=False)
    return 2 if missing or problems else 0


def show_missing(missing: Sequence[MissingFile], *, console: Console) -> None:
    """Print a row for every file that is not there."""
    table = Table(title=f"{len(missing)} missing files", show_lines=True)
    for header in ("key", "not found", "where to get it"):
        table.add_column(header, overflow="fold")
    for file in missing:
        table.add_row(file.key, file.text, file.source)
    console.print(table)


def show_parts(model: VideoLLM, *, console: Console) -> None:
    """Print one line per part: parameters, how many learn, dtype, where the weights come from."""
    table = Table(title="parts")
    for header in ("part", "type", "parameters", "trainable", "dtype", "weights from"):
        is_number = header in ("parameters", "trainable")
        table.add_column(header, justify="right" if is_number else "left", overflow="fold")
    rows = model.rows()
    for row in rows:
        trainable = f"{row.num_trainable:,}"
        name = row.name.removeprefix("branches.")
        table.add_row(name, row.type, f"{row.num_params:,}", trainable, row.dtype, row.weights)
    total = sum(row.num_params for row in rows)
    learning = sum(row.num_trainable for row in rows)
    table.add_section()
    table.add_row("total", "", f"{total:,}", f"{learning:,}", "", "")
    console.print(table)


def show_slots(model: VideoLLM, *, console: Console) -> None:
    """Print how much of the context one item of each branch takes."""
    table = Table("branch", "takes", "steps", "slots", title="slots")
    total = 0
    for name, spec in model.branch_specs().items():
        steps = num_steps(spec.spec)
        total += spec.slots(steps)
        table.add_row(name, ", ".join(spec.media), str(steps), str(spec.slots(steps)))
    console.print(table)
    budget, context = model.config.max_txt_len, model.max_context
    console.print(f"{total} slots of {budget} positions (max_txt_len); context {context}")
