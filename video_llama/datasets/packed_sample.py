"""One sample as the files that go into a shard: its media, and a row of `messages` as json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.processors.containers import check_file
from video_llama.processors.probe import probe
from video_llama.processors.readings import MediaInfo
from video_llama.processors.shard_files import ShardFiles


def sample_files(sample: Sample, *, key: str, files: ShardFiles) -> dict[str, Any]:
    """Return a sample as webdataset's writer takes it.

    Args:
        sample: with media that are named.
        key: what the names of its files will share.
        files: reads media that lie in shards already.

    Returns:
        `__key__`, and the content of its json and of each of its media once.

    Raises:
        MediaError: one of its media cannot be opened.
    """
    names: dict[str, str] = {}
    found: dict[str, MediaInfo] = {}
    content: dict[str, Any] = {"__key__": key}
    for item in sample.media:
        if item.path not in names:
            names[item.path] = f"{len(names)}.{_suffix(item.path)}"
            data = _bytes_of(item, files)
            content[names[item.path]] = data
            found[item.path] = _look_into(data, path=item.path)
        _check_streams(item, found[item.path])
    row = {
        "id": sample.key,
        "messages": [_turn(message, names) for message in sample.messages],
        "form": sample.form,
        "frame_times": sample.frame_times,
        "meta": sample.meta,
    }
    content["json"] = json.dumps(row, ensure_ascii=False).encode()
    return content


def _turn(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """Return a message as a row of `messages` has it."""
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
            continue
        span = {"start": part.start_s, "end": part.end_s}
        span = {key: value for key, value in span.items() if value is not None}
        parts.append({"type": part.kind, part.kind: names[part.path], **span})
    return {"role": message.role, "content": parts}


def _bytes_of(item: MediaItem, files: ShardFiles) -> bytes:
    """Read a media file."""
    if item.member is not None:
        return files.read(item.member)
    check_file(Path(item.path))
    try:
        return Path(item.path).read_bytes()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=item.path) from error


def _look_into(data: bytes, *, path: str) -> MediaInfo:
    """Say what a file is, by its content."""
    try:
        return probe(data)
    except MediaError as error:
        raise MediaError(error.reason, path=path) from error


def _check_streams(item: MediaItem, info: MediaInfo) -> None:
    """Refuse a clip without the sound, or the pictures, that the sample is about."""
    if not (info.has_audio if item.kind == "audio" else info.has_video):
        wanted = "sound" if item.kind == "audio" else "pictures"
        raise MediaError(f"no {wanted} in it", path=item.path)


def _suffix(path: str) -> str:
    """Return the end of a file's name, as the name of a member may have it."""
    suffix = Path(path).suffix[1:].lower()
    return suffix if suffix.isalnum() and suffix != "json" else "bin"
