"""Verbs in processes of their own: forked from one that has imported everything, or afresh."""

import os
import signal
import time
from pathlib import Path

import pytest

from video_llama.apps import verb_processes
from video_llama.apps.verb_processes import Call, Verbs
from video_llama.common.errors import VideoLlamaError

PATIENCE_S = 120


@pytest.fixture(scope="module", params=["forked", "afresh"])
def verbs(request):
    """Verbs started either way; what is imported ahead is little, that the test be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb_processes, "PRELOADED", "video_llama.apps.env")
        opened = Verbs(warm=request.param == "forked")
    with opened:
        yield opened


def run(verbs, *words, log, **more):
    process = verbs.start(Call(words, log=log, **more))
    return process.wait(), log.read_text()


def test_a_verb_ends_with_its_exit_code_and_what_it_says_goes_into_the_log(verbs, tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    code, said = run(verbs, "toy", "world", "--out", str(tmp_path / "w"), "--clips", "0", log=log)
    assert code == 2
    assert said.startswith("before\n")
    assert "--clips: found 0, at least 1 is needed" in said
    assert run(verbs, "--version", log=tmp_path / "other")[0] == 0


def test_flags_that_do_not_parse_end_a_verb_with_2(verbs, tmp_path):
    code, said = run(verbs, "toy", "world", "--hurry", log=tmp_path / "log")
    assert code == 2
    assert "usage: video-llama toy" in said


def test_ranks_know_each_other_and_one_that_fails_ends_all(verbs, tmp_path):
    code, said = run(verbs, "train", "--cfg-path", "no.yaml", log=tmp_path / "log", num_ranks=2)
    assert code == 1
    assert "there is no file no.yaml" in said


def test_the_environment_of_a_call_is_that_of_its_process(verbs, tmp_path):
    def width(columns):
        """Help is as wide as COLUMNS says, less two."""
        words = ("toy", "world", "--help")
        log = tmp_path / columns
        said = run(verbs, *words, log=log, environment={"COLUMNS": columns})[1]
        return max(map(len, said.splitlines()))

    assert width("60") <= 58 < width("120") <= 118


def test_a_verb_that_is_asked_to_end_does(verbs, tmp_path):
    world = tmp_path / "world"
    words = ["toy", "world", "--out", str(world), "--workers", "1"]
    process = verbs.start(Call(words, log=tmp_path / "log"))
    deadline_s = time.monotonic() + PATIENCE_S
    while not (world / "videos").exists() and time.monotonic() < deadline_s:
        assert process.poll() is None
        time.sleep(0.05)
    assert os.getpgid(process.pid) == process.pid
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    assert process.poll() == -signal.SIGTERM


def test_a_verb_on_this_console_that_fails_is_named(verbs, capfd):
    verbs.call(["--version"])
    with pytest.raises(VideoLlamaError, match="video-llama tran: exit code 2"):
        verbs.call(["tran"])


def test_what_was_forked_does_not_outlive_its_verbs(tmp_path, monkeypatch):
    monkeypatch.setattr(verb_processes, "PRELOADED", "video_llama.apps.env")
    words = ["toy", "world", "--out", str(tmp_path / "world"), "--workers", "1"]
    with Verbs(warm=True) as verbs:
        process = verbs.start(Call(words, log=tmp_path / "log"))
        assert process.poll() is None
    assert process.wait() == -signal.SIGKILL
    status = Path(f"/proc/{process.pid}/stat")
    deadline_s = time.monotonic() + PATIENCE_S
    # What nobody has waited for is still listed, as a zombie.
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_verbs_are_started_afresh_when_what_they_are_forked_from_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(verb_processes, "PRELOADED", "video_llama.apps.no_such_module")
    with Verbs(warm=True) as verbs:
        assert run(verbs, "--version", log=tmp_path / "log")[0] == 0
        assert run(verbs, "--version", log=tmp_path / "log")[0] == 0
