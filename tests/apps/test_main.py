"""The door to all verbs: what becomes of output nobody reads."""

import os
import select

from programs import Program


def test_a_reader_who_goes_away_ends_a_verb_quietly(nursery, tmp_path):
    pipe, err = tmp_path / "pipe", tmp_path / "err"
    os.mkfifo(pipe)
    # Opened before there is a writer, or a program that never writes would not be noticed.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = nursery.start(Program(["-m", "video_llama.apps.main", "schema"], pipe, err))
    assert select.select([reader], [], [], 600)[0]
    assert len(os.read(reader, 1)) == 1
    os.close(reader)
    assert child.has_ended(patience_s=600)
    # 128 + SIGPIPE, as of a program that the signal ended.
    assert (child.exit_code(), err.read_bytes()) == (141, b"")
