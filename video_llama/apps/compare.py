"""`video-llama compare RUN_A RUN_B`: did they see the same data, and which is better?

    video-llama compare output/plain output/wider --out output/plain_wider
    video-llama compare output/plain output/wider --evaluation eval_withaudio
    video-llama compare output/toy/eval_withaudio output/other/eval_withaudio

A RUN is a run folder, an evaluation folder, or a folder of them (one per stage, or one `seed_N`
per seed). First the ledgers and the questions prove that both saw the same; if they did not, the
first difference is named and nothing is compared (exit code 1), except with --anyway.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from video_llama.apps.compare_cells import compare_cells, save_comparison
from video_llama.apps.compare_runs import read_cell
from video_llama.common.errors import ConfigError
from video_llama.common.logger import start_logging
from video_llama.runners.write_errors import require_writable

OTHER_DATA = 1
"""Exit code: they did not see the same data, or nobody can prove it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `video-llama compare`."""
    parser.add_argument("first", type=Path, metavar="RUN_A", help="the baseline")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="what is compared with it")
    parser.add_argument(
        "--evaluation",
        metavar="NAME",
        help="compare only evaluations of this name, in the runs' folders or beside them",
    )
    parser.add_argument(
        "--out",
        default=Path("compare"),
        type=Path,
        metavar="DIR",
        help="folder for report.html, results.md, results.json and plots (default: compare)",
    )
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="compare even if they saw different data; the page says so at its top",
    )


def main(args: argparse.Namespace) -> int:
    """Prove, then compare.

    Raises:
        ConfigError: a folder holds nothing to compare.
    """
    start_logging()
    folders = [args.first, args.second]
    if args.first.resolve() == args.second.resolve():
        raise ConfigError(f"RUN_B: {args.second} is the same folder as RUN_A; name another run")
    require_writable(args.out, key="--out")
    names = names_of(folders)
    cells = [
        runs
        for folder, name in zip(folders, names, strict=True)
        for runs in read_cell(folder, name=name, evaluation=args.evaluation)
    ]
    comparison = compare_cells(
        cells,
        baseline=names[0],
        title=args.title or f"{names[1]} against {names[0]}",
        question="",
    )
    if comparison.problems and not args.anyway:
        listed = "\n".join(f"  - {problem}" for problem in comparison.problems)
        print(
            f"error: {names[0]} and {names[1]} did not provably see the same data:\n{listed}\n"
            "a difference between them may come from that; --anyway compares them all the same, "
            "and says so on the page",
            file=sys.stderr,
        )
        return OTHER_DATA
    save_comparison(comparison, folder=args.out)
    print(args.out / "report.html")
    return 0


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name folders by where their paths part: output/a/x and output/b/x are a/x and b/x."""
    paths = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath(paths))
    return [path.relative_to(common).as_posix() if path != common else path.name for path in paths]
