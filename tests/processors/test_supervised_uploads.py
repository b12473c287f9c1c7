"""An upload that crashes, hangs or takes over its decoder costs nobody else anything."""

import pickle
import threading
import time
from dataclasses import replace

import pytest
import torch
from made_branches import AUDIO, VIDEO
from made_media import shade, tone, write_clip
from unruly import UnrulyUploads

from video_llama.common.errors import MediaError
from video_llama.processors.limits import MediaLimits
from video_llama.processors.uploads import SupervisedUploads, UploadReader, UploadRequest

SPECS = {"video": VIDEO, "audio": AUDIO}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, [shade(i) for i in range(16)], sound=tone()).read_bytes()


@pytest.fixture(scope="module")
def supervised():
    limits = MediaLimits(max_bytes=1 << 20)
    reader = SupervisedUploads(UnrulyUploads(SPECS, limits=limits), timeout_s=30)
    yield reader
    reader.close()


def why_not(reader, label, content=b"x"):
    with pytest.raises(MediaError) as caught:
        reader.read(UploadRequest(label, data=content))
    assert caught.value.path in (label, None)
    return caught.value.reason


def test_a_child_reads_what_the_reader_reads(supervised, content):
    plain = UploadReader(SPECS)
    for wanted in ({}, {"frames": 3}, {"fps": 2.0, "end_s": 1.0}, {"sound": False}):
        request = UploadRequest("clip", data=content, **wanted)
        here, there = plain.read(request), supervised.read(request)
        assert (here.info, here.specs, here.notes) == (there.info, there.specs, there.notes)
        for one, other in zip(here.items, there.items, strict=True):
            tensors = (one.pixels, other.pixels) if one.kind == "video" else (one.mel, other.mel)
            assert torch.equal(*tensors)
            assert (one.times_s, one.content_hash) == (other.times_s, other.content_hash)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("segfaults", "the decoder crashed (signal 11)"),
        ("hoards", "the decoder crashed (out of memory, 8 GiB allowed)"),
        ("lies branches", "the decoder answered for 'no such, no such'"),
        ("lies items", "the decoder crashed (it answered with a reading of something else)"),
        ("lies notes", "the decoder crashed (it answered with a reading of something else)"),
        ("lies info", "the decoder crashed (it answered with a reading of something else)"),
    ],
)
def test_whatever_a_file_does_is_told_of_it_alone(supervised, content, label, reason):
    assert why_not(supervised, label, content) == reason
    assert len(supervised.read(UploadRequest("clip", data=content)).items) == 2


def test_an_answer_cannot_run_code(supervised, content, tmp_path):
    assert "it answered with posix.mkdir" in why_not(supervised, f"evil {tmp_path}/made", content)
    assert not (tmp_path / "made").exists()


def test_content_that_is_too_large_is_not_even_sent(supervised):
    pid = int(why_not(supervised, "pid"))
    assert why_not(supervised, "segfaults", bytes(2 << 20)).startswith("2.0 MiB, at most 1 MiB")
    assert int(why_not(supervised, "pid")) == pid


def test_a_file_that_hangs_holds_others_up_for_the_time_limit_and_no_longer(content):
    reader = SupervisedUploads(UnrulyUploads(SPECS), timeout_s=1.5)
    reader.read(UploadRequest("clip", data=content))
    outcomes = {}
    started = threading.Barrier(5)

    def upload(label, number):
        started.wait()
        if number:
            time.sleep(0.2)
        try:
            outcomes[number] = len(reader.read(UploadRequest(label, data=content)).items)
        except MediaError as error:
            outcomes[number] = error.reason

    threads = [
        threading.Thread(target=upload, args=("sleeps" if n == 0 else "clip", n)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    started.wait()
    begun = time.monotonic()
    for thread in threads:
        thread.join()
    assert outcomes == {0: "not decoded within 1.5 s", 1: 2, 2: 2, 3: 2}
    assert 1.4 < time.monotonic() - begun < 10
    reader.close()


def test_many_threads_get_what_they_asked_for(supervised, content):
    wanted = dict.fromkeys(range(1, 9))

    def upload(number):
        upload = supervised.read(UploadRequest(f"clip {number}", data=content, frames=number))
        wanted[number] = (upload.items[0].path, len(upload.items[0].times_s))

    threads = [threading.Thread(target=upload, args=(number,)) for number in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wanted == {number: (f"clip {number}", number) for number in range(1, 9)}


class Slots:
    """Counts positions, as a model does."""

    def __call__(self, num_steps):
        return num_steps

    def __reduce__(self):
        raise AssertionError("a child was told how to count positions")


def test_a_child_is_not_told_of_models(content):
    specs = {name: replace(spec, slots=Slots()) for name, spec in SPECS.items()}
    reader = SupervisedUploads(UploadReader(specs), timeout_s=30)
    upload = reader.read(UploadRequest("clip", data=content, frames=3))
    assert upload.specs[0].slots(3) == 3
    assert upload.specs[1] is specs["audio"]
    reader.close()


def test_a_copy_sent_to_another_process_has_a_child_of_its_own(supervised):
    copy = pickle.loads(pickle.dumps(supervised))
    assert why_not(copy, "pid") != why_not(supervised, "pid")
    copy.close()
