"""What decides every prediction, so that no folder is filled by two different evaluations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.apps.checks import named_files
from video_llama.common.hub import local_path
from video_llama.common.package_paths import symbolic
from video_llama.common.schema import Config
from video_llama.models.lora_bundle import BUNDLE_KEY, bundle_files
from video_llama.models.sources import CHECKPOINT_KEYS, ON_TOP_KEYS, find_checkpoint
from video_llama.tasks.question_answering import QuestionAnswering


def identity_of(
    config: Config, *, sources: Sequence[Path], settings: QuestionAnswering.Config
) -> dict[str, Any]:
    """Return what decides every prediction, as plain values that can be compared and shown.

    Args:
        config: the typed run file.
        sources: files or folders of the questions and their answers.
        settings: how they are asked.
    """
    questions = b"".join(file.read_bytes() for path in sources for file in _files(path))
    return {
        **model_identity(config),
        "questions": _digest(questions),
        "precision": config.run.precision,
        **{name: getattr(settings, name) for name in settings.__dataclass_fields__},
    }


def model_identity(config: Config) -> dict[str, Any]:
    """Return what tells a model from others.

    Checkpoints and adapters are known by their content; foundation weights, which may be many
    gigabytes, by name and size.

    Args:
        config: of the model; what else is in it does not count.
    """
    checkpoints = {
        key: _digest(find_checkpoint(path).read_bytes())
        for key in CHECKPOINT_KEYS
        if (path := getattr(config.model, key)) is not None
    }
    bundle = config.model.paths.get(BUNDLE_KEY)
    if isinstance(bundle, str):
        files = [file.path.read_bytes() for file in bundle_files(bundle)]
        checkpoints[BUNDLE_KEY] = _digest(b"".join(files))
    foundations = [
        (symbolic(str(file)), file.stat().st_size)
        for key, path in named_files(config.model)
        if key not in ON_TOP_KEYS
        for file in _files(local_path(path))
    ]
    return {
        **checkpoints,
        "model": _digest(json.dumps(config.resolved["model"], sort_keys=True, default=str)),
        "foundations": _digest(json.dumps(foundations)),
    }


def _files(path: Path) -> list[Path]:
    """Return a file, or the files of a folder, in a fixed order."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*") if file.is_file())


def _digest(content: str | bytes) -> str:
    """Return a short hash."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=8).hexdigest()
