"""Where the content of a media file lies if it is part of a larger file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """Bytes of a shard (a tar) that are a media file of their own.

    Attributes:
        shard: path, address or `pipe:` command of the tar.
        offset: of the first byte.
        size: in bytes.
        digest: of the bytes, as `processors.identity.content_hash` gives it.
    """

    shard: str
    offset: int
    size: int
    digest: str
