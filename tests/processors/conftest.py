"""A writer of tiny media files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_media import write_clip


@pytest.fixture
def make_clip(tmp_path) -> Callable[..., Path]:
    """`make_clip("a.mp4", pictures, ...)` writes into the test's own folder."""

    def make(name, *arguments, **options):
        return write_clip(tmp_path / name, *arguments, **options)

    return make
