"""What wrote a checkpoint: versions of libraries, and the state of the source."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import video_llama

PACKAGES = ("torch", "transformers", "safetensors", "timm", "deepspeed", "peft", "av")
GIT_LIMIT_S = 10.0
"""A source tree on a slow disk must not keep a run from starting."""


def written_by() -> dict[str, Any]:
    """Return versions by name, and what git says of this package and of the working directory.

    Returns:
        `versions`; `git` by directory, each with `commit` and `is_dirty`, {} outside of git.
    """
    versions = {
        "video_llama": video_llama.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in PACKAGES},
    }
    folders = {"video_llama": Path(video_llama.__file__).parent, "project": Path.cwd()}
    return {
        "versions": {name: version for name, version in versions.items() if version is not None},
        "git": {name: state for name, path in folders.items() if (state := git_state(path))},
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit that is checked out in a folder, and whether tracked files differ from it.

    Returns:
        `commit` and `is_dirty`; {} where there is no git, no repository or no answer.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"commit": commit, "is_dirty": bool(changes)}


def changed_versions(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Return the versions that differ between two results of `written_by`, by name."""
    old, new = before.get("versions", {}), now.get("versions", {})
    return {
        name: (old.get(name, "not there"), new.get(name, "not there"))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str | None:
    """Ask git; None if it does not answer."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
