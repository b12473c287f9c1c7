"""The door to all verbs: what becomes of output nobody reads."""

import subprocess
import sys


def test_a_reader_who_goes_away_ends_a_verb_quietly():
    words = [sys.executable, "-m", "video_llama.apps.main", "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
        # 128 + SIGPIPE, as of a program that the signal ended.
        assert (process.wait(), said) == (141, b"")
