"""`video-llama weights inspect PATH...`: what a file of weights is."""

from __future__ import annotations

import argparse

from rich.table import Table

from video_llama.apps.plan import wide_console
from video_llama.common.state_files import read_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or directories of weights")


def main(args: argparse.Namespace) -> int:
    """Print one line per path."""
    table = Table("path", "tensors", "values")
    for path in args.paths:
        state = read_state(path)
        table.add_row(path, str(len(state)), f"{sum(t.numel() for t in state.values()):,}")
    wide_console().print(table)
    return 0
