"""Programs as if started from a shell, without waiting for torch and transformers every time.

They are forked from a process that has imported these two and, of the project, what a nursery is
made of; they find modules where the tests do. `test_bad_input.py` opens every door once without.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket

ROOT = Path(__file__).parents[2]
PRELOADED = "transformers.models.llama.modeling_llama"
IGNORED_BY_A_NURSERY = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class Program:
    """A program to be run in the root of the repository.

    Attributes:
        words: a file or, behind "-m", a module, and its flags.
        out: file for what it says.
        err: file for what it complains about.
    """

    words: Sequence[str]
    out: Path
    err: Path

    def prepare(self) -> None:
        """Take signals like any process."""
        for number in IGNORED_BY_A_NURSERY:
            signal.signal(number, signal.SIG_DFL)

    def __call__(self, connection: socket) -> int:
        """Run it in a child of a nursery; return its exit code."""
        for path, stream in ((self.out, sys.stdout), (self.err, sys.stderr)):
            with path.open("wb") as file:
                os.dup2(file.fileno(), stream.fileno())
        os.chdir(ROOT)
        try:
            self._run()
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            print(end.code, file=sys.stderr)
            return 1
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
        return 0

    def _run(self) -> None:
        """Do as the interpreter does with these words."""
        if self.words[0] == "-m":
            sys.argv = ["-m", *self.words[2:]]
            runpy.run_module(self.words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(self.words)
            sys.path.insert(0, str(Path(self.words[0]).parent))
            runpy.run_path(self.words[0], run_name="__main__")


@dataclass(frozen=True)
class Done:
    """What became of a program."""

    returncode: int
    stdout: str
    stderr: str
