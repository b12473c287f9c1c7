"""Run files: preset <- file <- command line, merged, resolved, then typed.

A part whose `type` or `share` is changed by a later layer is replaced, not merged, so that
`video_qformer: {type: mlp}` does not inherit keys the new part has never heard of.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from video_llama.common.errors import ConfigError
from video_llama.common.legacy.translate import is_original, misplaced, set_key, translate
from video_llama.common.lora_bundle import take_lora_bundle
from video_llama.common.package_paths import symbolic
from video_llama.common.parsing import parse, parse_value
from video_llama.common.registry import did_you_mean, registry, unknown_name
from video_llama.common.released import take_released
from video_llama.common.schema import Config, ModelConfig, RunConfig
from video_llama.common.sections import parse_datasets, parse_model, translate_amp
from video_llama.common.sharing import SHARE
from video_llama.common.yaml_files import parse_options, read_yaml

SHIPPED_RUN_FILES = (Path(__file__).parents[2], Path(sys.prefix) / "share" / "video_llama")
"""Where `train_configs` and `eval_configs` lie in a checkout, and where a wheel installs them."""

SECTIONS = ("model", "datasets", "run", "imports")


def load(cfg_path: str | Path, *, options: Sequence[str] = ()) -> Config:
    """Read a run file with its preset and overrides.

    Args:
        cfg_path: YAML run file; looked for in the working directory, then in the package.
        options: overrides, each `dotted.key=value`, values in YAML syntax.

    Raises:
        ConfigError: anything is wrong with any key; all mistakes are listed together.
    """
    path = find_run_file(cfg_path)
    overrides = parse_options(options)
    tree, problems = _read_run_file(path, overrides)
    problems += [
        f"{key}: unknown section{did_you_mean(str(key), SECTIONS)} (known: {', '.join(SECTIONS)})"
        for key in tree
        if key not in SECTIONS
    ]
    imports = _import_modules(tree.get("imports"), problems)
    if isinstance(tree.get("model"), Mapping):
        given = take_released(tree["model"], on_command_line=[key for key, _ in overrides])
        tree["model"] = take_lora_bundle(given)
    preset = _preset_of(tree.get("model"), problems)
    model = datasets = None
    if preset is not None:
        tree["model"] = _merge(preset, tree["model"])
        tree = _resolve(tree, problems, where=str(path))
        model = parse_model(tree["model"], preset_keys=set(preset), problems=problems)
        datasets = parse_datasets(tree.get("datasets"), problems)
    tree["run"] = translate_amp(tree.get("run") or {}, problems)
    run = parse(RunConfig, tree["run"], where="run", problems=problems)
    problems += _unknown_names(tree)
    if problems or model is None or datasets is None:
        raise ConfigError(problems, where=str(path))
    return Config(model=model, datasets=datasets, run=run, imports=imports, resolved=symbolic(tree))


def load_preset(arch: str, model_type: str, *, options: Sequence[str] = ()) -> ModelConfig:
    """Type a preset's `model` section without a run file.

    Args:
        arch: system, e.g. `video_llama`.
        model_type: preset of it, e.g. `vicuna7b`.
        options: overrides, each `model.dotted.key=value`.

    Raises:
        ConfigError: there is no such preset, or a key is wrong; all mistakes are listed together.
    """
    where = f"{arch}/{model_type}"
    problems: list[str] = []
    tree: dict[str, Any] = {"model": {"arch": arch, "model_type": model_type}}
    overrides = parse_options(options)
    for key, value in overrides:
        set_key(tree, key, value)
    preset = _preset_of(tree["model"], problems)
    if preset is None:
        raise ConfigError(problems, where=where)
    given = take_released(tree["model"], on_command_line=[key for key, _ in overrides])
    return type_model_section(_merge(preset, take_lora_bundle(given)), where=where)


def type_model_section(
    section: Mapping[str, Any], *, options: Sequence[str] = (), where: str
) -> ModelConfig:
    """Type a whole `model` section, as `sections.model_section` wrote it; no preset is read.

    Args:
        section: the section.
        options: overrides, each `model.dotted.key=value`.
        where: the file it stands in, for messages.

    Raises:
        ConfigError: anything is wrong with any key; all mistakes are listed together.
    """
    tree: dict[str, Any] = {"model": dict(section)}
    problems: list[str] = []
    for key, value in parse_options(options):
        over: dict[str, Any] = {}
        set_key(over, key, value)
        problems += [f"{name}: not part of a model" for name in over if name != "model"]
        tree = _merge(tree, over)
    tree = _resolve(tree, problems, where=where)
    model = parse_model(tree["model"], preset_keys=set(section), problems=problems)
    if problems or model is None:
        raise ConfigError(problems, where=where)
    return model


def _read_run_file(
    path: Path, options: Sequence[tuple[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Return a run file with its overrides in our form, and what is wrong with its form."""
    tree = read_yaml(path)
    if is_original(tree):
        return translate(tree, path=path, options=options), []
    for key, value in options:
        over: dict[str, Any] = {}
        set_key(over, key, value)
        tree = _merge(tree, over)
    return tree, misplaced(tree)


