"""Downloads resume where they broke off, and nothing wrong is ever taken for the file."""

import base64
import hashlib

import pytest
from common.file_server import Served, serving
from huggingface_hub import constants

from video_llama.common.download import NUM_ATTEMPTS, download, look_up
from video_llama.common.errors import VideoLlamaError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving() as running:
        yield running


def fetch(server, target, *, sha256=SHA256):
    seen = []
    remote = look_up(f"{server.url}/eva.pth", sha256=sha256)
    return download(remote, target, progress=seen.append), seen


def parts(folder):
    return list(folder.glob("*.part"))


def test_a_file_arrives_whole_and_its_progress_is_told(server, tmp_path):
    server.files["/eva.pth"] = Served(CONTENT)
    path, seen = fetch(server, tmp_path / "deep" / "eva.pth")
    assert path.read_bytes() == CONTENT
    assert seen[0] == 0
    assert seen[-1] == len(CONTENT)
    assert not parts(path.parent)


def test_looking_up_fetches_nothing(server):
    server.files["/eva.pth"] = Served(CONTENT)
    assert look_up(f"{server.url}/eva.pth").size == len(CONTENT)
    assert server.ranges("/eva.pth") == []


def test_a_connection_that_breaks_off_is_taken_up_again(server, tmp_path):
    server.files["/eva.pth"] = Served(CONTENT, breaks_after=4000)
    path, _ = fetch(server, tmp_path / "eva.pth")
    assert path.read_bytes() == CONTENT
    assert server.ranges("/eva.pth") == [None, "bytes=4000-", "bytes=8000-"]


def test_a_later_call_goes_on_where_the_first_one_was_left(server, tmp_path):
    server.files["/eva.pth"] = Served(CONTENT, breaks_after=1000)
    with pytest.raises(VideoLlamaError, match=r"5,000 of 10,240 bytes; run the command again"):
        fetch(server, tmp_path / "eva.pth")
    assert NUM_ATTEMPTS == len(server.ranges("/eva.pth")) == 5
    server.files["/eva.pth"] = Served(CONTENT)
    path, seen = fetch(server, tmp_path / "eva.pth")
    assert seen[0] == 5000
    assert server.ranges("/eva.pth")[-1] == "bytes=5000-"
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.files["/eva.pth"] = Served(CONTENT, breaks_after=1000)
    with pytest.raises(VideoLlamaError):
        fetch(server, tmp_path / "eva.pth")
    server.files["/eva.pth"] = Served(CONTENT, knows_ranges=False)
    assert fetch(server, tmp_path / "eva.pth")[0].read_bytes() == CONTENT


def test_halves_of_two_versions_never_meet(server, tmp_path):
    server.files["/eva.pth"] = Served(bytes(len(CONTENT)), {"ETag": '"old"'}, breaks_after=1000)
    with pytest.raises(VideoLlamaError):
        fetch(server, tmp_path / "eva.pth", sha256=None)
    server.files["/eva.pth"] = Served(CONTENT, {"ETag": '"new"'})
    assert fetch(server, tmp_path / "eva.pth", sha256=None)[0].read_bytes() == CONTENT


def test_another_content_than_published_is_deleted(server, tmp_path):
    server.files["/eva.pth"] = Served(CONTENT[::-1])
    with pytest.raises(VideoLlamaError, match=f"instead of {SHA256} arrived and was deleted"):
        fetch(server, tmp_path / "eva.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "is_right"), [(CONTENT, True), (CONTENT[::-1], False)])
def test_the_checksum_that_google_storage_sends_is_checked(server, tmp_path, content, is_right):
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    server.files["/eva.pth"] = Served(content, {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"})
    if is_right:
        assert fetch(server, tmp_path / "eva.pth", sha256=None)[0].read_bytes() == CONTENT
    else:
        with pytest.raises(VideoLlamaError, match="md5"):
            fetch(server, tmp_path / "eva.pth", sha256=None)


def test_a_file_that_is_not_there_is_told_by_the_servers_own_words(server, tmp_path):
    with pytest.raises(VideoLlamaError, match=r"eva\.pth: the server says 404 \(Not Found\)"):
        fetch(server, tmp_path / "eva.pth")


def test_a_login_page_is_not_taken_for_the_file(server, tmp_path):
    page = b"<!DOCTYPE html><html>Sign in</html>"
    server.files["/eva.pth"] = Served(page, {"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(VideoLlamaError, match="a web page, not a file"):
        fetch(server, tmp_path / "eva.pth")


def test_a_page_that_calls_itself_a_file_is_seen_through(server, tmp_path):
    server.files["/eva.pth"] = Served(b"\n<html>Sign in</html>")
    with pytest.raises(VideoLlamaError, match="a web page arrived and was deleted"):
        fetch(server, tmp_path / "eva.pth", sha256=None)
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_the_message_says_so(tmp_path):
    with pytest.raises(VideoLlamaError, match="no connection"):
        look_up("http://127.0.0.1:9/eva.pth")


def test_offline_nothing_is_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.files["/eva.pth"] = Served(CONTENT)
    with pytest.raises(VideoLlamaError, match="HF_HUB_OFFLINE is set"):
        fetch(server, tmp_path / "eva.pth")
    assert server.requests == []
