"""From plain containers to dataclasses: the small parser behind run files.

It knows plain dataclasses only. It never stops at the first mistake: every problem is appended to
a list, each with the dotted key it is about, so that a user sees all of them at once.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from typing import Any, Literal, Union

from video_llama.common.errors import ConfigError
from video_llama.common.registry import did_you_mean

C = typing.TypeVar("C")


def parse(
    cls: type,
    node: object,
    *,
    where: str,
    problems: list[str],
    also_known: Collection[str] = (),
) -> Any:
    """Build a dataclass from plain containers.

    Args:
        cls: the dataclass.
        node: a mapping with its fields.
        where: dotted key of `node`, for messages.
        problems: every mistake is appended to it.
        also_known: keys that may stand beside these fields but are read elsewhere, for messages.

    Returns:
        An instance of `cls`, or None if anything was wrong.
    """
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping, found {_show(node)}")
        return None
    before = len(problems)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = type_hints(cls)
    known = [*also_known, *fields]
    for key in node:
        if key not in fields:
            hint = did_you_mean(str(key), known)
            problems.append(
                f"{where}.{key}: unknown key{hint} (known here: {', '.join(known) or 'none'})"
            )
    values = {}
    for name, spec in fields.items():
        if name in node:
            values[name] = parse_value(
                hints[name], node[name], where=f"{where}.{name}", problems=problems
            )
        elif spec.default is MISSING and spec.default_factory is MISSING:
            problems.append(f"{where}.{name}: missing, expected {describe(hints[name])}")
    if len(problems) > before:
        return None
    return build(cls, values, where=where, problems=problems)


def parsed(cls: type[C], node: Mapping[str, Any] | None, *, where: str) -> C:
    """Build a dataclass from a mapping whose key `name`, if there is one, is not the dataclass's.

    Raises:
        ConfigError: with every mistake.
    """
    problems: list[str] = []
    own = {key: value for key, value in (node or {}).items() if key != "name"}
    built = parse(cls, own, where=where, problems=problems)
    if problems:
        raise ConfigError(problems)
    return typing.cast(C, built)


def build(cls: type, values: Mapping[str, Any], *, where: str, problems: list[str]) -> Any:
    """Return `cls(**values)`, or None with what its range checks found appended to `problems`."""
    try:
        return cls(**values)
    except ValueError as error:
        found = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems.extend(f"{where}: {text}" for text in found)
        return None


def parse_value(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Check one value against a type and convert it; mistakes are appended to `problems`."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, node, where=where, problems=problems)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _parse_union(hint, node, where=where, problems=problems)
    if origin is tuple or origin is list:
        return _parse_sequence(hint, node, where=where, problems=problems)
    if origin is dict and isinstance(node, Mapping):
        return {
            str(key): parse_value(args[1], value, where=f"{where}.{key}", problems=problems)
            for key, value in node.items()
        }
    if not _matches(hint, node):
        hint_text = did_you_mean(str(node), map(str, args)) if origin is Literal else ""
        problems.append(f"{where}: expected {describe(hint)}, found {_show(node)}{hint_text}")
        return None
    return float(typing.cast(float, node)) if hint is float else node


def describe(hint: Any) -> str:
    """Say in words what a type annotation accepts."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin in (tuple, list):
        return f"a list of {describe(args[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a mapping"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return "null" if hint is type(None) else names.get(hint, getattr(hint, "__name__", "a value"))


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return a class's annotations as types."""
    return typing.get_type_hints(cls)


def _matches(hint: Any, node: object) -> bool:
    """Tell whether a plain value fits a plain type; a bool is no number, an int is a float."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return node in typing.get_args(hint)
    if hint is float:
        return isinstance(node, (int, float)) and not isinstance(node, bool)
    if hint is int:
        return isinstance(node, int) and not isinstance(node, bool)
    return isinstance(node, origin or hint)


def _parse_union(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Take the first alternative that fits; if a container almost does, say what is wrong in it."""
    nearest = [f"{where}: expected {describe(hint)}, found {_show(node)}"]
    for alternative in typing.get_args(hint):
        attempt: list[str] = []
        value = parse_value(alternative, node, where=where, problems=attempt)
        if not attempt:
            return value
        if isinstance(node, _container(alternative)):
            nearest = attempt
    problems.extend(nearest)
    return None


def _container(hint: Any) -> tuple[type, ...]:
    """Return what a node must be to be parsed as a container of this type; () if it is none."""
    origin = typing.get_origin(hint)
    if origin in (tuple, list):
        return (list, tuple)
    return (Mapping,) if origin is dict or dataclasses.is_dataclass(hint) else ()


def _parse_sequence(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Parse a list, or a tuple of one type (`tuple[X, ...]`) or of a fixed length."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(node, (list, tuple)):
        problems.append(f"{where}: expected {describe(hint)}, found {_show(node)}")
        return None
    fixed = origin is tuple and Ellipsis not in args
    if fixed and len(node) != len(args):
        problems.append(f"{where}: expected {len(args)} values, found {len(node)}")
        return None
    return origin(
        parse_value(args[i if fixed else 0], value, where=f"{where}[{i}]", problems=problems)
        for i, value in enumerate(node)
    )


def _show(node: object) -> str:
    """Show a value as a user wrote it, shortened."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, (list, tuple)):
        return "a list"
    text = "null" if node is None else repr(node)
    return text if len(text) <= 60 else text[:57] + "..."
