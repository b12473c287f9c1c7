"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console


def wide_console() -> Console:
    """Return a console that does not cut tables when its output goes to a file.

    Brackets are no markup: names and paths that hold some are shown as they are.
    """
    console = Console(markup=False)
    return console if console.is_terminal else Console(width=180, markup=False)
