"""`video-llama weights VERB`: looks at weight files, proves that they fit, writes them out.

A sub-verb is a module `weights_<verb>.py` with `add_arguments(parser)` and `main(args) -> int`,
as a verb is one in `main`; it is imported when it is chosen, so that none pays for another's.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

VERBS = {
    "check": "prove that the weights of a run file fit, from names and shapes alone",
    "export": "write trained branches in the published layout",
    "get": "fetch what a run file needs, or published files by name",
    "inspect": "say what a file of weights is and what it still needs",
    "merge-delta": "add a delta to LLaMA (also: python apply_delta.py)",
}


class SubVerb(argparse.ArgumentParser):
    """A parser that asks its sub-verb's module for its flags once it is chosen."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Add the flags, then parse."""
        _module(self.prog.split()[-1]).add_arguments(self)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs; their flags follow when one is chosen."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=SubVerb)
    for name, text in VERBS.items():
        verbs.add_parser(name, help=text, description=text)


def main(args: argparse.Namespace) -> int:
    """Run the sub-verb."""
    return int(_module(args.verb).main(args) or 0)


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"video_llama.apps.weights_{verb.replace('-', '_')}")
