"""`video-llama schema`: the JSON Schema of run files, so that an editor completes and checks keys.

video-llama schema > run.schema.json
# first line of a run file, for editors with the YAML language server:
# yaml-language-server: $schema=run.schema.json
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import types
import typing
from typing import Any, Literal, Union

from video_llama.common.config import list_presets, read_preset
from video_llama.common.parsing import type_hints
from video_llama.common.registry import registry
from video_llama.common.schema import BranchConfig, DatasetEntry, ModelConfig, PartConfig, RunConfig
from video_llama.common.sharing import SHARE

INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
"""A value taken from another key, as OmegaConf writes it; may stand in place of any type."""

PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`schema` has no flags."""


def main(args: argparse.Namespace) -> int:
    """Print the schema."""
    print(json.dumps(run_file_schema(), indent=2))
    return 0


def run_file_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a run file with every part that is registered."""
    stages = {"type": "object", "additionalProperties": _nullable(_stages())}
    branch = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "media": _branch_media(),
            "encoder": _parts("encoder"),
            "stages": stages,
        },
    }
    run = of_dataclass(RunConfig)
    run["properties"]["amp"] = {
        "type": "boolean",
        "description": "LAVIS's key: true is precision bf16, false is fp32.",
    }
    presets = list_presets()
    extra = {
        key
        for arch, model_types in presets.items()
        for model_type in model_types
        for key in read_preset(arch, model_type)
    }
    model = of_dataclass(ModelConfig, skip=("paths",))
    model["properties"]["arch"] = {"enum": list(presets)}
    model["properties"]["model_type"] = {"enum": sorted({t for ts in presets.values() for t in ts})}
    model["properties"]["branches"] = {"type": "object", "additionalProperties": _nullable(branch)}
    model["properties"]["decoder"] = _parts("decoder")
    # A preset adds keys of its own, for files above all.
    for key in sorted(extra - set(model["properties"])):
        model["properties"][key] = {"type": ["string", "object", "null"]}
    model["required"] = ["arch", "model_type"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "video_llama run file",
        "type": "object",
        "additionalProperties": False,
        "required": ["model", "run"],
        "properties": {
            "model": model,
            "datasets": {
                "type": "object",
                "additionalProperties": _nullable(_alternatives("dataset", DatasetEntry)),
            },
            "run": run,
            "imports": of_type(tuple[str, ...]),
        },
    }


def of_dataclass(cls: type, *, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of a config dataclass; descriptions come from its `Attributes:`."""
    notes = attribute_notes(cls)
    properties = {}
    required = []
    for spec in dataclasses.fields(cls):
        if spec.name in skip:
            continue
        properties[spec.name] = of_type(type_hints(cls)[spec.name])
        if spec.name in notes:
            properties[spec.name]["description"] = notes[spec.name]
        if spec.default is not dataclasses.MISSING:
            properties[spec.name]["default"] = spec.default
        elif spec.default_factory is dataclasses.MISSING:
            required.append(spec.name)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required,
    }


def of_type(hint: Any) -> dict[str, Any]:
    """Return the schema of a type annotation; an interpolation may stand for any value."""
    schema = _literally(hint)
    if not schema or hint is str or hint is type(None):
        return schema
    return {"anyOf": [*schema.pop("anyOf", [schema]), INTERPOLATION]}


def _literally(hint: Any) -> dict[str, Any]:
    """Return the schema of a value that is written out."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_literally(arg) for arg in args]}
    if origin in (tuple, list):
        return {"type": "array", "items": of_type(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(args[1])}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return of_dataclass(hint)
    return {"type": PLAIN[hint]} if hint in PLAIN else {}


def attribute_notes(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and of those it extends say of each attribute."""
    notes: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        notes |= _notes_in(inspect.cleandoc(each.__doc__ or ""))
    return notes


def _notes_in(docstring: str) -> dict[str, str]:
    notes: dict[str, str] = {}
    name = None
    _, _, section = docstring.partition("Attributes:\n")
    for line in section.splitlines():
        head, colon, text = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name = head
            notes[name] = text
        elif line.startswith("     ") and name:
            notes[name] += " " + line.strip()
    return notes


def _branch_media() -> dict[str, Any]:
    """Return the schema of a branch's media: a list of kinds, or a single one."""
    hint = type_hints(BranchConfig)["media"]
    return of_type(hint | typing.get_args(hint)[0])


def _parts(kind: str) -> dict[str, Any]:
    """Return the schema of a model part of one kind."""
    return _alternatives(kind, PartConfig)


def _stages() -> dict[str, Any]:
    """Return the schema of a stage: a part of its own, or one that is another branch's."""
    note = "The stage of another branch that is used here too, as branch.stage; see PartConfig."
    shared = {"type": "string", "description": note}
    stage = _parts("bridge")
    for case in stage["anyOf"]:
        case["properties"][SHARE] = {"type": "null", "description": "Not shared, as by default."}
    case = {
        "type": "object",
        "properties": {SHARE: shared},
        "required": [SHARE],
        "additionalProperties": {"type": "null"},
    }
    return {"anyOf": [*stage["anyOf"], case]}


def _alternatives(kind: str, wrapper: type) -> dict[str, Any]:
    """Return one schema per registered class, told apart by `type`; without it, any key goes."""
    generic = {
        key: of_type(hint)
        for key, hint in type_hints(wrapper).items()
        if key not in ("type", "config", SHARE)
    }
    cases = []
    for name in registry.names(kind):
        schema = of_dataclass(registry.get(kind, name).Config)
        schema["properties"] |= {**generic, "type": {"const": name}}
        # A run file says only what differs from its preset, so nothing else is required.
        schema["required"] = []
        cases.append(schema)
    return {"anyOf": cases}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null, which leaves an entry out."""
    return {"anyOf": [schema, {"type": "null"}]}
