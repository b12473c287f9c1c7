"""Paths into the package, written so that they mean the same wherever it is installed.

`${package:foundations/toy}` in a preset or run file is the path of what ships under that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(str(resources.files("video_llama")))


def package_path(relative: str) -> str:
    """Return where something that ships with the package lies."""
    return str(ROOT / relative)


def symbolic(node: Any) -> Any:  # noqa: ANN401 - a tree of plain containers
    """Return a tree in which every path into the package is written `${package:...}`."""
    if isinstance(node, Mapping):
        return {key: symbolic(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [symbolic(value) for value in node]
    if isinstance(node, str) and node.startswith(f"{ROOT}/"):
        return f"${{package:{node.removeprefix(f'{ROOT}/')}}}"
    return node


if not OmegaConf.has_resolver("package"):
    OmegaConf.register_resolver("package", package_path)
