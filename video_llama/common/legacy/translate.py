"""From an original Video-LLaMA run file to the form of ours.

A file is read as an original if a key occurs that only originals have (`freeze_vit`,
`build_info`, `vis_processor`, ...). What becomes of a key stands in `keys`; what several decide
together in `model` and `data`. A key that nobody would have read is an error, a key that the
original never reads is named. Everything is translated to `model.compat: released`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.legacy.data import choose_datasets, choose_schedule
from video_llama.common.legacy.keys import RULES, Rule
from video_llama.common.legacy.model import (
    choose_branches,
    choose_files,
    choose_preset,
    choose_texts,
)
from video_llama.common.legacy.original import Original
from video_llama.common.logger import get_logger
from video_llama.common.registry import did_you_mean
from video_llama.common.schema import DatasetEntry, ModelConfig, RunConfig

GUIDE = "docs/original_configs.md has the table"
TELLING = re.compile(r"model\.|datasets\.[^.]+\.(build_info|vis_processor|text_processor)\.")
"""Where keys tell an original; other places have names that anybody's part may have too."""

OURS = {
    "model": {"audio_branch_media", "released", *(field.name for field in fields(ModelConfig))},
    "datasets": {
        *("annotations", "media", "streams", "prompts", "cleaning", "max_samples", "frame_times"),
        *(field.name for field in fields(DatasetEntry)),
    },
    "run": {field.name for field in fields(RunConfig)},
}
"""Keys of our form, by section."""


def is_original(tree: Mapping[str, Any]) -> bool:
    """Tell whether a run file has a key that only originals have."""
    return bool(_telling(_leaves(tree)))


def misplaced(tree: Mapping[str, Any]) -> list[str]:
    """Say of every key of the original, in a file that is none, what it is called here."""
    return [
        f"{key}: a key of the original Video-LLaMA's run files; in a file of our form it is "
        f"{' and '.join(rule.ours) if rule.ours else 'left out'} ({GUIDE})"
        for key in _telling(_leaves(tree))
        if (rule := _rule_of(key)) is not None
    ]


def translate(
    tree: Mapping[str, Any], *, path: Path, options: Sequence[tuple[str, Any]] = ()
) -> dict[str, Any]:
    """Write an original run file in our form, and log what became of every key.

    Args:
        tree: the file's content.
        path: where it lies, for messages and the name of its output.
        options: overrides of the original's keys and of ours; ours are set in the end.

    Returns:
        A tree to be merged onto a preset.

    Raises:
        ConfigError: with everything that is wrong.
    """
    after = [(key, value) for key, value in options if _is_ours(key)]
    keys = dict(_leaves(tree))
    for key, value in options:
        if not _is_ours(key):
            keys = {old: kept for old, kept in keys.items() if not f"{old}.".startswith(f"{key}.")}
            keys |= _leaves({key: value})
    original = Original(path, keys={key: value for key, value in keys.items() if value is not None})
    unread = _convert(original)
    for choose in (
        choose_preset,
        choose_branches,
        choose_texts,
        choose_files,
        choose_datasets,
        choose_schedule,
    ):
        choose(original)
    left_out = [f"{key}." for key, value in original.ours.items() if value is None]
    ours = {
        key: value for key, value in original.ours.items() if not key.startswith(tuple(left_out))
    }
    if original.problems:
        raise ConfigError(original.problems, where=str(path))
    _log(original, ours, unread)
    translated: dict[str, Any] = {}
    for key, value in [*ours.items(), *after]:
        set_key(translated, key, value)
    return translated


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings."""
    *above, last = key.split(".")
    for name in above:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = tree[name] = {}
        tree = below
    tree[last] = value


def _leaves(node: Mapping[str, Any], *, above: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted key; a list is a value."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            leaves |= _leaves(value, above=f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def _telling(keys: Iterable[str]) -> list[str]:
    """Return the keys by which an original is known."""
    return [
        key
        for key in keys
        if TELLING.match(key) and (rule := _rule_of(key)) is not None and not rule.shared
    ]


def _general(key: str) -> str:
    """Put `*` for the name of a data set."""
    parts = key.split(".")
    if parts[0] == "datasets" and len(parts) > 2:
        parts[1] = "*"
    return ".".join(parts)


def _rule_of(key: str) -> Rule | None:
    """Return the rule of a key; one that sets nothing stands for everything below it."""
    general = _general(key)
    if general in RULES:
        return RULES[general]
    above = (general.rsplit(".", number)[0] for number in range(1, general.count(".") + 1))
    return next((RULES[name] for name in above if name in RULES and RULES[name].is_unread), None)


def _is_ours(key: str) -> bool:
    """Tell whether a key belongs to our form and not to the original's."""
    parts = key.split(".")
    if parts[0] not in OURS:
        return parts[0] == "imports"
    place = 2 if parts[0] == "datasets" else 1
    return _rule_of(key) is None and len(parts) > place and parts[place] in OURS[parts[0]]


