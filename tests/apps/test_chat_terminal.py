"""The interactive chat in a real terminal: editing, history, completion, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import pty
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_S = 120
PATIENCE_S = 2
CTRL_C, CTRL_D, UP, TAB = "\x03", "\x04", "\x1b[A", "\t"


class Terminal:
    """A person at a terminal."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.seen = ""
        self._read = 0
        self._master, slave = pty.openpty()
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "parrot_terminal.py"), "--device", "cpu"],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths, "XDG_STATE_HOME": str(state), "TERM": "xterm",
                 "OMP_NUM_THREADS": "1"},
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def expect(self, text: str, *, pressing: str = "") -> None:
        """Wait until a text appears behind what was expected last, pressing a key now and then."""
        deadline = time.monotonic() + LIMIT_S
        while (found := self.seen.find(text, self._read)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[self._read :]!r}"
            self.type(pressing)
            ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
            if ready:
                self.seen += os.read(self._master, 4096).decode(errors="replace")
        self._read = found + len(text)

    def close(self) -> None:
        """Leave, whatever is going on."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    """Make standard input the terminal, and Ctrl-C what it is to a person."""
    import fcntl
    import signal
    import termios

    # What is started in the background of a script ignores it, and so would its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """Somebody who did a few things, left, and sees what is left."""
    person = Terminal(tmp_path_factory.mktemp("state"))
    try:
        talk(person)
        yield person
    finally:
        person.close()


def talk(terminal: Terminal) -> None:
    """Ask, interrupt, complete, correct, recall, leave."""
    terminal.expect("Ask a question, or /help.")
    terminal.expect("> ")
    terminal.type("What do you say?\r")
    terminal.expect("one")
    terminal.expect("two")
    terminal.type(CTRL_C)
    terminal.expect("[stopped]")
    assert "twelve" not in terminal.seen
    terminal.expect("> ")
    terminal.type(f"/sett{TAB}\r")
    terminal.expect("/settings")
    terminal.expect("temperature=0.0")
    terminal.expect("> ")
    terminal.type("half a line")
    terminal.expect("half a line")
    # Python's readline overlooks a signal that comes just before it waits for a key.
    terminal.expect("[Ctrl-D or /quit leaves]", pressing=CTRL_C)
    terminal.expect("> ")
    terminal.type("/und\x7fdo\r")
    terminal.expect("taken back: What do you say?")
    terminal.expect("> ")
    terminal.type(f"{UP}{UP}{UP}\r")
    terminal.expect("What do you say?")
    terminal.expect("three")
    terminal.type(CTRL_C)
    terminal.expect("[stopped]")
    terminal.expect("> ")
    terminal.type(CTRL_D)
    terminal.process.wait(LIMIT_S)


def test_a_person_talks_interrupts_recalls_completes_and_leaves(terminal: Terminal) -> None:
    assert terminal.process.returncode == 0


def test_notes_are_dim_on_a_terminal(terminal: Terminal) -> None:
    assert "\x1b[2m[taken back: What do you say?]" in terminal.seen


def test_lines_are_kept_for_their_owner_alone(terminal: Terminal) -> None:
    kept = terminal.state / "video-llama" / "chat_history"
    assert kept.read_text().splitlines()[:1] == ["What do you say?"]
    assert "half a line" not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
