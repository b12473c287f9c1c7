"""Where the media of a request may come from."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps import serve_remote
from video_llama.apps.serve_errors import ApiError
from video_llama.apps.serve_media import MediaDoor
from video_llama.apps.serve_parts import Medium, Sampling
from video_llama.apps.serve_remote import RemoteLimits, is_public


def door(*roots: Path, remote: RemoteLimits | None = None, max_bytes: int = 1000) -> MediaDoor:
    return MediaDoor(local_roots=roots, remote=remote, max_bytes=max_bytes)


def refusal(at: MediaDoor, address: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        at.take(Medium("messages[0]", address))
    assert caught.value.param == "messages[0]"
    return caught.value


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder that may be read, `open`, and one that may not, `closed`."""
    for name in ("open", "open/inner", "open2", "closed"):
        (tmp_path / name).mkdir()
    for name in ("open/a b.mp4", "open/inner/b.mp4", "open2/c.mp4", "closed/secret.mp4"):
        (tmp_path / name).write_bytes(b"clip")
    (tmp_path / "open" / "out").symlink_to(tmp_path / "closed")
    (tmp_path / "open" / "out.mp4").symlink_to(tmp_path / "closed" / "secret.mp4")
    (tmp_path / "open" / "in.mp4").symlink_to(tmp_path / "open" / "inner" / "b.mp4")
    (tmp_path / "open" / "loop").symlink_to(tmp_path / "open" / "loop")
    os.mkfifo(tmp_path / "open" / "pipe")
    return tmp_path


def test_a_data_url_is_its_content() -> None:
    address = "data:video/mp4;base64," + base64.b64encode(b"clip").decode()
    assert door().take(Medium("", address)) == b"clip"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("data:video/mp4,clip", "data:TYPE;base64"),
        ("data:video/mp4;base64", "data:TYPE;base64"),
        ("data:video/mp4" + ";a=b" * 100 + ";base64,AAAA", "data:TYPE;base64"),
        ("data:video/mp4;base64,@@@@", "no base64"),
        ("data:video/mp4;base64,AAA", "no base64"),
        ("data:video/mp4;base64,\u00e4AAA", "no base64"),
        ("/etc/passwd", "expected data:"),
        ("clip.mp4", "expected data:"),
        ("ftp://a/b", "expected data:"),
        ("concat:a|b", "expected data:"),
    ],
)
def test_what_is_no_address_is_refused(address: str, said: str) -> None:
    assert said in refusal(door(), address).message


def test_data_beyond_the_limit_are_refused() -> None:
    fits = "data:a/b;base64," + base64.b64encode(bytes(1000)).decode()
    above = "data:a/b;base64," + base64.b64encode(bytes(1003)).decode()
    assert len(door().take(Medium("", fits))) == 1000  # type: ignore[arg-type]
    assert refusal(door(), above).code == "media_too_large"


@pytest.mark.parametrize("name", ["a b.mp4", "inner/b.mp4", "inner/../inner/b.mp4", "in.mp4"])
def test_files_below_an_open_folder_are_let_in(disk: Path, name: str) -> None:
    for host in ("", "localhost"):
        path = door(disk / "open").take(Medium("", f"file://{host}{disk}/open/{quote(name)}"))
        assert isinstance(path, Path)
        assert path.read_bytes() == b"clip"


@pytest.mark.parametrize(
    "name",
    [
        "closed/secret.mp4",
        "closed/missing.mp4",
        "open2/c.mp4",
        "open/../closed/secret.mp4",
        "open/%2e%2e/closed/secret.mp4",
        "open/..%2fclosed/secret.mp4",
        "open/out/secret.mp4",
        "open/out.mp4",
        "open/loop",
        "open/loop/x",
        "open/a%00b.mp4",
        "open/a%20b.mp4?x=1",
        "open/a%20b.mp4#x",
        "..%2f..%2f..%2fetc/passwd",
        "open/" + "x" * 5000,
    ],
)
def test_forged_paths_are_refused_alike(disk: Path, name: str) -> None:
    error = refusal(door(disk / "open"), f"file://{disk}/{name}")
    assert error.message == refusal(door(disk / "open"), "file:///etc/passwd").message or (
        "no such file" in error.message and "x" * 5000 in name
    )
    assert str(disk) not in error.message


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_endless_addresses_are_refused_at_once(disk: Path, scheme: str) -> None:
    at = door(disk / "open", remote=RemoteLimits(1000, 5.0))
    began = time.monotonic()
    assert "2,000,0" in refusal(at, f"{scheme}:///" + "a/" * 1_000_000).message
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("host", ["a", "127.0.0.1", "a@localhost", "localhost:80"])
def test_files_of_other_hosts_are_refused(disk: Path, host: str) -> None:
    error = refusal(door(disk / "open"), f"file://{host}{disk}/open/inner/b.mp4")
    assert error.code == "address_not_allowed"