def _convert(original: Original) -> list[str]:
    """Convert keys that stand for themselves; return those that the original does not read."""
    unread = []
    mixed = [key for key in original.keys if _is_ours(key)]
    if mixed:
        theirs = _telling(original.keys)
        original.problems.append(
            f"a file is in the original's form or in ours: {', '.join(theirs[:3])} are keys of "
            f"the original, {', '.join(mixed[:3])} of ours; {GUIDE}"
        )
    for key, value in original.keys.items():
        rule = _rule_of(key)
        if rule is None:
            if not _is_ours(key):
                original.problems.append(f"{key}: unknown key{_nearest(key)}")
        elif rule.is_unread:
            unread.append(f"{key} ({rule.note})")
        elif rule.convert is not None:
            try:
                converted = rule.convert(value)
            except ValueError as error:
                original.refuse(key, str(error))
                continue
            original.ours |= dict.fromkeys(rule.ours, converted)
    return unread


def _nearest(key: str) -> str:
    """Return the nearest key of the original in the same section."""
    parts = key.split(".")
    names = [
        name.replace("*", parts[1], 1) if len(parts) > 1 and parts[0] == "datasets" else name
        for name in RULES
    ]
    return did_you_mean(key, names)


def _lines(original: Original, ours: Mapping[str, Any]) -> Iterator[str]:
    """Say of every key what it became, those that stay as they are together."""
    kept: list[str] = []
    checked: list[str] = []
    idle: list[str] = []
    for key, value in original.keys.items():
        rule = _rule_of(key)
        if rule is None or rule.is_unread:
            continue
        became = {name: ours[name] for name in _targets(rule, key, ours)}
        if became == {key: value}:
            kept.append(key)
        elif became:
            shown = ", ".join(f"{name}: {_shown(new)}" for name, new in became.items())
            yield f"{key}: {_shown(value)} -> {shown}"
        else:
            (idle if rule.ours else checked).append(key)
    yield f"as they stand: {', '.join(kept)}"
    yield f"checked: {', '.join(checked)}"
    yield f"without effect on what is built here: {', '.join(idle)}"


def _shown(value: Any) -> str:
    """Write a value as in a run file."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _targets(rule: Rule, key: str, ours: Mapping[str, Any]) -> list[str]:
    """Return those of our keys that a key's rule names and that were set."""
    parts = key.split(".")
    named = [name.replace("*", parts[1]) if parts[0] == "datasets" else name for name in rule.ours]
    if parts[0] == "datasets" and not parts[1].startswith("webvid"):
        named = [name for name in named if ".encoder." not in name]
    return [name for name in ours if name in named or _general(name) in named]


def _log(original: Original, ours: Mapping[str, Any], unread: Sequence[str]) -> None:
    """Log the translation, what was not read, and what differs."""
    log = get_logger()
    log.info(
        "%s is a run file of the original Video-LLaMA; its keys, and what they mean here:\n  %s",
        original.path,
        "\n  ".join(_lines(original, ours)),
    )
    if unread:
        log.warning("%s: without effect: %s", original.path, "; ".join(unread))
    for note in original.notes:
        log.warning("%s", note)
