"""YAML from a file or from the command line as plain containers; mistakes with file and line.

A key written twice is an error, never silently the last one. Interpolations are left as they are,
and what the keys mean is the business of `config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from video_llama.common.errors import ConfigError

CHOICE = re.compile(r"""^[^#]*:\s*(?:"[^"]*"|'[^']*')\s+or\s+\S""")
"""`key: "a" or "b"`, which is not YAML."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file.

    Args:
        path: the file; its top must be a mapping.

    Raises:
        ConfigError: it is not YAML, or a key stands twice; with every line concerned.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}", where=str(path)) from error
    try:
        duplicates = list(_duplicates(_compose(text)))
        if duplicates:
            raise ConfigError(duplicates, where=str(path))
        node = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise _syntax_error(error, text, path) from error
    if not isinstance(node, DictConfig):
        raise ConfigError("expected sections (keys with values) at the top", where=str(path))
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def assignments(words: Sequence[str]) -> list[str]:
    """Write the words behind `--options` as `key=value`, whichever style they have.

    Args:
        words: all `a.b=c`, or `a.b c` in turn; the first one decides, as published.

    Raises:
        ConfigError: a word does not go with the style, or a value is missing.
    """
    alternates = len(words) > 1 and "=" not in words[0]
    if not alternates:
        problems = [
            f"--options {word}: expected dotted.key=value, e.g. run.seed=1"
            for word in words
            if "=" not in word
        ]
    else:
        problems = [
            f"--options {key}: a word with '=' among alternating keys and values; write either "
            "`key=value` throughout, or `key value`"
            for key in words[::2]
            if "=" in key
        ]
        if len(words) % 2:
            problems.append(
                f"--options {words[-1]}: no value follows; this style takes key and value in turn"
            )
    if problems:
        raise ConfigError(problems)
    if not alternates:
        return list(words)
    return [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]


def parse_options(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Read the words behind `--options`.

    Args:
        words: in either style; values are YAML.

    Returns:
        Dotted keys with plain values, in the order given.

    Raises:
        ConfigError: a word does not go with the style, or a value is missing or no YAML.
    """
    pairs = (word.partition("=") for word in assignments(words))
    return [(key, _value(key, text)) for key, _, text in pairs]


def _value(key: str, text: str) -> Any:
    """Read one value as YAML."""
    try:
        node = OmegaConf.from_dotlist([f"value={text}"])
        return OmegaConf.to_container(node, resolve=False)["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--options {key}: cannot read {text!r}: {error}") from error


def _compose(text: str) -> yaml.Node | None:
    """Read a document as nodes; by libyaml, where it is installed, in a tenth of the time."""
    if hasattr(yaml, "CSafeLoader"):
        # Of a mistake the loader written in Python tells more.
        with suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=yaml.CSafeLoader)
    return yaml.compose(text)


def _duplicates(node: yaml.Node | None) -> Iterator[str]:
    """Say which keys of a document stand twice, with both lines."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            yield f"duplicate key '{key.value}' in lines {lines[key.value]} and {line}; keep one"
        elif isinstance(key.value, str):
            lines[key.value] = line
        yield from _duplicates(value)


def _syntax_error(error: Exception, text: str, path: Path) -> ConfigError:
    """Say in which line the mistake is, and for the usual ones what to do."""
    lines = text.splitlines()
    choices = [number for number, line in enumerate(lines, start=1) if CHOICE.search(line)]
    if choices:
        problems = [
            f'line {number}: not valid YAML: the line offers a choice ("a" or "b"): keep one: '
            f"{lines[number - 1].strip()}"
            for number in choices
        ]
        return ConfigError(problems, where=f"{path}:{choices[0]}")
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error)
    hint = ""
    if "mapping values are not allowed" in reason:
        hint = "; a key stands below a line that has a value already: indent both alike"
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return ConfigError(f"not valid YAML: {reason}{hint}", where=where)
