"""A decoder that crashes, hangs or takes all memory costs one file and nothing else."""

import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from made_media import shade, write_clip
from unruly import Babbling, Evil, Mute, Unruly

from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.common.types import BranchSpec, MediaItem, Shape, VideoSpec
from video_llama.processors import nursery
from video_llama.processors.media import MediaLoader, Request
from video_llama.processors.supervised import SupervisedLoader
from video_llama.processors.wire import Inbox, MalformedReply, Outbox, Reply, send_message

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def supervised():
    loader = SupervisedLoader(Unruly(), timeout_s=30)
    yield loader
    loader.close()


def read(loader, name, *, seed=7):
    return loader.load_all([Request(MediaItem("video", f"{name}.mp4"), "video", seed=seed)])[0]


def why_not(loader, name):
    with pytest.raises(MediaError) as caught:
        read(loader, name)
    assert caught.value.path in (f"{name}.mp4", None)
    return caught.value.reason


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(pid):
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        time.sleep(0.05)


def test_what_the_reader_returns_comes_back(supervised):
    item = MediaItem("video", "good.mp4", start_s=0.5)
    (loaded,) = supervised.load_all([Request(item, "video", seed=9)])
    assert (loaded.path, loaded.start_s, loaded.times_s) == ("good.mp4", 0.5, (0.0, 1.5))
    assert torch.equal(loaded.pixels, torch.full((2, 3, 4, 4), 9.0))


def test_the_next_answer_leaves_the_last_one_alone(supervised):
    first, second = read(supervised, "a", seed=1), read(supervised, "b", seed=2)
    assert first.pixels.unique().tolist() == [1.0]
    first.pixels.zero_()
    assert second.pixels.unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("segfaults", "the decoder crashed (signal 11)"),
        ("aborts", "the decoder crashed (signal 6)"),
        ("killed", "the decoder crashed (signal 9, out of memory?)"),
        ("hoards", "the decoder crashed (out of memory, 8 GiB allowed)"),
        ("refuses", "no video stream"),
    ],
)
def test_whatever_happens_to_a_decoder_is_told_of_its_file_alone(supervised, name, reason):
    assert why_not(supervised, name) == reason
    assert read(supervised, "good", seed=3).pixels.unique().tolist() == [3.0]


def test_an_error_nobody_foresaw_is_told_with_its_place(supervised):
    reason = why_not(supervised, "stumbles")
    assert reason.startswith(
        "the decoder crashed (IndexError: list index out of range, at unruly.py:"
    )


@pytest.mark.parametrize("name", ["sleeps", "loops"])
def test_a_decoder_that_hangs_is_given_up(name):
    loader = SupervisedLoader(Unruly(), timeout_s=0.5)
    pid = int(why_not(loader, "pid"))
    started = time.monotonic()
    assert why_not(loader, name) == "not decoded within 0.5 s"
    assert time.monotonic() - started < 10
    wait_until_gone(pid)
    assert read(loader, "good").times_s == (0.0, 1.5)
    loader.close()


def test_a_mistake_in_the_configuration_stays_one(supervised):
    with pytest.raises(ConfigError, match=r"run\.x: is wrong"):
        read(supervised, "misconfigured")


def test_an_answer_of_any_length_comes_back(supervised):
    assert why_not(supervised, "large") == "x" * 200_000


def test_a_child_that_was_killed_while_it_waited_costs_no_file(supervised):
    pid = int(why_not(supervised, "pid"))
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert read(supervised, "good").times_s == (0.0, 1.5)


def test_a_nursery_that_was_killed_is_replaced(supervised):
    child = int(why_not(supervised, "pid"))
    os.kill(nursery.nursery()._pid, signal.SIGKILL)
    wait_until_gone(child)
    assert read(supervised, "good").times_s == (0.0, 1.5)


