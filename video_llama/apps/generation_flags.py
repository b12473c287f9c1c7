"""Flags and `name=value` that say how answers are generated, the same for every verb that talks."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.generation import GenerationSettings
from video_llama.common.registry import unknown_name

FLAGS: dict[str, tuple[str, str]] = {
    "max_new_tokens": ("N", "longest answer in tokens"),
    "temperature": ("T", "0 (default) gives the likeliest answer, above it tokens are drawn"),
    "top_p": ("P", "draw from the likeliest tokens that together have this probability"),
    "num_beams": ("N", "answers followed side by side; 1 (default) is off"),
    "repetition_penalty": ("X", "above 1 makes words said before less likely; 1 (default) is off"),
    "seed": ("N", "of the draws above temperature 0"),
}
"""Settings that have a flag, with the name of its value and its help."""

TYPES: dict[str, type[int] | type[float]] = {
    field.name: type(field.default)  # type: ignore[misc]
    for field in dataclasses.fields(GenerationSettings)
}


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how answers are generated."""
    for name, (value, text) in FLAGS.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=TYPES[name], metavar=value, help=text)


def with_arguments(settings: GenerationSettings, args: argparse.Namespace) -> GenerationSettings:
    """Return settings changed by the flags of `add_generation_arguments`.

    Raises:
        ConfigError: a value makes no sense.
    """
    given = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    return _replaced(settings, given)


def with_assignments(settings: GenerationSettings, words: Sequence[str]) -> GenerationSettings:
    """Return settings changed by words like `temperature=0.2`.

    Raises:
        ConfigError: a name is unknown or a value makes no sense.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}': expected NAME=VALUE, e.g. temperature=0.2")
        if name not in TYPES:
            raise ConfigError(unknown_name(name, TYPES, what="setting"))
        try:
            given[name] = TYPES[name](text)
        except ValueError:
            kind = "a whole number" if TYPES[name] is int else "a number"
            raise ConfigError(f"{name} must be {kind}, found '{text}'") from None
    return _replaced(settings, given)


def _replaced(settings: GenerationSettings, given: dict[str, Any]) -> GenerationSettings:
    """Change settings, all at once, since they are checked together."""
    try:
        return dataclasses.replace(settings, **given)
    except ValueError as error:
        raise ConfigError(str(error)) from error
