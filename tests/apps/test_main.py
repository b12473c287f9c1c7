"""The door to all verbs: what becomes of output nobody reads."""

import os

from doors import Program


def test_a_reader_who_goes_away_ends_a_verb_quietly(nursery, tmp_path):
    pipe, err = tmp_path / "pipe", tmp_path / "err"
    os.mkfifo(pipe)
    child = nursery.start(Program(["-m", "video_llama.apps.main", "schema"], pipe, err))
    with pipe.open("rb", buffering=0) as reader:
        reader.read(1)
    child.has_ended(patience_s=600)
    # 128 + SIGPIPE, as of a program that the signal ended.
    assert (child.exit_code(), err.read_bytes()) == (141, b"")
