"""What makes two media files the same: their bytes, whatever they are called.

Caches and shards hang on it: a clip keeps its identity when it is moved or packed into a tar.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from video_llama.common.errors import MediaError
from video_llama.processors.containers import Source
from video_llama.processors.pictures import picture_files


def content_hash(
    source: Source, *, start_s: float | None = None, end_s: float | None = None
) -> str:
    """Return the identity of what an item shows: the bytes of the file, and the span.

    A file is read once per process as long as its size and time of change stay the same; a
    folder counts as its pictures in order.

    Args:
        source: a file, the content of one, or a folder of pictures.
        start_s: first second used.
        end_s: last second used.

    Returns:
        32 hexadecimal digits.

    Raises:
        MediaError: the file is missing.
    """
    digest = blake2b(digest_size=16)
    if isinstance(source, bytes):
        digest.update(blake2b(source, digest_size=16).digest())
    elif Path(source).is_dir():
        for path in picture_files(Path(source)):
            digest.update(_file_digest_now(path))
    else:
        digest.update(_file_digest_now(Path(source)))
    digest.update(repr((start_s, end_s)).encode())
    return digest.hexdigest()


def _file_digest_now(path: Path) -> bytes:
    try:
        stat = path.stat()
        return _file_digest(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=str(path)) from error


@lru_cache(maxsize=65536)
def _file_digest(path: Path, size: int, mtime_ns: int) -> bytes:
    """Hash a file; size and time are there only to be part of the cache's key."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
