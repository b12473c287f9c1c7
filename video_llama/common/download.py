"""Fetches one file from the web: resumable, checked, and only when it is asked to.

A download goes into `<name>.<tag>.part` beside its place and is renamed when its size and its
checksum are right; the tag changes with the file on the server, so that halves of two versions
never meet. Checksums come from the caller or from the server (Google Cloud Storage sends an MD5).
The hub's own files are fetched through huggingface_hub instead, see `apps/weights_get`.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import VideoLlamaError
from video_llama.common.hub import is_offline

TIMEOUT_S = 30.0
BLOCK = 1 << 20
NUM_ATTEMPTS = 5
"""How often a connection that breaks off is taken up again before the user is asked to."""

CHECKSUM_HEADER = "x-goog-hash"
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


@dataclass(frozen=True)
class Checksum:
    """What a file's bytes must hash to.

    Attributes:
        algorithm: as hashlib calls it.
        digest: hexadecimal.
    """

    algorithm: str
    digest: str


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Attributes:
        url: where it is.
        size: in bytes, None if the server does not tell.
        checksum: published by the caller's table or by the server, None if by nobody.
        version: changes with the file, "" if the server does not tell.
    """

    url: str
    size: int | None
    checksum: Checksum | None = None
    version: str = ""


def look_up(url: str, *, sha256: str | None = None) -> Remote:
    """Ask a server about a file without fetching it.

    Args:
        url: http or https.
        sha256: published checksum, where one is known.

    Raises:
        VideoLlamaError: there is no such file, no network, or the answer is a web page.
    """
    with _opened(urllib.request.Request(url, method="HEAD")) as response:
        headers = response.headers
        _refuse_page(headers.get("Content-Type", ""), url=url)
        length = headers.get("Content-Length")
        return Remote(
            url=url,
            size=int(length) if length is not None else None,
            checksum=Checksum("sha256", sha256) if sha256 else _sent_checksum(headers),
            version=headers.get("ETag") or headers.get("Last-Modified") or "",
        )


def download(remote: Remote, target: Path, *, progress: Callable[[int], None]) -> Path:
    """Fetch a file, or the rest of it.

    Args:
        remote: from `look_up`.
        target: where it goes; its folder is made.
        progress: called with the number of bytes that are there, from the first call on.

    Returns:
        `target`.

    Raises:
        VideoLlamaError: it cannot be fetched, or is not what was published; a partial download is
            kept unless its content is wrong.
    """
    tag = hashlib.blake2b(f"{remote.url} {remote.version}".encode(), digest_size=4).hexdigest()
    part = target.with_name(f"{target.name}.{tag}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(NUM_ATTEMPTS):
        _continue(remote, part, progress=progress)
        if remote.size is None or part.stat().st_size >= remote.size:
            break
    _check(remote, part)
    part.replace(target)
    return target


def read_range(url: str, *, start: int, size: int) -> bytes | None:
    """Read part of a file.

    Args:
        url: http or https.
        start: first byte.
        size: bytes wanted; fewer come if the file ends or the connection breaks off before.

    Returns:
        The bytes, None if the server knows no ranges.

    Raises:
        VideoLlamaError: there is no such file, or no network.
    """
    request = urllib.request.Request(url)
    request.add_header("Range", f"bytes={start}-{start + size - 1}")
    with _opened(request) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            return None
        return b"".join(_blocks(response))[:size]


def _continue(remote: Remote, part: Path, *, progress: Callable[[int], None]) -> None:
    """Fetch what is missing, as far as the connection lasts."""
    done = part.stat().st_size if part.exists() else 0
    progress(done)
    if remote.size is not None and done >= remote.size:
        return
    request = urllib.request.Request(remote.url)
    if done:
        request.add_header("Range", f"bytes={done}-")
    with _opened(request) as response:
        _refuse_page(response.headers.get("Content-Type", ""), url=remote.url)
        # A server that knows no ranges answers 200 and sends all of it.
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = done if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for block in _blocks(response):
                file.write(block)
                done += len(block)
                progress(done)


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives; a connection that breaks off only ends it early."""
    while True:
        try:
            block = response.read(BLOCK)
        except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            if isinstance(error, http.client.IncompleteRead) and error.partial:
                yield error.partial
            return
        if not block:
            return
        yield block


def _check(remote: Remote, part: Path) -> None:
    """Refuse what is shorter, longer or other than published."""
    size = part.stat().st_size
    if remote.size is not None and size < remote.size:
        raise VideoLlamaError(
            f"{remote.url}: the connection broke off at {size:,} of {remote.size:,} bytes; run the "
            f"command again, it goes on from there ({part})"
        )
    with part.open("rb") as file:
        is_page = file.read(256).lstrip().lower().startswith(WEB_PAGE)
    found = "a web page" if is_page else None
    if remote.size is not None and size > remote.size:
        found = f"{size:,} bytes instead of {remote.size:,}"
    elif remote.checksum is not None and not is_page:
        digest = file_digest(part, algorithm=remote.checksum.algorithm)
        if digest != remote.checksum.digest:
            found = (
                f"a file with {remote.checksum.algorithm} {digest} instead of "
                f"{remote.checksum.digest}"
            )
    if found is not None:
        part.unlink()
        raise VideoLlamaError(
            f"{remote.url}: {found} arrived and was deleted; try again, or fetch it in a browser"
        )


def file_digest(path: Path, *, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of a file."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sent_checksum(headers: http.client.HTTPMessage) -> Checksum | None:
    """Read the MD5 that Google Cloud Storage sends along, in base64."""
    for part in ",".join(headers.get_all(CHECKSUM_HEADER) or []).split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm == "md5":
            return Checksum("md5", base64.b64decode(value).hex())
    return None


def _refuse_page(content_type: str, *, url: str) -> None:
    if content_type.startswith("text/html"):
        raise VideoLlamaError(
            f"{url}: a web page, not a file (it may want a login or a click); fetch it in a browser"
        )


@contextmanager
def _opened(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    """Open an address; what goes wrong on the way becomes a sentence."""
    url = request.full_url
    if is_offline():
        raise VideoLlamaError(f"{url}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it")
    request.add_header("User-Agent", "video-llama")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise VideoLlamaError(
            f"{url}: the server says {error.code} ({error.reason}); the file may have moved"
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise VideoLlamaError(
            f"{url}: no connection ({reason}); what has arrived is kept, run the command again"
        ) from error
    with response:
        yield response
