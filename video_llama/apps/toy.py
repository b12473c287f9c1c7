"""`video-llama toy ...`: the toy world, its foundations, its whole recipe and its experiments.

    video-llama toy run --out output/toy
    video-llama toy experiments --out output/toy --docs docs/toy
    video-llama toy world --out output/toy/world
    video-llama toy foundations --out output/foundations

All keep what is finished, so a call that was interrupted goes on where it was, and a second one
does nothing.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

from video_llama.common.errors import ConfigError
from video_llama.common.logger import start_logging
from video_llama.toy.plan import FULL_TRAIN_CLIPS

CLIPS = {"train": "training", "valid": "validation", "test": "test", "composition": "composition"}
"""What the clips of a split are called."""

PART_NAMES = ("vision", "audio", "towers", "decoder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs and their flags."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = verbs.add_parser("run", help="make the world, train the five recipes, evaluate, ask")
    run.add_argument("--out", type=Path, default=Path("output/toy"), metavar="DIR")
    run.add_argument("--seed", type=int, default=42, help="of the training runs")
    run.add_argument("--clips", type=int, metavar="N", help="training clips (default: all)")
    run.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every recipe"
    )
    experiments = verbs.add_parser("experiments", help="what happens without this or that")
    experiments.add_argument("--out", type=Path, default=Path("output/toy"), metavar="DIR")
    experiments.add_argument("--seed", type=int, default=42, help="of the run they belong to")
    experiments.add_argument("--docs", type=Path, metavar="DIR", help="where tables and plots go")
    docs = verbs.add_parser("docs", help="tables, plots and pictures of what has been run")
    docs.add_argument("--out", type=Path, default=Path("output/toy"), metavar="DIR")
    docs.add_argument("--docs", type=Path, default=Path("docs/toy"), metavar="DIR")
    world = verbs.add_parser("world", help="write clips, pictures, sounds, texts and questions")
    world.add_argument("--out", type=Path, required=True, metavar="DIR")
    world.add_argument("--seed", type=int, default=0)
    world.add_argument(
        "--clips",
        type=int,
        default=FULL_TRAIN_CLIPS,
        metavar="N",
        help="training clips; the other sets shrink in proportion (default: %(default)s)",
    )
    world.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    world.add_argument(
        "--later",
        nargs="+",
        choices=["test", "composition"],
        default=[],
        metavar="SPLIT",
        help="clips left to another call: test, composition",
    )
    verbs.add_parser("ceilings", help="compute the shipped ceilings of the questions anew")
    foundations = verbs.add_parser(
        "foundations", help="pretrain the small encoders and the small decoder, on one core"
    )
    foundations.add_argument("--out", type=Path, required=True, metavar="DIR")
    foundations.add_argument("--seed", type=int, default=0)
    foundations.add_argument(
        "--parts", nargs="+", choices=PART_NAMES, default=list(PART_NAMES), help="default: all"
    )
    foundations.add_argument(
        "--curves", type=Path, metavar="DIR", help="where training curves go as JSON lines"
    )


def main(args: argparse.Namespace) -> int:
    """Run a sub-verb; 0 if all is well, 2 if a gate is missed."""
    start_logging()
    runs: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run,
        "experiments": _experiments,
        "docs": _docs,
        "world": _world,
        "foundations": _foundations,
        "ceilings": _ceilings,
    }
    return runs[args.verb](args)


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    start = time.perf_counter()
    from video_llama.apps.toy_run import run_toy
    from video_llama.apps.verb_processes import Verbs

    with Verbs() as verbs:
        run_toy(
            args.out,
            seed=args.seed,
            train_clips=args.clips,
            console=Console(),
            verbs=verbs,
            options=args.options,
        )
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(f"{time.perf_counter() - start:.0f} s, {cpu_s:.0f} CPU seconds")
    return 0


def _experiments(args: argparse.Namespace) -> int:
    from rich.console import Console

    from video_llama.apps.toy_experiments import run_experiments
    from video_llama.apps.verb_processes import Verbs

    with Verbs() as verbs:
        run_experiments(args.out, seed=args.seed, console=Console(), verbs=verbs)
    return _docs(args)


def _docs(args: argparse.Namespace) -> int:
    from video_llama.apps.toy_docs import write_docs

    if args.docs is not None:
        for path in write_docs(args.out, docs=args.docs):
            print(path)
    return 0


def _world(args: argparse.Namespace) -> int:
    from video_llama.toy.plan import Counts
    from video_llama.toy.world import write_world

    for flag, value in (("--clips", args.clips), ("--workers", args.workers)):
        if value < 1:
            raise ConfigError(f"{flag}: found {value}, at least 1 is needed")
    counts = Counts.scaled_to(args.clips)
    world = write_world(
        args.out, seed=args.seed, counts=counts, num_workers=args.workers, later=args.later
    )
    state = "was there already" if world.was_there else "is ready"
    asked = [split for split in CLIPS if split not in args.later]
    *most, last = [f"{world.num_clips[split]} {CLIPS[split]}" for split in asked]
    print(f"{world.folder} {state}: {', '.join(most)} and {last} clips")
    return 0


def _ceilings(args: argparse.Namespace) -> int:
    from video_llama.toy.world import compute_ceilings

    compute_ceilings()
    return 0


def _foundations(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from video_llama.foundations.build import build_foundations

    # More threads would change the order of sums, and with it the weights.
    torch.set_num_threads(1)
    parts = build_foundations(args.out, seed=args.seed, parts=tuple(args.parts), curves=args.curves)
    table = Table("part", "gate", "measured", "bar", "", title=f"foundations in {args.out}")
    for part in parts:
        for gate in part.gates:
            sign = "<=" if gate.lower_is_better else ">="
            verdict = "passed" if gate.is_passed else "[bold red]missed"
            table.add_row(part.name, gate.name, f"{gate.value:.3f}", f"{sign} {gate.bar}", verdict)
        table.add_section()
    Console().print(table)
    print("CPU seconds: " + ", ".join(f"{part.name} {part.cpu_s}" for part in parts))
    return 0 if all(gate.is_passed for part in parts for gate in part.gates) else 2
