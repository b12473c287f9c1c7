"""What tests of several doors share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

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
