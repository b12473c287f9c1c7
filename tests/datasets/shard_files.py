"""Tars written by tests with the standard library, as others write them, and readers on them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from video_llama.datasets.caption_shards import CcSbu
from video_llama.datasets.shards import Shards


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 12), (shade, 10, 10)).save(file, "JPEG")
    return file.getvalue()


def write_caption_tars(folder: Path, *, sizes: tuple[int, ...]) -> str:
    """Tars as img2dataset has them, `00000.tar` and on; returns their brace pattern."""
    number = 0
    for shard, size in enumerate(sizes):
        files = {}
        for place in range(size):
            key = f"{shard:05d}{place:04d}"
            files[f"{key}.jpg"] = picture(number % 250)
            files[f"{key}.txt"] = f"Picture number {number}!".encode()
            row = {"caption": f"Picture number {number}!", "url": "http://x/y", "status": "success"}
            files[f"{key}.json"] = json.dumps(row).encode()
            number += 1
        write_tar(folder / f"{shard:05d}.tar", files)
    return f"{folder}/{{00000..{len(sizes) - 1:05d}}}.tar"


def cc_sbu(shards: str, **keys) -> CcSbu:
    return CcSbu(CcSbu.Config(shards=shards, **keys), name="pictures")


def packed(shards: Path | str, *, name: str = "clips", **keys) -> Shards:
    return Shards(Shards.Config(shards=str(shards), **keys), name=name)
