"""Run files: preset <- file <- command line, merged by OmegaConf, then parsed and typed.

A part whose `type` is changed by a later layer is replaced, not merged, so that
`video_qformer: {type: mlp}` does not inherit keys the new part has never heard of.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from video_llama.common.errors import ConfigError, UnknownName
from video_llama.common.registry import did_you_mean, registry, unknown_name
from video_llama.common.schema import (
    ENTRY_KEYS,
    PART_KEYS,
    BranchConfig,
    Config,
    DatasetEntry,
    ModelConfig,
    PartConfig,
    RunConfig,
    parse,
    parse_value,
    type_hints,
)

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
    tree = _read_yaml(path)
    overrides = _parse_options(options)
    problems = [
        f"{key}: unknown section{did_you_mean(key, SECTIONS)} (known: {', '.join(SECTIONS)})"
        for key in {**tree, **overrides}
        if key not in SECTIONS
    ]
    tree = _merge(tree, overrides)
    imports = tree.get("imports") or []
    for module in imports:
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems.append(f"imports: cannot import '{module}': {error}")
    model_node = tree.get("model")
    if not isinstance(model_node, Mapping):
        problems.append("model: missing, expected a section with arch and model_type")
        raise ConfigError(problems, where=str(path))
    preset = _read_preset(model_node, problems)
    if preset is None:
        raise ConfigError(problems, where=str(path))
    tree["model"] = _merge(preset, model_node)
    tree = _resolve(tree, where=str(path))
    model = parse_model(tree["model"], preset_keys=set(preset), problems=problems)
    datasets = parse_datasets(tree.get("datasets") or {}, problems)
    run = parse(RunConfig, tree.get("run") or {}, where="run", problems=problems)
    if problems or model is None:
        raise ConfigError(problems, where=str(path))
    return Config(model=model, datasets=datasets, run=run, imports=tuple(imports), resolved=tree)


def find_run_file(cfg_path: str | Path) -> Path:
    """Return the run file's path: as given, or among the run files that came with the package.

    Raises:
        ConfigError: there is none; the nearest names are shown.
    """
    path = Path(cfg_path)
    for root in (Path(), *SHIPPED_RUN_FILES):
        if (root / path).is_file():
            return root / path
    folder = path.parent if path.parent.is_dir() else Path()
    known = [str(p) for p in sorted(folder.rglob("*.yaml")) if ".venv" not in p.parts]
    near = difflib.get_close_matches(str(path), known, n=3, cutoff=0.5)
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


def parse_model(
    node: Mapping[str, Any], *, preset_keys: set[str], problems: list[str]
) -> ModelConfig | None:
    """Turn a merged `model` section into a `ModelConfig`; mistakes are appended to `problems`."""
    own = type_hints(ModelConfig)
    plain = {key: value for key, value in node.items() if key in own}
    extra = {key: value for key, value in node.items() if key not in own}
    for key in [key for key in extra if key not in preset_keys]:
        hint = did_you_mean(key, [*own, *preset_keys])
        problems.append(f"model.{key}: unknown key{hint}")
    branches = {}
    for name, branch in (plain.pop("branches", None) or {}).items():
        if branch is not None:
            branches[name] = _parse_branch(
                branch, where=f"model.branches.{name}", problems=problems
            )
    decoder = parse_part(
        "decoder", plain.pop("decoder", None), where="model.decoder", problems=problems
    )
    values = {
        key: parse_value(own[key], value, where=f"model.{key}", problems=problems)
        for key, value in plain.items()
        if key != "paths"
    }
    for key in ("arch", "model_type", "template"):
        if not values.get(key):
            problems.append(f"model.{key}: missing")
    if problems:
        return None
    return ModelConfig(
        branches=cast("dict[str, BranchConfig]", branches),
        decoder=cast(PartConfig, decoder),
        paths=extra,
        **values,
    )


def parse_part(kind: str, node: Any, *, where: str, problems: list[str]) -> PartConfig | None:
    """Turn a part's mapping into a `PartConfig` with the class's own `Config` inside."""
    if not isinstance(node, Mapping) or not isinstance(node.get("type"), str):
        problems.append(f"{where}.type: missing, expected the name of a {kind}")
        return None
    generic = {key: node[key] for key in PART_KEYS if key in node}
    own = {key: value for key, value in node.items() if key not in PART_KEYS}
    try:
        cls = registry.get(kind, node["type"])
    except UnknownName as error:
        problems.append(f"{where}.type: {error}")
        return None
    config = parse(cls.Config, own, where=where, problems=problems)
    hints = type_hints(PartConfig)
    values = {
        key: parse_value(hints[key], value, where=f"{where}.{key}", problems=problems)
        for key, value in generic.items()
    }
    return None if config is None else PartConfig(config=config, **values)


def parse_datasets(node: Mapping[str, Any], problems: list[str]) -> dict[str, DatasetEntry]:
    """Turn the `datasets` section into entries; one set to null is left out."""
    entries = {}
    hints = type_hints(DatasetEntry)
    for name, entry in node.items():
        where = f"datasets.{name}"
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
            problems.append(f"{where}.type: missing, expected the name of a dataset reader")
            continue
        try:
            cls = registry.get_dataset_class(entry["type"])
        except UnknownName as error:
            problems.append(f"{where}.type: {error}")
            continue
        own = {key: value for key, value in entry.items() if key not in ENTRY_KEYS}
        config = parse(cls.Config, own, where=where, problems=problems)
        generic = {
            key: parse_value(hints[key], entry[key], where=f"{where}.{key}", problems=problems)
            for key in ENTRY_KEYS
            if key in entry
        }
        try:
            entries[name] = DatasetEntry(config=config, **generic)
        except (TypeError, ValueError) as error:
            problems.append(f"{where}: {error}")
    return entries


def _parse_branch(node: Any, *, where: str, problems: list[str]) -> BranchConfig | None:
    """Parse one branch; a stage set to null is left out."""
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping with media, encoder and stages")
        return None
    known = ("media", "encoder", "stages")
    for key in node:
        if key not in known:
            problems.append(f"{where}.{key}: unknown key{did_you_mean(str(key), known)}")
    media = node.get("media")
    media = parse_value(
        type_hints(BranchConfig)["media"],
        [media] if isinstance(media, str) else media,
        where=f"{where}.media",
        problems=problems,
    )
    encoder = parse_part(
        "encoder", node.get("encoder"), where=f"{where}.encoder", problems=problems
    )
    stages = {
        name: parse_part("bridge", stage, where=f"{where}.stages.{name}", problems=problems)
        for name, stage in (node.get("stages") or {}).items()
        if stage is not None
    }
    if not stages:
        problems.append(f"{where}.stages: a branch needs at least one stage (a projection)")
    if problems:
        return None
    return BranchConfig(media=media, encoder=encoder, stages=stages)  # type: ignore[arg-type]


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as plain containers, interpolations left as they are."""
    try:
        node = OmegaConf.load(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        text = getattr(error, "problem", None) or str(error)
        lines = path.read_text(encoding="utf-8").splitlines()
        offers_choice = mark is not None and '" or "' in "".join(lines[mark.line : mark.line + 1])
        hint = '; the line offers a choice ("a" or "b"): keep one' if offers_choice else ""
        raise ConfigError(f"not valid YAML: {text}{hint}", where=f"{path}{line}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"expected sections ({', '.join(SECTIONS)}) at the top", where=str(path))
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def _read_preset(model: Mapping[str, Any], problems: list[str]) -> dict[str, Any] | None:
    """Read the preset a `model` section asks for; None and a problem if there is no such preset."""
    presets = list_presets()
    arch, model_type = model.get("arch"), model.get("model_type")
    if arch not in presets:
        problems.append(f"model.arch: {unknown_name(str(arch), presets, what='arch')}")
        return None
    if model_type not in presets[arch]:
        text = unknown_name(str(model_type), presets[arch], what=f"model_type of {arch}")
        problems.append(f"model.model_type: {text}")
        return None
    file = resources.files("video_llama") / "presets" / arch / f"{model_type}.yaml"
    with resources.as_file(file) as path:
        preset = _read_yaml(path)
    base = preset.pop("base", None)
    if base is None:
        return preset
    below = _read_preset({"arch": arch, "model_type": base}, problems)
    return None if below is None else _merge(below, preset)


def _parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Turn `a.b=c` words into a tree."""
    wrong = [word for word in options if "=" not in word]
    if wrong:
        raise ConfigError(
            [f"--options {word}: expected dotted.key=value, e.g. run.seed=1" for word in wrong]
        )
    try:
        node = OmegaConf.from_dotlist(list(options))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--options: cannot read {' '.join(options)}: {error}") from error
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees, the second wins; a mapping with another `type` replaces the first."""
    return OmegaConf.to_container(  # type: ignore[return-value]
        OmegaConf.merge(_without_replaced(base, over), dict(over)), resolve=False
    )


def _without_replaced(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of `base` what `over` replaces as a whole."""
    kept: dict[str, Any] = {}
    for key, value in base.items():
        other = over.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if "type" in other and "type" in value and other["type"] != value["type"]:
                continue
            kept[key] = _without_replaced(value, other)
        else:
            kept[key] = value
    return kept


def _resolve(tree: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Resolve `${...}`; what is the package's own is written `${package:...}` in presets."""
    try:
        node = OmegaConf.create(dict(tree))
        return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error), where=where) from error


def _package_path(relative: str) -> str:
    """Return where a file shipped with the package lies."""
    return str(resources.files("video_llama").joinpath(relative))


if not OmegaConf.has_resolver("package"):
    OmegaConf.register_resolver("package", _package_path)
