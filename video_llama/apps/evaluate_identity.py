"""What decides every prediction, so that no folder is filled by two different evaluations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from video_llama.apps.checks import named_files
from video_llama.common.hub import local_path
from video_llama.common.package_paths import symbolic
from video_llama.common.schema import Config
from video_llama.common.types import MEDIA_KINDS
from video_llama.datasets.annotations import AnnotationReader
from video_llama.models.lora_bundle import BUNDLE_KEY, bundle_files
from video_llama.models.sources import CHECKPOINT_KEYS, ON_TOP_KEYS, find_checkpoint
from video_llama.runners.resume import comparable
from video_llama.tasks.question_answering import QuestionAnswering


def identity_of(
    config: Config, *, reader: AnnotationReader, settings: QuestionAnswering.Config
) -> dict[str, Any]:
    """Return what decides every prediction, as plain values that can be compared and shown.

    Args:
        config: the typed run file.
        reader: of the questions and their answers.
        settings: how they are asked.
    """
    files = [file for path in reader.sources for file in _files(Path(path))]
    return {
        **model_identity(config),
        "questions": _digest(b"".join(file.read_bytes() for file in files)),
        **_reading(config, reader=reader),
        "video_reader": config.run.video_reader,
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
    settings = comparable({"model": config.resolved["model"]})
    return {
        **checkpoints,
        "model": _digest(json.dumps(settings, sort_keys=True, default=str)),
        "foundations": _digest(json.dumps(foundations)),
    }


def _reading(config: Config, *, reader: AnnotationReader) -> dict[str, Any]:
    """Return how a set is read, without the paths of files that are known by their content."""
    folders = dict(map(reader.media_folder, MEDIA_KINDS))
    hashed = {key for key, _ in reader.named_paths} - folders.keys()
    values = {
        "type": config.datasets[reader.name].type,
        **asdict(reader.config),
        **{key: str(Path(path).resolve()) for key, path in folders.items()},
    }
    return {
        f"datasets.{reader.name}.{key}": value for key, value in values.items() if key not in hashed
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
