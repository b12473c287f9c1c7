"""Writes the resolved copy of every shipped run file, with every default spelled out.

    python tests/golden/update.py

The copies make a change of a default, in a preset or in code, visible in review. Run it after
such a change and commit the difference; `tests/test_run_files.py` compares.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

import video_llama
from video_llama.common.config import load

GOLDEN = Path(__file__).parent
ROOT = GOLDEN.parents[1]
PACKAGE = str(Path(video_llama.__file__).parent)


def run_files() -> list[Path]:
    """Return every shipped run file, relative to the repository."""
    folders = ("train_configs", "eval_configs")
    return sorted(
        path.relative_to(ROOT) for name in folders for path in ROOT.glob(f"{name}/**/*.yaml")
    )


def resolved(path: Path) -> str:
    """Return a run file with all that its preset and the code add to it."""
    tree = dataclasses.asdict(load(ROOT / path))
    del tree["resolved"]
    del tree["model"]["paths"]["where_from"]
    text = yaml.safe_dump(_plain(tree), sort_keys=False, width=100)
    return text.replace(PACKAGE, "video_llama")


def _plain(node: object) -> object:
    """Turn tuples into lists, which YAML can write."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


if __name__ == "__main__":
    for path in run_files():
        copy = GOLDEN / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(resolved(path), encoding="utf-8")
