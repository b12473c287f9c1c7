"""Finds a language model in a directory that also holds what sees or hears.

Two ways of writing such a directory are known; its config.json tells which it is:

    nested  `text_config` is the language model's own config; its tensors lie below
            `language_model.` (transformers 4), or below `model.language_model.` with `lm_head`
            beside them (transformers 5)
    flat    as code of the LLaVA family writes it: the language model's own config and names, with
            more keys, more tensors and a `model_type` of their own

config.json is read here and not by transformers, which takes the name `llava` for another layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.key_map import KeyMap

CONFIG_FILE = "config.json"
FLAT_TYPES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
"""`model_type` of the LLaVA family, and of the language model that the directory holds."""

FAMILY_KEYS = (
    *("mm_", "tune_", "freeze_", "unfreeze_", "use_mm_", "image_", "tokenizer_"),
    *("architectures", "auto_map"),
)
"""How the keys begin that code of the LLaVA family adds to a language model's config.json."""

NESTED = KeyMap(
    renames=(
        ("language_model.**", "**"),
        ("model.language_model.**", "model.**"),
        ("lm_head.**", "lm_head.**"),
    )
)
NESTED_PATTERNS = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""The same for transformers."""

FLAT = KeyMap(
    renames=tuple(
        (f"{name}.**", f"{name}.**")
        for name in ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
    )
)


@dataclass(frozen=True)
class Composite:
    """A directory that holds more than a language model.

    Attributes:
        architecture: of the language model, keys of a config.json.
        key_map: from the directory's names to the language model's; other names have none.
        patterns: the same as regular expressions, as transformers wants them.
    """

    architecture: dict[str, Any]
    key_map: KeyMap
    patterns: Mapping[str, str]


@dataclass(frozen=True)
class DecoderFolder:
    """What config.json says of the language model in a directory, be it alone in it or not.

    Attributes:
        folder: the directory.
        architecture: of the language model.
        nested: all of config.json where the language model's own is nested in it, else None.
    """

    folder: Path
    architecture: Mapping[str, Any]
    nested: Mapping[str, Any] | None


class Selected(Mapping[str, Tensor]):
    """The language model's tensors of a directory by their own names; read when asked for."""

    def __init__(self, state: Mapping[str, Tensor], key_map: KeyMap) -> None:
        self._state = state
        self._source = {
            ours: name for name in state if (ours := key_map.translate(name)) is not None
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._state[self._source[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def read_composite(folder: Path) -> Composite | None:
    """Return what is known of a composite directory; None for any other.

    Raises:
        CheckpointMismatch: its config.json cannot be read.
    """
    config = read_config(folder)
    if config is None:
        return None
    inner = config.get("text_config")
    if isinstance(inner, dict):
        return Composite({"model_type": "llama", **inner}, NESTED, NESTED_PATTERNS)
    model_type = FLAT_TYPES.get(str(config.get("model_type")))
    if model_type is None:
        return None
    kept = {key: value for key, value in config.items() if not key.startswith(FAMILY_KEYS)}
    return Composite({**kept, "model_type": model_type}, FLAT, {})


def read_decoder_folder(folder: Path) -> DecoderFolder:
    """Return what config.json says of the language model in a directory.

    Raises:
        CheckpointMismatch: it cannot be read.
    """
    composite, whole = read_composite(folder), read_config(folder) or {}
    if composite is None:
        return DecoderFolder(folder, whole, nested=None)
    is_nested = composite.key_map is NESTED
    return DecoderFolder(folder, composite.architecture, nested=whole if is_nested else None)


def select_decoder(state: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
    """Return the language model's part of a directory's tensors, by its own names.

    Args:
        state: of the whole directory.
        folder: the directory; all of an ordinary one is the language model's.
    """
    composite = read_composite(folder)
    return state if composite is None else Selected(state, composite.key_map)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return a directory's config.json, None if there is none.

    Raises:
        CheckpointMismatch: it is no JSON object.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointMismatch(f"{file}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointMismatch(f"{file}: holds no JSON object; download it again")
    return content
