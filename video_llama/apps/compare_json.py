"""A comparison as JSON: every number of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_training import total
from video_llama.apps.compare_words import caveats, verdict_sentences


def to_json(comparison: Comparison) -> str:
    """Write every number."""
    tree = {
        "title": comparison.title,
        "question": comparison.question,
        "command": comparison.command,
        "baseline": comparison.baseline,
        "is_same_data": not comparison.problems,
        "problems": comparison.problems,
        "verdicts": [sentence for _, sentence in verdict_sentences(comparison)],
        "caveats": caveats(comparison),
        "cells": [_plain(runs) for runs in comparison.cells],
        "sets": [
            {"name": a.name, "rows": _plain(a.rows), "proofs": _plain(a.proofs), "notes": a.notes}
            for a in comparison.sets
        ],
        "losses": [_plain(loss) for loss in comparison.losses],
        "totals": [
            _plain(total(comparison.trainings, cell=name))
            for name in dict.fromkeys(one.cell for one in comparison.trainings)
        ],
        "training": [_plain(training) for training in comparison.trainings],
        "training_data": [_plain(proof) for proof in comparison.proofs],
        "settings": [_plain(setting) for setting in comparison.settings],
    }
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def _plain(node: Any) -> Any:  # noqa: ANN401 - a dataclass, or what JSON holds
    """Turn dataclasses and paths into what JSON holds; what is not finite becomes null."""
    if dataclasses.is_dataclass(node):
        return {field.name: _plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_plain(value) for value in node]
    if isinstance(node, Path):
        return str(node)
    return None if isinstance(node, float) and not math.isfinite(node) else node
