"""Lines typed by a person, with editing, completion and a history that outlives the program.

Without a terminal, lines come from standard input as they are. Python may be built without
readline; then there is no editing and no history, and nothing else is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType

from video_llama.apps.chat_words import complete
from video_llama.common.logger import get_logger

PROMPT = "> "
KEPT_LINES = 1000
"""Of the history; older ones go."""


def history_path() -> Path:
    """Return where the lines typed are kept (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "video-llama" / "chat_history"


class Lines:
    """Lines from standard input; open it as a context for editing and history.

    Args:
        history: file for the lines typed on a terminal, None keeps none.

    Attributes:
        is_typed: whether a person types them, and sees what comes of it.
    """

    def __init__(self, *, history: Path | None) -> None:
        self.is_typed = sys.stdin.isatty() and sys.stdout.isatty()
        self._history = history
        self._readline = _readline() if self.is_typed else None
        self._before = 0

    def __enter__(self) -> Lines:
        if self._readline is not None:
            self._readline.set_completer_delims("")
            self._readline.set_completer(_nth_completion)
            is_libedit = "libedit" in (self._readline.__doc__ or "")
            bind = "bind ^I rl_complete" if is_libedit else "tab: complete"
            self._readline.parse_and_bind(bind)
            self._open_history(self._readline)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._readline is not None and self._history is not None:
            new = self._readline.get_current_history_length() - self._before
            self._readline.set_history_length(KEPT_LINES)
            try:
                # Beside what somebody typed elsewhere meanwhile; libedit can only write all.
                if hasattr(self._readline, "append_history_file"):
                    self._readline.append_history_file(max(new, 0), str(self._history))
                else:
                    self._readline.write_history_file(str(self._history))
            except OSError as problem:
                get_logger().warning("%s: lines typed are not kept: %s", self._history, problem)

    def __iter__(self) -> Iterator[str]:
        """Yield lines without the white space around them; Ctrl-C throws a half-typed one away."""
        while True:
            try:
                yield input(PROMPT if self.is_typed else "").strip()
            except EOFError:
                if self.is_typed:
                    print()
                return
            except KeyboardInterrupt:
                if not self.is_typed:
                    raise
                print("\n[Ctrl-D or /quit leaves]")

    def _open_history(self, readline: ModuleType) -> None:
        """Read what was typed before, and see to it that nobody else can."""
        if self._history is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._history, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
            self._history.chmod(0o600)
            readline.read_history_file(str(self._history))
        except OSError as problem:
            get_logger().warning("%s: lines typed are not kept: %s", self._history, problem)
            self._history = None
        self._before = readline.get_current_history_length()


def _readline() -> ModuleType | None:
    """Import readline where Python has it."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _nth_completion(line: str, state: int) -> str | None:
    """Answer readline, which asks for one line after the other."""
    found = complete(line)
    return found[state] if state < len(found) else None
