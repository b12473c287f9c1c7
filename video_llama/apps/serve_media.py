"""Where the media of a request may come from, and their bytes.

Data URLs always; files below folders that the server's owner named; addresses of the net only if
the owner said so (`serve_remote`). Nothing is decoded here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from video_llama.apps.serve_errors import ApiError
from video_llama.apps.serve_parts import Medium
from video_llama.apps.serve_remote import RemoteLimits, fetch

_DATA_HEAD = re.compile(r"data:[\w.+-]*(/[\w.+-]+)?(;[\w.+-]+=[\w.+-]*)*;base64", re.IGNORECASE)
_MAX_ADDRESS_CHARS = 8192
_MAX_HEAD_CHARS = 200
_SHOWN_CHARS = 80


class MediaDoor:
    """Lets the media of requests in, or says why not.

    Args:
        local_roots: folders whose files may be named by `file://`.
        remote: what is allowed of http and https; None refuses both.
        max_bytes: of one medium.
    """

    def __init__(
        self, *, local_roots: Sequence[Path], remote: RemoteLimits | None, max_bytes: int
    ) -> None:
        self._roots = [root.resolve() for root in local_roots]
        self._remote = remote
        self._max_bytes = max_bytes

    def identity(self, medium: Medium) -> str:
        """Return what is equal for the same medium of the same span and sampling.

        The content itself for data, path, size and time of a file, the address of what is far.

        Raises:
            ApiError: it may not come in.
        """
        scheme = self._scheme(medium)
        told = [medium.address]
        if scheme == "file":
            path = self._local(medium)
            stat = path.stat()
            told = [str(path), str(stat.st_size), str(stat.st_mtime_ns)]
        wanted = (medium.start_s, medium.end_s, medium.sampling, medium.sound)
        return hashlib.sha256("\n".join([*told, repr(wanted)]).encode()).hexdigest()

    def take(self, medium: Medium) -> bytes | Path:
        """Return the content of a medium, or the file it is in.

        Raises:
            ApiError: it may not come in, is too large, or could not be fetched.
        """
        scheme = self._scheme(medium)
        if scheme == "data":
            return self._inline(medium)
        if scheme == "file":
            path = self._local(medium)
            self._check_size(medium, path.stat().st_size)
            return path
        if self._remote is None:
            raise ApiError(
                f"{medium.where}: this server fetches nothing from the net; send the file itself "
                "as a data URL (data:video/mp4;base64,...)",
                param=medium.where,
                code="address_not_allowed",
            )
        return fetch(medium.address, limits=self._remote, where=medium.where)

    def _scheme(self, medium: Medium) -> str:
        scheme = medium.address[:8].partition(":")[0].lower()
        if scheme not in ("data", "file", "http", "https"):
            raise ApiError(
                f"{medium.where}: the address opens with {medium.address[:_SHOWN_CHARS]!r}; "
                "expected data:, file:// or https://",
                param=medium.where,
                code="invalid_address",
            )
        if scheme != "data" and len(medium.address) > _MAX_ADDRESS_CHARS:
            # Following a path takes time with the square of its length: hours for a megabyte.
            raise ApiError(
                f"{medium.where}: the address has {len(medium.address):,} characters, at most "
                f"{_MAX_ADDRESS_CHARS:,} are allowed",
                param=medium.where,
                code="invalid_address",
            )
        return scheme

    def _inline(self, medium: Medium) -> bytes:
        """Decode a data URL."""
        head, comma, payload = medium.address.partition(",")
        # Matching millions of parameters takes seconds and gigabytes.
        if not comma or len(head) > _MAX_HEAD_CHARS or not _DATA_HEAD.fullmatch(head):
            raise ApiError(
                f"{medium.where}: the data URL opens with {head[:_SHOWN_CHARS]!r}; "
                "expected data:TYPE;base64,...",
                param=medium.where,
                code="invalid_address",
            )
        self._check_size(medium, len(payload) * 3 // 4 - 2)
        try:
            return base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(
                f"{medium.where}: this is no base64 ({error})",
                param=medium.where,
                code="invalid_address",
            ) from error

    def _local(self, medium: Medium) -> Path:
        """Return the file a `file://` address means, once links and dots are followed."""
        address = urlsplit(medium.address)
        named = unquote(address.path, errors="surrogateescape")
        inside = None
        if address.netloc in ("", "localhost") and not address.query and not address.fragment:
            try:
                inside = Path(named).resolve()
            except (OSError, RuntimeError, ValueError):
                # A loop of links, a zero byte: whatever it is, it is no file of ours.
                inside = None
        if inside is None or not any(inside.is_relative_to(root) for root in self._roots):
            # Says the same whether the file exists or not: nobody may probe our disk.
            raise ApiError(
                f"{medium.where}: this is in no folder that the server may read; send the file "
                "itself as a data URL, or ask its owner to allow the folder",
                param=medium.where,
                code="address_not_allowed",
            )
        try:
            is_file = inside.is_file()
        except (OSError, ValueError):
            is_file = False
        if not is_file:
            raise ApiError(
                f"{medium.where}: no such file", param=medium.where, code="invalid_address"
            )
        return inside

    def _check_size(self, medium: Medium, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ApiError(
                f"{medium.where}: {num_bytes:,} bytes, at most {self._max_bytes:,} are allowed; "
                "cut it or encode it smaller",
                param=medium.where,
                code="media_too_large",
            )
