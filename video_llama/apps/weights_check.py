"""`video-llama weights check`: proves from names and shapes that a run file's weights fit.

    video-llama weights check --cfg-path eval_configs/video_llama_eval_withaudio.yaml
    video-llama weights check --cfg-path ... --options model.released=Video-LLaMA-2-7B-Finetuned

Only the headers of files are read and the model takes no memory, so this is quick at any size.
Exit code 2 if a file is missing or does not fit; everything that is wrong is shown together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from video_llama.apps.checks import missing_weights
from video_llama.apps.console import wide_console
from video_llama.apps.main import add_config_arguments
from video_llama.apps.plan_tables import show_fidelity, show_missing
from video_llama.apps.vocabulary import vocabulary_problems
from video_llama.common.config import load
from video_llama.common.hub import local_path
from video_llama.common.state_files import SUFFIXES
from video_llama.common.weights import LoadReport
from video_llama.models.loading import Loaded, check_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_config_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print what fills what; 2 if something is missing or does not fit."""
    config = load(args.cfg_path, options=args.options).model
    console = wide_console()
    missing = list(missing_weights(config))
    loaded, problems = check_model(config, missing=[file.path for file in missing])
    problems += vocabulary_problems(loaded.model)
    _show_files(loaded.reports, console=console)
    if missing:
        show_missing(missing, console=console)
    for problem in problems:
        console.print(problem, style="bold red", markup=False, highlight=False)
    if missing or problems:
        return 2
    _show_parts(loaded, console=console)
    return 0


def _show_files(reports: Iterable[LoadReport], *, console: Console) -> None:
    """Print a row for every file that fits."""
    table = Table(title="files that fit")
    for header in ("file", "tensors used", "share read", "keys left out, and why"):
        table.add_column(header, overflow="fold")
    for report in reports:
        reasons = "\n".join(f"{n}: {reason}" for reason, n in report.dropped.items())
        share = report.num_bytes / max(_num_bytes(local_path(report.source)), 1)
        table.add_row(report.source, f"{report.matched:,}", f"{share:.1%}", reasons)
    if table.row_count:
        console.print(table)


def _show_parts(loaded: Loaded, *, console: Console) -> None:
    """Print where every part's parameters come from."""
    table = Table(title="every parameter has one source")
    for header in ("part", "parameters", "from"):
        is_number = header == "parameters"
        table.add_column(header, justify="right" if is_number else "left", overflow="fold")
    for row in loaded.model.rows():
        origins = {
            source for name, source in loaded.origin.items() if name.startswith(f"{row.name}.")
        }
        start = "fresh" if row.name in loaded.fresh else row.weights
        table.add_row(row.name, f"{row.num_params:,}", "\n".join(sorted(origins)) or start)
    console.print(table)
    for text in loaded.replaced:
        console.print(f"replaced: {text}", markup=False, highlight=False)
    show_fidelity(loaded.model, console=console)


def _num_bytes(path: Path) -> int:
    """Return the size of a file, or of all weights in a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir() if file.suffix in SUFFIXES)
