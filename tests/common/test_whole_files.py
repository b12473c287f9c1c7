"""A file that cannot be written whole stays what it was."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from video_llama.common.whole_files import write_whole


def test_a_file_and_its_folder_are_written(tmp_path: Path):
    write_whole(tmp_path / "new" / "file.txt", "\xe9\n")
    assert (tmp_path / "new" / "file.txt").read_bytes() == b"\xc3\xa9\n"


def test_nothing_else_is_left_behind(tmp_path: Path):
    write_whole(tmp_path / "file.bin", b"\x00")
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new content")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