@pytest.fixture
def heard_interrupts():
    """Ctrl-C as a program meets it; test runners' own workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_call_does_not_answer_the_next_one(heard_interrupts):
    loader = SupervisedLoader(Unruly(), timeout_s=30)
    read(loader, "good")
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        read(loader, "sleeps")
    timer.join()
    assert read(loader, "good", seed=5).pixels.unique().tolist() == [5.0]
    loader.close()


def test_signals_to_everybody_leave_the_decoder_at_work(supervised):
    pid = int(why_not(supervised, "pid"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(pid, number)
        os.kill(nursery.nursery()._pid, number)
    assert int(why_not(supervised, "pid")) == pid
    # A terminal's signals do not even come.
    assert int(why_not(supervised, "group")) != os.getsid(0)


def test_a_copy_sent_to_another_process_starts_its_own_child(supervised):
    copy = pickle.loads(pickle.dumps(supervised))
    assert why_not(copy, "pid") != why_not(supervised, "pid")
    copy.close()


def test_a_fork_of_this_process_has_a_child_of_its_own_and_leaves_ours_alone(supervised):
    ours = why_not(supervised, "pid")
    told, tell = os.pipe()
    fork = os.fork()
    if fork == 0:
        try:
            os.write(tell, why_not(supervised, "pid").encode())
            supervised.close()
            nursery.nursery().close()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    theirs = os.read(told, 100).decode()
    os.close(told)
    os.close(tell)
    assert int(theirs) != int(ours)
    assert why_not(supervised, "pid") == ours


def test_a_loader_nobody_holds_takes_its_child_along():
    loader = SupervisedLoader(Unruly(), timeout_s=30)
    pid = int(why_not(loader, "pid"))
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    del loader
    gc.collect()
    wait_until_gone(pid)
    # The socket, the report of its end, and the memory it shared.
    assert len(list(Path("/proc/self/fd").iterdir())) <= num_open - 2


def test_an_answer_cannot_run_code(tmp_path):
    loader = SupervisedLoader(Evil(str(tmp_path / "made")), timeout_s=30)
    assert "it answered with posix.mkdir" in why_not(loader, "good")
    assert not (tmp_path / "made").exists()
    loader.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (pickle.dumps([])[:-1], "its answer cannot be read, "),
        (b"", "its answer cannot be read, EOFError"),
        (pickle.dumps([]), "it answered with list"),
        (pickle.dumps(Reply("refused", "no error")), "it answered 'refused' with str"),
        (pickle.dumps(Reply("done", [1])), "it answered with a int among media"),
        (pickle.dumps(Reply("dome", [])), "its answer cannot be read, KeyError"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer, reason):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_message(theirs, answer)
        with pytest.raises(MalformedReply, match=f"^{reason}"):
            Inbox().receive(ours)


def test_a_tensor_outside_the_shared_memory_is_refused():
    ours, theirs = socket.socketpair()
    outbox, inbox = Outbox(), Inbox()
    with ours, theirs:
        outbox.send(theirs, Reply("done", []))
        assert inbox.receive(ours) == Reply("done", [])
        # Protocol 0: a place in memory, as text, is looked up in it.
        send_message(theirs, b"(I100000000\nVuint8\n(I7\nttQ.")
        with pytest.raises(MalformedReply, match=r"its answer cannot be read, ValueError: offset"):
            inbox.receive(ours)


@pytest.mark.parametrize(
    "name", ["errors.printable", "errors.annotations", "types.MEDIA_KINDS", "types.Callable"]
)
def test_an_answer_names_classes_alone(name):
    module, _, name = f"video_llama.common.{name}".rpartition(".")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # Protocol 0: look a name up, and stop.
        send_message(theirs, f"c{module}\n{name}\n.".encode())
        with pytest.raises(MalformedReply, match=f"it answered with {module}.{name}"):
            Inbox().receive(ours)


def test_a_child_whose_answer_is_none_is_replaced():
    loader = SupervisedLoader(Babbling(), timeout_s=30)
    pid = int(why_not(loader, "pid"))
    assert why_not(loader, "babbles") == "the decoder crashed (it answered with a str among media)"
    wait_until_gone(pid)
    assert read(loader, "good").times_s == (0.0, 1.5)
    loader.close()


LONG = "long-" + "x" * (8 << 20)
"""The name of a file that fills a socket nobody reads."""


def test_a_call_that_nobody_takes_is_given_up():
    loader = SupervisedLoader(Unruly(), timeout_s=0.5)
    os.kill(int(why_not(loader, "pid")), signal.SIGSTOP)
    assert why_not(loader, LONG) == "not decoded within 0.5 s"
    assert read(loader, "good").times_s == (0.0, 1.5)
    loader.close()


def test_half_a_call_does_not_become_part_of_the_next_one(heard_interrupts):
    loader = SupervisedLoader(Unruly(), timeout_s=30)
    os.kill(int(why_not(loader, "pid")), signal.SIGSTOP)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        read(loader, LONG)
    timer.join()
    assert read(loader, "good", seed=5).pixels.unique().tolist() == [5.0]
    loader.close()


def test_a_child_that_never_says_hello_is_told_as_one_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(nursery, "START_S", 0.5)
    with pytest.raises(VideoLlamaError, match=r"cannot be started .*timed out.*decode_timeout_s"):
        nursery.start_child(Mute())
    nursery.nursery().close()


def test_a_nursery_that_does_not_listen_can_be_ended():
    frozen = nursery.Nursery()
    os.kill(frozen._pid, signal.SIGSTOP)
    frozen.kill()
    assert not is_running(frozen._pid)


def slots_of(num_steps):
    return 1


def test_a_real_clip_is_read_as_without_a_child(tmp_path):
    half = (0.5, 0.5, 0.5)
    video = VideoSpec(num_frames=4, image_size=16, mean=half, std=half)
    specs = {"video": BranchSpec("video", ("video",), video, Shape(4, 1, 1), slots_of)}
    item = MediaItem("video", str(write_clip(tmp_path / "a.mp4", [shade(i) for i in range(8)])))
    plain = MediaLoader(specs)
    loader = SupervisedLoader(plain, timeout_s=60)
    request = Request(item, "video", augment="random_crop", seed=4)
    (loaded,) = loader.load_all([request])
    loader.close()
    (alone,) = plain.load_all([request])
    assert torch.equal(loaded.pixels, alone.pixels)
    assert (loaded.times_s, loaded.content_hash) == (alone.times_s, alone.content_hash)


# --- whole processes

PROGRAM = """
import os, sys, threading, time
sys.path[:0] = [{tests!r}]
from unruly import Unruly
from video_llama.common.types import MediaItem
from video_llama.common.errors import MediaError
from video_llama.processors import nursery
from video_llama.processors.media import Request
from video_llama.processors.supervised import SupervisedLoader

def pid():
    try:
        loader.load_all([Request(MediaItem("video", "pid.mp4"), "video")])
    except MediaError as error:
        return error.reason

if "threads" in sys.argv:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
loader = SupervisedLoader(Unruly(), timeout_s=30)
print(nursery.num_threads(), pid(), nursery.nursery()._pid, flush=True)
if "wait" in sys.argv:
    loader.load_all([Request(MediaItem("video", "loops.mp4"), "video")])
"""


def start(*words):
    program = textwrap.dedent(PROGRAM.format(tests=str(Path(__file__).parent)))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], env=environ, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [(), ("threads",)], ids=["forked", "spawned"])
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="kernels kill orphans on Linux")
def test_nothing_outlives_a_process_that_is_killed(threads):
    with start("wait", *threads) as process:
        num_threads, *pids = map(int, process.stdout.readline().split())
        assert (num_threads == 1) == (threads == ())
        assert all(is_running(pid) for pid in pids)
        process.kill()
        for pid in pids:
            wait_until_gone(pid)


@pytest.mark.slow
def test_nothing_outlives_a_process_that_ends():
    with start() as process:
        _, *pids = map(int, process.stdout.readline().split())
        assert process.wait(60) == 0
    for pid in pids:
        wait_until_gone(pid)