@pytest.mark.parametrize("name", ["open", "open/pipe", "open/missing.mp4"])
def test_what_is_no_file_is_said(disk: Path, name: str) -> None:
    assert "no such file" in refusal(door(disk / "open"), f"file://{disk}/{name}").message


def test_without_an_open_folder_no_file_is_let_in(disk: Path) -> None:
    error = refusal(door(), f"file://{disk}/open/inner/b.mp4")
    assert error.code == "address_not_allowed"


def test_a_file_beyond_the_limit_is_refused(disk: Path) -> None:
    error = refusal(door(disk, max_bytes=3), f"file://{disk}/open/inner/b.mp4")
    assert error.code == "media_too_large"


@given(st.text(max_size=30))
def test_whatever_the_path_is_it_stays_below_the_folder(name: str) -> None:
    root = Path(__file__).parent / "no such folder"
    error = refusal(door(root), "file://" + quote(f"{root}/{name}", safe="/%?#@:"))
    assert error.status == 400


def test_a_medium_is_the_same_if_content_span_and_sampling_are(disk: Path) -> None:
    at = door(disk / "open")
    address = f"file://{disk}/open/inner/b.mp4"
    plain = at.identity(Medium("messages[0]", address))
    assert plain == at.identity(Medium("messages[4]", f"file://{disk}/open/in.mp4"))
    others = [Medium("", address, start_s=1.0), Medium("", address, sampling=Sampling(frames=4))]
    others += [Medium("", address, sound=False), Medium("", "data:a/b;base64,AAAA")]
    assert len({plain, *map(at.identity, others)}) == 5
    (disk / "open" / "inner" / "b.mp4").write_bytes(b"another clip")
    assert plain != at.identity(Medium("", address))


@pytest.mark.parametrize("address", ["http://example.com/a.mp4", "HTTPS://example.com/a.mp4"])
def test_the_net_is_closed_unless_it_is_opened(address: str) -> None:
    assert refusal(door(), address).code == "address_not_allowed"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_addresses_of_our_own_net_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/a", "http://localhost/a", "http://[::1]/a", "http://0/a",
        "http://2130706433/a", "http://0x7f.1/a", "http://127.1/a", "http://user:pw@127.0.0.1/a",
        "http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/", "http:///a",
        "http://127.0.0.1:99999/", "http://[/", "http://a\nb/", "https://localhost/a",
    ],
)  # fmt: skip
def test_addresses_of_our_own_net_are_not_fetched(address: str) -> None:
    error = refusal(door(remote=RemoteLimits(1000, 5.0)), address)
    assert error.code == "address_not_fetched"


class Site(BaseHTTPRequestHandler):
    """A site with a file, redirects, and bad manners."""

    def do_GET(self) -> None:  # noqa: N802 - the name in http.server
        port = self.server.server_address[1]
        places = {
            "/to-file": f"http://127.0.0.1:{port}/file",
            "/to-private": f"http://127.0.0.2:{port}/file",
            "/to-disk": "file:///etc/passwd",
            "/round": "/round",
        }
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path == "/cut":
            self.send_header("Content-Length", "100")
        self.end_headers()
        if self.path == "/slow":
            while True:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        self.wfile.write(bytes(2000) if self.path == "/large" else b"clip")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_net(monkeypatch: pytest.MonkeyPatch) -> MediaDoor:
    """A door to a net in which 127.0.0.1 alone is public."""
    monkeypatch.setattr(serve_remote, "is_public", lambda address: address == "127.0.0.1")
    return door(remote=RemoteLimits(max_bytes=1000, timeout_s=2.0))


@pytest.mark.parametrize("path", ["/file", "/to-file"])
def test_a_public_file_is_fetched(open_net: MediaDoor, site: str, path: str) -> None:
    assert open_net.take(Medium("", site + path)) == b"clip"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/to-private", "open internet"),
        ("/to-disk", "only http and https"),
        ("/round", "redirects"),
        ("/missing", "404"),
        ("/large", "1,000 bytes"),
        ("/cut", "hung up"),
        ("/slow", "within 2 s"),
    ],
)
def test_what_is_not_well_is_not_fetched(
    open_net: MediaDoor, site: str, path: str, said: str
) -> None:
    began = time.monotonic()
    assert said in refusal(open_net, site + path).message
    assert time.monotonic() - began < 10
