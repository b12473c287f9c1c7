"""What tests of several doors share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


# One for each module: while it is open its event loop runs in this thread, which others may need.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as api:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        opened = api.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()
