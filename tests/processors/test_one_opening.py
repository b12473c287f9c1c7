"""Pictures and sound of one file: read together they are what they are one by one."""

import av
import numpy as np
import pytest
import torch
from made_branches import AUDIO, VIDEO
from made_media import tone
from PIL import Image

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaItem
from video_llama.processors import containers, media_file, survey
from video_llama.processors.media import MediaLimits, MediaLoader, Request

SPECS = {"video": VIDEO, "audio": AUDIO}
SPANS = [(None, None), (0.4, 1.3), (1.7, 3.2)]


def moving(count, *, height=64, width=64):
    """Blurred noise that slides to the left, 2 pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((2 * width, height)))
    return [np.ascontiguousarray(np.roll(wide, -2 * i, axis=1)[:, :width]) for i in range(count)]


def noisy_tone(duration_s):
    sound = tone(duration_s=duration_s)
    noise = np.random.default_rng(1).standard_normal(len(sound)) / 20
    return (sound + noise).astype(np.float32)


KINDS = {
    "with B-frames": ("a.mp4", 32, 4.0, {}),
    "several key frames": ("a.mp4", 64, 8.0, {"gop": 12}),
    "long, by seeking": ("a.mp4", 130, 16.0, {"gop": 10}),
    "long in mkv": ("a.mkv", 130, 16.0, {"gop": 10}),
    "rotated": ("a.mp4", 16, 2.0, {"rotation": 90}),
    "variable rate": ("a.mp4", 5, 4.0, {"ticks": [0, 1, 2, 10, 30]}),
    "no sound": ("a.mp4", 16, None, {}),
    "sound longer": ("a.mp4", 8, 4.0, {}),
    "sound shorter": ("a.mkv", 32, 1.0, {}),
    "sound later": ("a.mp4", 16, 1.0, {"sound_pts": 8000}),
    "sound only": ("a.m4a", None, 4.0, {}),
    "webm": ("a.webm", 32, 4.0, {"codecs": ("libvpx-vp9", "libopus")}),
    "mpeg-ts": ("a.ts", 32, 4.0, {"gop": 8}),
    "avi without stamps": ("a.avi", 32, 4.0, {"codecs": ("mpeg4", "libmp3lame")}),
    "fragmented": ("a.mp4", 32, 4.0, {"gop": 8, "options": {"movflags": "frag_keyframe"}}),
}


@pytest.fixture(params=KINDS)
def clip(request, make_clip):
    name, num_frames, sound_s, options = KINDS[request.param]
    pictures = None if num_frames is None else moving(num_frames)
    return make_clip(name, pictures, sound=sound_s and noisy_tone(sound_s), **options)


def requests_of(path, span=(None, None)):
    start_s, end_s = span
    return [
        Request(MediaItem(kind, str(path), start_s=start_s, end_s=end_s), kind) for kind in SPECS
    ]


def read_alone(request):
    """A loader of its own for every item; the reason if there is nothing to read."""
    try:
        return MediaLoader(SPECS).load(request.item, branch=request.branch)
    except MediaError as error:
        return error.reason


def assert_same(ours, theirs):
    for name in ("pixels", "mel"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one is other is None or torch.equal(one, other)
    assert (ours.times_s, ours.content_hash) == (theirs.times_s, theirs.content_hash)


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("storage", ["in memory", "on the disk"])
def test_read_together_is_read_alone(clip, span, storage, monkeypatch):
    requests = requests_of(clip, span)
    alone = {i: read_alone(request) for i, request in enumerate(requests)}
    there = [i for i, item in alone.items() if not isinstance(item, str)]
    if storage == "on the disk":
        # So are files that are too long to be kept.
        monkeypatch.setattr(containers, "HELD_BYTES", 0)
        monkeypatch.setattr(survey, "KEPT_BYTES", 0)
    together = MediaLoader(SPECS).load_all([requests[i] for i in there])
    for i, item in zip(there, together, strict=True):
        assert_same(item, alone[i])


@pytest.mark.parametrize("order", [1, -1], ids=["pictures first", "sound first"])
def test_a_clip_with_sound_is_opened_and_demuxed_once(make_clip, monkeypatch, order):
    path = make_clip("a.mp4", moving(16), sound=tone())
    num_opened, num_read = [], []
    really_open, really_read = av.open, media_file.MediaFile._read

    def counted_open(*arguments, **options):
        num_opened.append(1)
        return really_open(*arguments, **options)

    def counted_read(self, *kinds):
        num_read.append(kinds)
        return really_read(self, *kinds)

    monkeypatch.setattr(av, "open", counted_open)
    monkeypatch.setattr(media_file.MediaFile, "_read", counted_read)
    limits = MediaLimits(max_duration_s=10, max_pixels=10**6)
    loaded = MediaLoader(SPECS, limits=limits).load_all(requests_of(path)[::order])
    assert [item.kind for item in loaded] == ["video", "audio"][::order]
    assert len(num_opened) == 1
    assert num_read == [("video", "audio")]


def test_a_short_file_is_read_from_its_disk_once(make_clip, monkeypatch):
    path = make_clip("a.mp4", moving(16), sound=tone())
    content = path.read_bytes()
    times_read = []

    def read_bytes(self):
        times_read.append(self)
        path.unlink()
        return content

    monkeypatch.setattr(type(path), "read_bytes", read_bytes)
    video, audio = MediaLoader(SPECS).load_all(requests_of(path))
    assert times_read == [path]
    assert video.content_hash == audio.content_hash is not None


def test_the_same_kind_twice_and_other_spans_do_not_disturb_each_other(make_clip):
    path = make_clip("a.webm", moving(32), sound=noisy_tone(4), codecs=("libvpx-vp9", "libopus"))
    requests = [request for span in (*SPANS, (None, None)) for request in requests_of(path, span)]
    for request, item in zip(requests, MediaLoader(SPECS).load_all(requests), strict=True):
        assert_same(item, read_alone(request))


def test_the_file_at_fault_is_named_among_several(make_clip, tmp_path):
    good = make_clip("good.mp4", moving(4), sound=tone())
    (tmp_path / "bad.mp4").write_bytes(b"text" * 99)
    with pytest.raises(MediaError, match="bad.mp4: cannot be opened"):
        MediaLoader(SPECS).load_all(requests_of(good) + requests_of(tmp_path / "bad.mp4"))
