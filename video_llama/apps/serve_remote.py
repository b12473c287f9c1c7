"""Fetching a medium by http or https without becoming a door into our own network.

Every address a name stands for must be public, that of every redirect too, and the connection goes
to the very address that was checked, so that a second look-up cannot change it. Bytes and seconds
are limited over all of it. No proxy, no cookies, no credentials.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from video_llama.apps.serve_errors import ApiError

MAX_REDIRECTS = 3
_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True)
class RemoteLimits:
    """What is allowed of a file far away.

    Attributes:
        max_bytes: of its content.
        timeout_s: from the first look-up to the last byte.
    """

    max_bytes: int
    timeout_s: float


class _Refused(Exception):
    """An address is not fetched; the text says why."""


def fetch(address: str, *, limits: RemoteLimits, where: str) -> bytes:
    """Return the content of an address.

    Args:
        address: http or https.
        limits: of bytes and seconds.
        where: the field it stands in, for errors.

    Raises:
        ApiError: it is not public, does not answer, takes too long or is too large.
    """
    deadline = time.monotonic() + limits.timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _answer(address, deadline) as answer:
                if answer.status in _REDIRECTS:
                    address = urljoin(address, answer.headers.get("Location", ""))
                    continue
                if answer.status != 200:
                    raise _Refused(f"its server answered {answer.status}")
                return _read(answer, limits, deadline)
        raise _Refused(f"more than {MAX_REDIRECTS} redirects")
    except _Refused as error:
        reason = str(error)
    except TimeoutError:
        reason = f"not there within {limits.timeout_s:g} s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= deadline
        reason = f"not there within {limits.timeout_s:g} s" if late else type(error).__name__
    raise ApiError(
        f"{where}: the address cannot be fetched ({reason}); send the file itself as a data URL",
        param=where,
        code="address_not_fetched",
    )


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the open internet, however it is written."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        if number.ipv4_mapped is not None:
            return is_public(str(number.ipv4_mapped))
        tunnelled = number.sixtofour or number.teredo or any(number in net for net in _NAT64)
        if tunnelled:
            return False
    return number.is_global and not number.is_multicast and not number.is_reserved


@contextlib.contextmanager
def _answer(address: str, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """Ask for an address and give the beginning of its answer."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Refused("only http and https addresses with a host are")
    if parts.username is not None or parts.password is not None:
        raise _Refused("it holds a user's name")
    connection = _connect(parts, deadline)
    # A server that sends a byte now and then would outlive any time limit of a single read.
    cut = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, [connection.sock])
    cut.daemon = True
    cut.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "*/*", "User-Agent": "video-llama"})
        yield connection.getresponse()
    finally:
        cut.cancel()
        connection.close()


def _connect(parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
    """Connect to the public address of a host."""
    is_https = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_https else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _Refused("no such host") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise _Refused("it is not an address of the open internet")
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    kind = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    connection = kind(host, port, timeout=left_s)
    plain = socket.create_connection((addresses[0], port), timeout=left_s)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            if is_https
            else plain
        )
    except (OSError, ValueError):
        plain.close()
        raise
    return connection


def _read(answer: http.client.HTTPResponse, limits: RemoteLimits, deadline: float) -> bytes:
    """Read to the end, or to the limit."""
    pieces, size = [], 0
    if (answer.length or 0) > limits.max_bytes:
        raise _Refused(f"{answer.length:,} bytes, at most {limits.max_bytes:,} are allowed")
    while piece := answer.read(_CHUNK):
        size += len(piece)
        if size > limits.max_bytes:
            raise _Refused(f"more than the {limits.max_bytes:,} bytes that are allowed")
        pieces.append(piece)
    if time.monotonic() >= deadline:
        # The end may be our own hanging up.
        raise TimeoutError
    if answer.length:
        raise _Refused("its server hung up in the middle")
    return b"".join(pieces)


def _hang_up(sock: socket.socket) -> None:
    """End a connection from outside of the thread that reads it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
