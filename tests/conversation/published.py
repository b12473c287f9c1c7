"""Texts and ids that the published code computes, copied from a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDENS = Path(__file__).parents[1] / "goldens" / "conversation"


def golden(name: str) -> Any:
    """Read one file of them."""
    return json.loads((GOLDENS / f"{name}.json").read_text())
