"""Verbs in processes of their own: forked from one that has imported everything, or afresh."""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from video_llama.apps import verb_processes
from video_llama.apps.verb_processes import Call, Verbs
from video_llama.common.errors import VideoLlamaError
from video_llama.processors.nursery import Nursery

PATIENCE_S = 120


@pytest.fixture(scope="module")
def waiting_verb():
    """A verb that waits; what is imported ahead is little, that the tests be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb_processes, "PRELOADED", "waiting_verb")
        patch.setattr(verb_processes, "command_line", afresh)
        yield


def afresh(words, *, num_ranks):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    script = [str(Path(__file__).with_name("waiting_main.py")), *words]
    return [sys.executable, *(launcher if num_ranks > 1 else []), *script]


@pytest.fixture(scope="module", params=["forked", "afresh"])
def verbs(request, waiting_verb):
    """Verbs started either way."""
    with Verbs(warm=request.param == "forked") as opened:
        yield opened


def start_waiting(verbs, folder, *, num_ranks=1, does="wait"):
    """Start the verb that waits, and wait until it does."""
    words = ["wait", "--folder", str(folder), "--does", does]
    process = verbs.start(Call(words, num_ranks=num_ranks, log=folder / "log"))
    for rank in range(num_ranks):
        wait_for(lambda rank=rank: (folder / f"pid{rank}").exists())
    return process


def wait_for(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def has_ended(pid):
    """Tell whether a process is gone; what nobody has waited for is still listed, as a zombie."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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
    words = ["wait", "--folder", str(tmp_path), "--does", "rank 1 crashes"]
    code, said = run(verbs, *words, log=tmp_path / "log", num_ranks=2)
    assert code == 1
    assert "it broke" in said
    assert (tmp_path / "saved0").read_text() == "SIGTERM"
    assert not (tmp_path / "saved1").exists()


def test_ranks_that_fail_with_an_exit_code_end_a_verb_with_1(verbs, tmp_path):
    code, said = run(verbs, "tran", log=tmp_path / "log", num_ranks=2)
    assert code == 1
    assert "unknown verb 'tran'" in said


def test_the_environment_of_a_call_is_that_of_its_process(verbs, tmp_path):
    def width(columns):
        """Help is as wide as COLUMNS says, less two."""
        words = ("toy", "world", "--help")
        log = tmp_path / columns
        said = run(verbs, *words, log=log, environment={"COLUMNS": columns})[1]
        return max(map(len, said.splitlines()))

    assert width("60") <= 58 < width("120") <= 118


def test_a_verb_that_is_asked_to_end_saves(verbs, tmp_path):
    process = start_waiting(verbs, tmp_path)
    assert process.poll() is None
    assert os.getpgid(process.pid) == process.pid
    process.terminate()
    assert process.wait() == 0
    assert process.poll() == 0
    assert (tmp_path / "saved0").read_text() == "SIGTERM"


def test_a_verb_that_is_asked_at_once_does_not_stay(verbs, tmp_path):
    processes = [
        verbs.start(Call(["wait", "--folder", str(tmp_path)], log=tmp_path / "log"))
        for _ in range(4)
    ]
    for process in processes:
        process.terminate()
    assert {process.wait() for process in processes} <= {0, -signal.SIGTERM}


def test_ranks_that_are_asked_to_end_save_and_are_gone(verbs, tmp_path):
    process = start_waiting(verbs, tmp_path, num_ranks=2)
    process.terminate()
    process.wait()
    assert "forcefully" not in (tmp_path / "log").read_text()
    assert [(tmp_path / f"saved{rank}").read_text() for rank in (0, 1)] == ["SIGTERM"] * 2


def test_what_a_verb_said_before_it_broke_is_kept(verbs, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    words = ["wait", "--folder", str(tmp_path), "--does", "crash"]
    code, said = run(verbs, *words, log=tmp_path / "log")
    assert code == 1
    assert "it begins" in said
    assert "it broke" in said


def test_a_verb_on_this_console_that_fails_is_named(verbs, capfd):
    verbs.call(["--version"])
    with pytest.raises(VideoLlamaError, match="video-llama tran: exit code 2"):
        verbs.call(["tran"])


@pytest.mark.parametrize("does", ["wait", "ignore"])
def test_a_verb_on_this_console_ends_with_its_caller_however_deaf(verbs, tmp_path, does):
    def ask():
        wait_for((tmp_path / "pid0").exists)
        for _ in range(1 if does == "wait" else 2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        verbs.call(["wait", "--folder", str(tmp_path), "--does", does])
    thread.join()
    assert has_ended((tmp_path / "pid0").read_text())


def test_a_verb_that_is_just_being_started_is_stopped_too(verbs, tmp_path, monkeypatch):
    start = verbs.start

    def start_and_be_stopped(call):
        process = start(call)
        wait_for((tmp_path / "pid0").exists)
        signal.raise_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(verbs, "start", start_and_be_stopped)
    with pytest.raises(KeyboardInterrupt):
        verbs.call(["wait", "--folder", str(tmp_path)])
    assert (tmp_path / "saved0").read_text() == "SIGTERM"
    assert has_ended((tmp_path / "pid0").read_text())


def test_ranks_do_not_outlive_a_killed_caller_and_keep_its_lock_until_they_end(
    tmp_path, waiting_verb
):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Verbs(warm=True, kept_open=(lock.fileno(),)) as verbs:
            start_waiting(verbs, tmp_path, num_ranks=2, does="ignore")
            pids = [(tmp_path / f"pid{rank}").read_text() for rank in (0, 1)]
    with (tmp_path / "lock").open("w") as lock:
        # Deaf as they are, they write on; nobody else may.
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)
    (tmp_path / "pid0").unlink(), (tmp_path / "pid1").unlink()
    with Verbs(warm=True) as verbs:
        start_waiting(verbs, tmp_path, num_ranks=2)
        pids = [(tmp_path / f"pid{rank}").read_text() for rank in (0, 1)]
    for pid in pids:
        wait_for(lambda pid=pid: has_ended(pid))


def test_verbs_are_started_afresh_when_what_they_are_forked_from_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(verb_processes, "PRELOADED", "video_llama.apps.no_such_module")
    with Verbs(warm=True) as verbs:
        assert run(verbs, "--version", log=tmp_path / "log")[0] == 0
        assert run(verbs, "--version", log=tmp_path / "log")[0] == 0


def test_verbs_that_run_go_on_when_another_cannot_be_forked(waiting_verb, tmp_path, monkeypatch):
    with Verbs(warm=True) as verbs:
        running = start_waiting(verbs, tmp_path)

        def no_room(self, target):
            raise OSError("too many open files")

        monkeypatch.setattr(Nursery, "start", no_room)
        assert run(verbs, "--version", log=tmp_path / "other")[0] == 0
        assert running.poll() is None
        running.terminate()
        assert running.wait() == 0
