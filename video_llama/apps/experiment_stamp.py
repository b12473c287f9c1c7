"""What a run of an experiment is a run of: written into its folder, compared before it is reused.

    experiment_run.json   settings that decide the result, those of the runs it starts from, and
                          whether it is finished

Finished is what also has its result: a checkpoint, or the answers to every question set. A folder
whose settings are other ones is never gone on with. How fast something is computed, where and with
how many processes, and the source code, are no settings.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.apps.experiment_cells import CHECKPOINT_KEYS
from video_llama.apps.experiment_runs import Chain, Run
from video_llama.common.errors import CheckpointMismatch
from video_llama.common.package_paths import symbolic
from video_llama.common.registry import registry
from video_llama.common.whole_files import write_whole
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import DatasetReader
from video_llama.models.sources import find_checkpoint
from video_llama.runners.optim import accumulation_decides
from video_llama.runners.resume import MAY_CHANGE, MAY_CHANGE_IN_MODEL, comparable
from video_llama.runners.write_errors import explained
from video_llama.tasks.predictions import PREDICTIONS_FILE

STAMP_FILE = "experiment_run.json"

CHANGED = "changed"
"""Folder below an experiment's for runs that were set aside."""

DECIDES_ANSWERS = frozenset(
    f"run.{key}" for key in ("probes", "probe_questions", "max_new_tokens", "batch_size_eval")
)
"""Keys that a training may change when it goes on, and an evaluation may not."""

DECIDES_BEST = frozenset(
    f"run.{key}"
    for key in (
        "valid", "valid.datasets", "valid.every", "valid.metric", "valid_freq",
        "on_nan", "on_spike", "spike_factor",
    )
)  # fmt: skip
"""Keys that a training may change when it goes on, but which decide what it hands on: its best
checkpoint, and the steps it leaves out."""

BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Standing:
    """What is in the folder of a run.

    Attributes:
        is_there: whether it holds anything.
        is_finished: whether that is this run, to its end, with its result.
        changes: settings that are others now, as sentences; not empty if it is another run.
    """

    is_there: bool = False
    is_finished: bool = False
    changes: tuple[str, ...] = ()


def standings(chain: Chain) -> list[Standing]:
    """Say what is in the folders of a chain's runs, in order."""
    known = settings_of(chain)
    return [_standing(run, known[str(run.folder)]) for run in chain.runs]


def settings_of(chain: Chain) -> dict[str, dict[str, Any]]:
    """Return what decides the result of every run of a chain, by its folder."""
    settings: dict[str, dict[str, Any]] = {}
    for run in chain.runs:
        own = _own_settings(run)
        for key, folder in zip(CHECKPOINT_KEYS, run.start, strict=False):
            own[key] = f"{folder.name} {_digest(settings[str(folder)])}"
        settings[str(run.folder)] = json.loads(json.dumps(own, default=str))
    return settings


def write_stamp(run: Run, *, settings: Mapping[str, Any], is_finished: bool) -> None:
    """Say in a run's folder what it is, whole or not at all.

    Raises:
        VideoLlamaError: it cannot be written.
    """
    path = run.folder / STAMP_FILE
    content = {"is_finished": is_finished, "settings": dict(settings)}
    with explained(path):
        write_whole(path, json.dumps(content, indent=1) + "\n")


def set_aside(run: Run, *, out: Path) -> Path:
    """Move the folder of a run out of the way.

    Args:
        run: whose folder holds another run.
        out: folder of the experiment.

    Returns:
        Where it is now.
    """
    target = out / CHANGED / run.folder.relative_to(out)
    number = 1
    while (aside := target.with_name(f"{target.name}_{number}")).exists():
        number += 1
    aside.parent.mkdir(parents=True, exist_ok=True)
    return run.folder.rename(aside)


def _standing(run: Run, settings: Mapping[str, Any]) -> Standing:
    """Compare a folder with what should be in it."""
    if not run.folder.exists() or (run.folder.is_dir() and not any(run.folder.iterdir())):
        return Standing()
    path = run.folder / STAMP_FILE
    if not path.is_file():
        text = f"it has no {STAMP_FILE}: what is in it was made by no experiment"
        return Standing(is_there=True, changes=(text,))
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        before, was_finished = dict(stamp["settings"]), bool(stamp["is_finished"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        text = f"its {STAMP_FILE} is damaged, so nobody knows what it is ({error!r})"
        return Standing(is_there=True, changes=(text,))
    changes = tuple(
        f"{key}: {_shown(before, key)} in the folder, {_shown(settings, key)} now"
        for key in sorted(before.keys() | settings.keys())
        if before.get(key, ...) != settings.get(key, ...)
    )
    is_finished = was_finished and not changes and has_result(run)
    return Standing(True, is_finished=is_finished, changes=changes)


def has_result(run: Run) -> bool:
    """Tell whether what a run was made for is in its folder."""
    if run.step.learns:
        try:
            find_checkpoint(run.folder)
        except CheckpointMismatch:
            return False
        return True
    return all((run.folder / name / PREDICTIONS_FILE).is_file() for name in run.config.datasets)


def _own_settings(run: Run) -> dict[str, Any]:
    """Return what decides the result of a run, but for the runs it starts from."""
    may_change = MAY_CHANGE - (DECIDES_BEST if run.step.learns else DECIDES_ANSWERS)
    flat = comparable(symbolic(run.config.resolved))
    settings = {
        key: value
        for key, value in flat.items()
        if key not in may_change and not key.endswith(MAY_CHANGE_IN_MODEL)
    }
    if run.step.learns:
        settings["samples of a step"] = run.global_batch
        settings["length"] = run.length
        if accumulation_decides(run.config.model.compat):
            settings["iterations of a step"] = run.config.run.accum_grad_iters
    for name, entry in run.config.datasets.items():
        reader = registry.get_dataset_class(entry.type)(entry.config, name=name)
        for file in _files(reader):
            status = file.stat()
            content = _content(str(file), status.st_size, status.st_mtime_ns)
            settings[f"content of datasets.{name}, {file}"] = content
    return settings


def _files(reader: DatasetReader) -> Iterator[Path]:
    """Yield the files that decide the samples of a data set, as far as they are there.

    Shards are known by their names alone, and media not at all.
    """
    if not isinstance(reader, AnnotationReader):
        return
    for path in map(Path, reader.sources):
        if path.is_dir():
            yield from sorted(f for f in path.glob("*") if f.suffix in reader.suffixes)
        elif path.is_file():
            yield path


@functools.lru_cache(maxsize=256)
def _content(path: str, size: int, mtime_ns: int) -> str:
    """Hash a file; it is read again when it looks different from outside."""
    del size, mtime_ns
    digest = hashlib.blake2b(digest_size=8)
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"
