"""One log for the whole package: rank zero speaks, on the console and into the run folder.

Library code asks for `get_logger()` and never prints; a program calls `start_logging` once.
Without that call the package is silent below warnings, as a library should be.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from video_llama.common.dist import is_main

LOG_FILE = "log.txt"
CONSOLE = "console"
"""Name of the handler that `start_logging` adds, once."""

LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def get_logger() -> logging.Logger:
    """Return the logger of the package."""
    return logging.getLogger("video_llama")


def start_logging(*, level: int = logging.INFO) -> None:
    """Show events on the console of rank zero; the other ranks only show errors.

    Args:
        level: lowest level shown, of the logging module.
    """
    from rich import get_console
    from rich.logging import RichHandler

    logger = get_logger()
    if any(handler.get_name() == CONSOLE for handler in logger.handlers):
        return
    handler: logging.Handler
    if get_console().is_terminal:
        handler = RichHandler(show_path=False, log_time_format="[%H:%M:%S]")
    else:
        # Rich folds long lines; a file or a pipe keeps one line per event.
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(LINE_FORMAT, datefmt="%H:%M:%S"))
    handler.set_name(CONSOLE)
    handler.setLevel(level if is_main() else logging.ERROR)
    logger.setLevel(min(level, logging.INFO))
    logger.addHandler(handler)
    logger.propagate = False


class _RunLog(logging.FileHandler):
    """Ends at its first error: a full disk is told of once, and hides no other error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in logging
        """Take no more lines."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        get_logger().removeHandler(self)
        get_logger().warning("%s gets no more lines: %s", self.baseFilename, error)

    def close(self) -> None:
        """Give up what could not be written."""
        with contextlib.suppress(OSError):
            super().close()


def log_to_folder(folder: Path) -> logging.Handler | None:
    """Copy the events of rank zero to `folder`/log.txt as well, one line per event.

    Args:
        folder: the run folder; it must exist.

    Returns:
        The handler, for `stop_logging_to`, None on other ranks.
    """
    if not is_main():
        return None
    handler = _RunLog(folder / LOG_FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    logger = get_logger()
    logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    return handler


def stop_logging_to(handler: logging.Handler | None) -> None:
    """Close what `log_to_folder` opened."""
    if handler is not None:
        get_logger().removeHandler(handler)
        handler.close()
