"""Errors are one line that any terminal, log and JSON takes, whatever a file is called."""

import json
import pickle

import pytest

from video_llama.common.errors import MediaError, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("clip.mp4", "clip.mp4"),
        ("\u7535\u5f71 fa\u00e7ade.mp4", "\u7535\u5f71 fa\u00e7ade.mp4"),
        ("a\nERROR: disk on fire\r.mp4", r"a\nERROR: disk on fire\r.mp4"),
        ("\x1b[2Jgone.mp4", r"\x1b[2Jgone.mp4"),
        ("gpj\u202egnp.exe", r"gpj\u202egnp.exe"),
        ("half\ud800.mp4", r"half\ud800.mp4"),
    ],
)
def test_names_come_without_what_acts_on_a_reader(name, shown):
    error = MediaError("no such file", path=name)
    assert str(error) == f"{shown}: no such file"
    assert printable(name) == shown
    # What code compares stays as it is.
    assert error.path == name
    json.dumps({"error": str(error)}, ensure_ascii=False).encode()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_path_that_would_fill_a_screen_is_shortened():
    error = MediaError("no such file", path="a/" * 3000)
    assert len(str(error)) < 400
    assert str(error).startswith("a/a/")
    assert len(error.path) == 6000
