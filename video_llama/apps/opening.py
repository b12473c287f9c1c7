"""Which model a path means: a run file, a model's own folder, a run's folder, or a release.

    eval_configs/video_llama_eval_withaudio.yaml    a run file
    models/mine                                     what `save_pretrained` wrote
    output/visionbranch_stage2                      what a training run left
    DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned          a release, or any of these on the hub, fetched
    LanguageBind/Video-LLaVA-7B                     one of another system

Nothing of a model is read here but its config, and the names in a run's checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_llama.common.config import load, load_preset
from video_llama.common.errors import ConfigError
from video_llama.common.hub import hub_ref, local_path, way_to_get
from video_llama.common.parsing import parse
from video_llama.common.registry import registry
from video_llama.common.schema import Config, ModelConfig, RunConfig
from video_llama.common.sections import model_section
from video_llama.common.state_files import read_state
from video_llama.common.yaml_files import assignments, parse_options
from video_llama.models.pretrained import CONFIG_FILE, RUN_FILE, read_folder
from video_llama.models.sources import find_checkpoint, named_parts

PRESETS = {"video_llama": "llama2_7b", "video_llava": "vicuna7b"}
"""Systems whose releases are known by their folder alone, and which preset goes with one that does
not tell."""

BARE_RUN = {"task": "question_answering", "output_dir": "output"}
"""The `run` section of a folder that has none; chat takes its places and only checks precision."""


def open_config(source: str | Path, *, options: Sequence[str] = ()) -> Config:
    """Return the config of whatever a path means.

    Args:
        source: a run file or a folder, or the name of either on the hub.
        options: overrides; of a folder without a run file those of `model` and `run`.

    Raises:
        ConfigError: it is none of these, or a key is wrong.
    """
    folder = local_path(source)
    if not folder.is_dir():
        if hub_ref(source) is not None and not Path(source).suffix:
            raise ConfigError(f"{source}: there is no such folder{way_to_get(source)}")
        return load(source, options=options)
    if (folder / RUN_FILE).is_file():
        return _of_run(folder, options)
    if _is_own(folder):
        return _of_section(source, options)
    return _of_release(str(source), options)


def _is_own(folder: Path) -> bool:
    """Tell whether `save_pretrained` wrote a folder; a damaged one is judged by who reads it."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return True
    return isinstance(content, dict) and "model" in content


def _of_run(folder: Path, options: Sequence[str]) -> Config:
    """Return a run's own config, with what it learned in place of what it started from."""
    path = folder / RUN_FILE
    own = load(path).model
    held = tuple(read_state(find_checkpoint(folder)))
    filled = [f"model.ckpt={folder}", "model.ckpt_2=null"]
    if own.ckpt is not None and not _covers(held, own):
        if own.ckpt_2 is not None:
            raise ConfigError(
                f"{folder}: its checkpoint holds only a part of what the run read from "
                f"{own.ckpt} and {own.ckpt_2}; give a run file that names all three (--cfg-path)"
            )
        filled = [f"model.ckpt_2={folder}"]
    return load(path, options=[*filled, "run.resume_ckpt_path=null", *assignments(options)])


def _covers(held: Sequence[str], model: ModelConfig) -> bool:
    """Tell whether a checkpoint holds every part that no other file brings, and each whole."""
    lacking = [(name, part) for name, part in named_parts(model) if part.file is None]
    return all(
        part.trainable is True and any(key.startswith(f"{name}.") for key in held)
        for name, part in lacking
    )


def _of_section(source: str | Path, options: Sequence[str]) -> Config:
    """Return the config of a model's own folder, which has no `run` section."""
    words = assignments(options)
    of_model = [word for word in words if word.startswith("model.")]
    rest = [word for word in words if not word.startswith("model.")]
    return _with_run(read_folder(source, options=of_model), rest, where=str(source))


def _of_release(source: str, options: Sequence[str]) -> Config:
    """Return the config of a folder as it was published."""
    words = assignments(options)
    arch, model_type = _released_as(source)
    of_model = [word for word in words if word.startswith("model.")]
    rest = [word for word in words if not word.startswith("model.")]
    given = [f"model.released={source}", *of_model]
    return _with_run(load_preset(arch, model_type, options=given), rest, where=source)


def _released_as(source: str) -> tuple[str, str]:
    """Return system and preset of a release.

    Raises:
        ConfigError: it is none; with what every system expects.
    """
    problems = []
    for arch, preset in PRESETS.items():
        find = registry.get("released_folder", arch)
        try:
            found: Mapping[str, str] = find(source, {}, skip=())
        except ConfigError as error:
            problems += error.problems
        else:
            return arch, found.get("model_type", preset)
    raise ConfigError(
        f"{source}: no model's folder: neither {CONFIG_FILE} of save_pretrained, nor a run's "
        f"{RUN_FILE}, nor a release ({'; '.join(problems)})"
    )


def _with_run(model: ModelConfig, options: Sequence[str], *, where: str) -> Config:
    """Put a `run` section beside a model."""
    run: dict[str, Any] = dict(BARE_RUN)
    problems = []
    for key, value in parse_options(options):
        section, _, name = key.partition(".")
        if section != "run" or not name:
            problems.append(f"{key}: a model's folder has the sections model and run")
        run[name] = value
    typed = parse(RunConfig, run, where="run", problems=problems)
    if problems:
        raise ConfigError(problems, where=where)
    return Config(
        model=model, datasets={}, run=typed, resolved={"model": model_section(model), "run": run}
    )
