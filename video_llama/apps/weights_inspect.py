"""`video-llama weights inspect PATH...`: what a file of weights is and what it still needs.

    video-llama weights inspect ckpt/*.pth
    video-llama weights inspect ckpt/Video-LLaMA-2-7B-Finetuned --json

Takes files, directories in Hugging Face's or Meta's layout, folders of our runs, and folders that
hold several of these. Exit code 2 if something cannot be read.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from video_llama.apps.console import wide_console
from video_llama.models.released.inspection import Inspection, inspect_path

BROKEN = "broken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or directories of weights")
    parser.add_argument("--json", action="store_true", help="for scripts: one list of objects")


def main(args: argparse.Namespace) -> int:
    """Say what is at every path; 2 if something cannot be read."""
    found = [inspection for path in args.paths for inspection in inspect_path(path)]
    if args.json:
        print(json.dumps([asdict(inspection) for inspection in found], indent=2))
    else:
        console = wide_console()
        for inspection in found:
            _show(inspection, console=console)
    return 2 if any(inspection.kind == BROKEN for inspection in found) else 0


def _show(found: Inspection, *, console: Console) -> None:
    """Print what is known of one path, a line for each thing that is."""
    table = Table(title=found.path, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    dtypes = ", ".join(f"{dtype} {count:,}" for dtype, count in found.dtypes.items())
    size = f"{found.num_tensors:,} tensors, {found.num_values:,} values, {_size(found.num_bytes)}"
    rows = {
        "is": found.text,
        "release": found.release,
        "decoder": found.decoder,
        "holds": f"{size} ({dtypes})" if found.num_tensors else "",
        "goes to": " or ".join(f"model.{key}" for key in found.keys),
        "needs": ", ".join(found.needs),
        "fidelity": found.fidelity,
        "hears": found.hears,
        "note": "\n".join(found.notes),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    console.print(table)


def _size(num_bytes: int) -> str:
    """Return a size with a unit that suits it."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000 or unit == "MB":
            break
        num_bytes //= 1000
    return f"{num_bytes:,} {unit}"
