"""The folders `Video-LLaMA-2-{7B,13B}-{Pretrained,Finetuned}`: which file in them is what.

As published on huggingface.co/DAMO-NLP-SG. EVA ViT-g and BLIP-2's Q-Former are not part of the
release; people put them beside the rest, so they are taken from there if they are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.hub import local_path, way_to_get
from video_llama.common.registry import registry


@dataclass(frozen=True)
class Piece:
    """One file or directory of a release.

    Attributes:
        key: of the `model` section.
        pattern: of its name; {size} stands for 7B or 13B, {stage} for Pretrained or Finetuned.
        branch: that needs it, "" if the decoder does.
        is_released: part of the release; the others may also be named in the run file.
    """

    key: str
    pattern: str
    branch: str
    is_released: bool = True


PIECES = (
    Piece("llama_model", "llama-2-{size}-chat-hf", branch=""),
    Piece("ckpt", "VL_LLaMA_2_{size}_{stage}.pth", branch="video"),
    Piece("ckpt_2", "AL_LLaMA_2_{size}_{stage}.pth", branch="audio"),
    Piece("imagebind_ckpt_path", "imagebind_huge.pth", branch="audio"),
    Piece("vit_model", "eva_vit_g.pth", branch="video", is_released=False),
    Piece("q_former_model", "blip2_pretrained_flant5xxl.pth", branch="video", is_released=False),
)

FOLDER_NAME = re.compile(r"Video-LLaMA-2-(?P<size>7B|13B)-(?P<stage>Pretrained|Finetuned)")
SIZE = re.compile(r"(?i)llama[-_]2[-_](?P<size>7B|13B)")
ANY = "*"


@registry.register("released_folder", "video_llama")
def find_in_folder(
    directory: str, model: Mapping[str, Any], *, skip: Collection[str]
) -> dict[str, str]:
    """Return what a released folder says about a `model` section.

    Args:
        directory: the folder, or its name on the hub.
        model: the section; branches set to null need nothing.
        skip: keys that are settled elsewhere.

    Returns:
        `model_type` and a path for every piece; what the folder lacks is named all the same, so
        that everything that is missing can be listed together.

    Raises:
        ConfigError: it is no such folder, or a piece is in it twice.
    """
    folder = local_path(directory)
    names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    words = _words(directory, names)
    branches = model.get("branches") or {}
    found, taken = {}, 0
    for piece in PIECES:
        if piece.key in skip or branches.get(piece.branch, {}) is None:
            continue
        pattern = piece.pattern.format(size=ANY, stage=ANY)
        matching = [name for name in names if fnmatch(name.lower(), pattern.lower())]
        if len(matching) > 1:
            raise ConfigError(
                f"model.released: {directory} holds {' and '.join(matching)}; name the one that "
                f"is meant with model.{piece.key}"
            )
        taken += len(matching)
        if matching:
            found[piece.key] = str(folder / matching[0])
        elif piece.is_released or model.get(piece.key) is None:
            found[piece.key] = f"{directory}/{_expected(piece, words)}"
    if not taken and (names or "stage" not in words):
        raise ConfigError(_describe_stranger(directory, names))
    if "size" in words and "model_type" not in skip:
        found["model_type"] = f"llama2_{words['size'].lower()}"
    return found


def _words(directory: str, names: Sequence[str]) -> dict[str, str]:
    """Return size and stage as far as the folder's name or those in it tell."""
    whole = FOLDER_NAME.search(Path(directory).name)
    if whole is not None:
        return whole.groupdict()
    sizes = {found["size"].upper() for name in names if (found := SIZE.search(name))}
    return {"size": sizes.pop()} if len(sizes) == 1 else {}


def _expected(piece: Piece, words: Mapping[str, str]) -> str:
    """Return the name a piece should have; a star for what is not known."""
    size, stage = words.get("size", ANY), words.get("stage", ANY)
    return piece.pattern.format(size=size.lower() if not piece.branch else size, stage=stage)


def _describe_stranger(directory: str, names: Sequence[str]) -> str:
    wanted = ", ".join(piece.pattern for piece in PIECES if piece.is_released)
    if not names:
        return (
            f"model.released: there is no folder {directory}{way_to_get(directory)}; expected a "
            f"copy of DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned or of its siblings"
        )
    return (
        f"model.released: {directory} holds none of {wanted} (found: {', '.join(names[:8])}); "
        "name the folder that does"
    )
