"""Recognises directories of decoders that cannot be used yet, and names the command that helps.

Only signs that cannot be mistaken count: file names of Meta's layout, norm weights around zero,
and for BiLLa the size of its vocabulary together with the published sum of its embedding. Names
prove nothing: merged copies keep the name of their delta in config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.logger import get_logger
from video_llama.common.state_files import INDEX_FILES, WHOLE_FILES, read_state
from video_llama.common.weights import LLAMA_WIDTHS
from video_llama.models.decoders.deltas import (
    BILLA_WORDS,
    EMBEDDING,
    is_difference,
    is_restored_billa,
)

MERGE_FILE = "merge.json"
"""Written into a merged directory; says by which rule and from what."""

CONVERTER = "transformers.models.llama.convert_llama_weights_to_hf"
"""Part of transformers 4; transformers 5 no longer ships it."""


def why_not_ready(directory: str | Path) -> str | None:
    """Say why a decoder's directory cannot be loaded as it is, with the cure.

    Args:
        directory: what stands in `model.llama_model` or `model.decoder.weights`.

    Returns:
        A sentence that opens with the directory; None if nothing speaks against it. What is
        missing or broken in it is left to the loader.
    """
    folder = local_path(directory)
    if not folder.is_dir():
        return None
    has_hf_weights = any((folder / name).is_file() for name in (*INDEX_FILES, *WHOLE_FILES))
    if not has_hf_weights and any(folder.glob("consolidated.*.pth")):
        return how_to_convert(folder)
    config = _read_json(folder / "config.json")
    if not has_hf_weights or config.get("model_type") != "llama":
        return None
    size = LLAMA_WIDTHS.get(config.get("hidden_size", 0), "the same size")
    command = (
        f"python apply_delta.py --base LLAMA --target {folder}-merged --delta {folder}, "
        f"where LLAMA is a directory of LLaMA-1 of {size} in Hugging Face's layout"
    )
    try:
        state = read_state(folder)
        if is_difference(state):
            return (
                f"{folder}: a delta, not a model (all norm weights are near zero); it has to be "
                f"added to LLaMA first: {command}"
            )
        if _may_be_unrestored_billa(folder, config) and not is_restored_billa(state[EMBEDDING]):
            return (
                f"{folder}: BiLLa's vocabulary ({BILLA_WORDS:,} words), and nothing shows that "
                "LLaMA's embedding was subtracted from its own, as it must be; run "
                f'{command}; if it was done elsewhere, write {{"rule": "billa"}} into '
                f"{folder / MERGE_FILE}"
            )
    except CheckpointMismatch:
        return None
    return None


def require_ready(directory: str, *, num_words: int | None = None) -> None:
    """Refuse a directory that a decoder cannot be loaded from.

    Args:
        directory: in Hugging Face's layout.
        num_words: size of the vocabulary that the preset was made for; another one, which may be
            another release of the decoder, is taken with a warning.

    Raises:
        CheckpointMismatch: with the cure.
    """
    reason = why_not_ready(directory)
    config_file = Path(directory) / "config.json"
    if reason is None and not config_file.is_file():
        reason = (
            f"{directory}: no config.json there; expected a directory in Hugging Face's layout "
            "(config.json, weights, tokenizer)"
        )
    if reason is not None:
        raise CheckpointMismatch(reason)
    found = _read_json(config_file).get("vocab_size", num_words)
    if num_words is not None and found != num_words:
        get_logger().warning(
            "%s: %s words, the preset expects %s (Vicuna v0 32,001, LLaMA and LLaMA-2 32,000, "
            "BiLLa 46,943, Ziya 39,424); the directory's number is taken, but is it the right one?",
            directory,
            f"{found:,}",
            f"{num_words:,}",
        )


def how_to_convert(folder: Path) -> str:
    """Say how a directory in Meta's layout becomes one in Hugging Face's."""
    num_files = len(list(folder.glob("consolidated.*.pth")))
    first = "" if (folder / "tokenizer.model").is_file() else "copy tokenizer.model into it, then "
    return (
        f"{folder}: Meta's own files (consolidated.*.pth), expected Hugging Face's layout; "
        f"{first}convert them once, with transformers 4 in an environment of its own: "
        "pip install 'transformers==4.46.3' torch sentencepiece accelerate && "
        f"python -m {CONVERTER} --input_dir {folder} --num_shards {num_files} "
        f"--output_dir {folder}-hf (for LLaMA-2 add --llama_version 2)"
    )


def _may_be_unrestored_billa(folder: Path, config: dict[str, Any]) -> bool:
    """Whether neither our merging nor BiLLa's own script, which leaves a backup, was here."""
    return (
        config.get("vocab_size") == BILLA_WORDS
        and not (folder / MERGE_FILE).is_file()
        and not any(folder.glob("*.backup-*"))
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; what cannot be read is an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
