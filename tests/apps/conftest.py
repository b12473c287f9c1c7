"""What tests of several doors share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import PRELOADED, Done, Program

from video_llama.processors.nursery import Nursery

FAKE_DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A camera and a microphone that nobody is asked to allow."""


# One for each module: while it is open its event loop runs in this thread, which others may need.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as api:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *FAKE_DEVICES]
        opened = api.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What programs are forked from."""
    opened = Nursery(PRELOADED)
    yield opened
    opened.close()


@pytest.fixture
def run_program(nursery: Nursery, tmp_path: Path) -> Callable[..., Done]:
    """`run_program("train.py", "--help")` waits for its end."""

    def run(*words: Any) -> Done:
        out, err = tmp_path / "program.out", tmp_path / "program.err"
        child = nursery.start(Program([*map(str, words)], out, err))
        assert child.has_ended(patience_s=600)
        return Done(child.exit_code(), out.read_text(), err.read_text())

    return run
