"""Files of people's uploads are gone when they are not needed, whatever happens to whom."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from video_llama.common.errors import MediaError
from video_llama.processors.upload_folder import UploadFolder

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
PROGRAM = """
import sys, time
from pathlib import Path
from video_llama.processors.upload_folder import UploadFolder
folder = UploadFolder(parent=Path(sys.argv[1]))
with folder.file(b"content") as path:
    print(path, flush=True)
    if "wait" in sys.argv:
        time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(parent=tmp_path) as folder:
        yield folder


def start(parent, *words):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(parent), *words]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def test_content_is_a_file_as_long_as_it_is_needed(folder):
    with folder.file(b"a clip") as one, folder.file(io.BytesIO(b"another")) as other:
        assert (one.read_bytes(), other.read_bytes()) == (b"a clip", b"another")
        assert one.parent == other.parent == folder.path
    assert not one.exists()
    assert not other.exists()


def test_an_error_removes_the_file_too(folder):
    with pytest.raises(ZeroDivisionError), folder.file(b"a clip") as path:
        raise ZeroDivisionError
    assert not path.exists()


def test_more_than_is_allowed_is_refused_and_nothing_is_left(folder):
    before = set(folder.path.iterdir())
    with pytest.raises(MediaError, match="more than 1 MiB"):
        folder.file(io.BytesIO(bytes((1 << 20) + 1)), max_bytes=1 << 20).__enter__()
    assert set(folder.path.iterdir()) == before


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(folder, monkeypatch):
    monkeypatch.setattr(
        "tempfile.mkstemp", lambda dir: (os.open(FULL, os.O_WRONLY), str(dir / "x"))
    )
    with pytest.raises(MediaError, match=r"cannot be kept for reading \(No space left"):
        folder.file(b"a clip").__enter__()


def test_the_folder_goes_with_its_context_and_with_its_owner(tmp_path):
    with UploadFolder(parent=tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.path.name]
        assert folder.path.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())
    forgotten = UploadFolder(parent=tmp_path)
    del forgotten
    assert not list(tmp_path.iterdir())


def test_a_fork_leaves_the_folder_alone(folder):
    fork = os.fork()
    if fork == 0:
        try:
            folder.close()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    assert folder.path.is_dir()


def test_what_a_killed_server_left_is_removed_by_the_next_one(tmp_path):
    with start(tmp_path, "wait") as process:
        left = Path(process.stdout.readline().strip())
        with UploadFolder(parent=tmp_path):
            assert left.exists(), "it is still at work"
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    (tmp_path / "video-llama-uploads-notes").mkdir()
    with UploadFolder(parent=tmp_path):
        assert not left.parent.exists()
    # Nobody knows whose this is.
    assert (tmp_path / "video-llama-uploads-notes").is_dir()


def test_a_process_that_ends_leaves_nothing(tmp_path):
    with start(tmp_path) as process:
        assert process.wait(60) == 0
    assert not list(tmp_path.iterdir())