def find_run_file(cfg_path: str | Path) -> Path:
    """Return the run file's path: as given, or among the run files that came with the package.

    Raises:
        ConfigError: there is none; the nearest names are shown.
    """
    path = Path(cfg_path)
    for root in (Path(), *SHIPPED_RUN_FILES):
        if (root / path).is_file():
            return root / path
    known = {str(file) for file in path.parent.glob("*.yaml")} | {
        str(file.relative_to(root))
        for root in SHIPPED_RUN_FILES
        for folder in ("train_configs", "eval_configs")
        for file in (root / folder).glob("**/*.yaml")
    }
    near = difflib.get_close_matches(str(path), sorted(known), n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ConfigError(f"--cfg-path: there is no file {path}{hint}")


def list_presets() -> dict[str, list[str]]:
    """Return the shipped presets: model types by arch."""
    root = resources.files("video_llama") / "presets"
    return {
        arch.name: sorted(file.name[: -len(".yaml")] for file in arch.iterdir())
        for arch in sorted(root.iterdir(), key=lambda entry: entry.name)
        if arch.is_dir()
    }


def read_preset(arch: str, model_type: str) -> dict[str, Any]:
    """Return a shipped preset, merged onto its `base`; interpolations are left as they are."""
    return copy.deepcopy(_shipped_preset(arch, model_type))


@functools.cache
def _shipped_preset(arch: str, model_type: str) -> dict[str, Any]:
    """Return the same for all; whoever loads many run files reads each preset once."""
    file = resources.files("video_llama") / "presets" / arch / f"{model_type}.yaml"
    with resources.as_file(file) as path:
        preset = read_yaml(path)
    base = preset.pop("base", None)
    return preset if base is None else _merge(_shipped_preset(arch, base), preset)


def _import_modules(node: object, problems: list[str]) -> tuple[str, ...]:
    """Import the modules that bring parts from elsewhere."""
    names: tuple[str, ...] = parse_value(
        tuple[str, ...], node or (), where="imports", problems=problems
    )
    for name in filter(None, names or ()):
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(f"imports: cannot import '{name}': {error}")
    return names


def _preset_of(model: object, problems: list[str]) -> dict[str, Any] | None:
    """Read the preset a `model` section asks for; None and a problem if there is no such preset."""
    if not isinstance(model, Mapping):
        problems.append("model: missing, expected a section with arch and model_type")
        return None
    presets = list_presets()
    arch, model_type = str(model.get("arch")), str(model.get("model_type"))
    if arch not in presets:
        problems.append(f"model.arch: {unknown_name(arch, presets, what='arch')}")
        return None
    if model_type not in presets[arch]:
        text = unknown_name(model_type, presets[arch], what=f"model_type of {arch}")
        problems.append(f"model.model_type: {text}")
        return None
    return read_preset(arch, model_type)


def _unknown_names(tree: Mapping[str, Any]) -> list[str]:
    """Say which names outside of parts and data sets nobody registered."""
    problems = []
    for section, key, kind in (
        ("run", "task", "task"),
        ("run", "lr_sched", "lr_scheduler"),
        ("model", "template", "template"),
    ):
        node = tree.get(section)
        name = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(name, str) and not registry.knows(kind, name):
            text = unknown_name(name, registry.names(kind), what=kind)
            problems.append(f"{section}.{key}: {text}")
    return problems


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees, the second wins; one that names another part replaces the first."""
    before, after = _part_of(base), _part_of(over)
    if before is not None and after is not None and before != after:
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_trees = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both_trees else value  # type: ignore[arg-type]
    return merged


def _part_of(node: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return which part a mapping names: a type of its own, or another branch's; None for none."""
    named = ((key, node[key]) for key in (SHARE, "type") if node.get(key) is not None)
    return next(named, None)


def _resolve(tree: Mapping[str, Any], problems: Sequence[str], *, where: str) -> dict[str, Any]:
    """Resolve `${...}`; what is the package's own is written `${package:...}` in presets."""
    try:
        node = OmegaConf.create(dict(tree))
        return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        text = f"{error.full_key}: {error.msg}" if error.full_key else str(error)
        raise ConfigError([*problems, text], where=where) from error
