"""Texts and ids that the published code computes, copied from a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDENS = Path(__file__).parents[1] / "goldens" / "conversation"


def golden(name: str) -> Any:
    """Read one file of them."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


def recorded_chats() -> dict[str, Any]:
    """Conversations by scenario: prompts, their ids, and what was answered."""
    return {name: chat for name, chat in golden("chat").items() if not name.startswith("_")}
