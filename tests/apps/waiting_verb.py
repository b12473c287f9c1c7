"""A verb for tests of processes: it waits to be asked, and then saves. Imported, it is there."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from video_llama.apps import main

main.VERBS["wait"] = "until it is asked to end"
sys.modules["video_llama.apps.wait"] = sys.modules[__name__]
LONG_S = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True)
    does = ("wait", "crash", "rank 1 crashes", "ignore")
    parser.add_argument("--does", choices=does, default="wait")


def main_(args: argparse.Namespace) -> int:
    """Say who one is; then wait, or crash, or wait whatever anybody asks."""
    rank = os.environ.get("RANK", "0")

    def save(number, frame):
        (args.folder / f"saved{rank}").write_text(signal.Signals(number).name)
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if args.does == "ignore" else save)
    print("it begins")
    part = args.folder / f"part{rank}"
    part.write_text(str(os.getpid()))
    part.rename(args.folder / f"pid{rank}")
    if (args.does, rank) == ("rank 1 crashes", "1"):
        while not (args.folder / "pid0").exists():
            time.sleep(0.02)
    if args.does in ("crash", f"rank {rank} crashes"):
        raise RuntimeError("it broke")
    time.sleep(LONG_S)
    return 0


globals()["main"] = main_
