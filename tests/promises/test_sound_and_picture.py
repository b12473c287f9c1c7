"""Promise: sound and picture stay together, whatever container, codec delay or span.

In every clip the screen flashes for one frame, and a beep sets in, at the same known seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from made_media import write_clip

from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, Shape, VideoSpec
from video_llama.processors.audio import read_audio
from video_llama.processors.media import MediaLoader, Request
from video_llama.processors.media_file import MediaFile
from video_llama.processors.video import read_frames

pytestmark = pytest.mark.slow

FPS = 25
FRAME_S = 1 / FPS
RATE_HZ = 16000
LENGTH_S = 5.0
MOMENTS_S = (1.0, 2.52, 4.0)
BEEP_S = 0.05
SPANS = {
    "all": (None, None),
    "from the beginning": (0.0, 1.5),
    "the middle": (2.2, 3.1),
    "to the end": (3.7, None),
}


@dataclass(frozen=True)
class Kind:
    """How a clip is made.

    Attributes:
        name: of the file.
        options: of `write_clip`.
        later_s: by how much a stream is moved behind the other.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    later_s: dict[str, float] = field(default_factory=dict)


VP9 = {"codecs": ("libvpx-vp9", "libopus")}
KINDS = {
    "mp4 with the delay of AAC": Kind("a.mp4"),
    "mov": Kind("a.mov"),
    "mp4 with Opus": Kind("a.mp4", {"codecs": ("libx264", "libopus")}),
    "mp4 with MP3": Kind("a.mp4", {"codecs": ("libx264", "libmp3lame")}),
    "fragmented mp4": Kind("a.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mp4 that begins at 3 s": Kind("a.mp4", {"options": {"output_ts_offset": "3"}}),
    "webm": Kind("a.webm", VP9),
    "mkv": Kind("a.mkv"),
    "mkv with Opus": Kind("a.mkv", {"codecs": ("libx264", "libopus")}),
    "mkv with FLAC": Kind("a.mkv", {"codecs": ("libx264", "flac")}),
    "mpeg-ts that begins at 300 s": Kind("a.ts", {"options": {"output_ts_offset": "300"}}),
    "flv": Kind("a.flv"),
    "mp4, sound later": Kind("a.mp4", later_s={"audio": 0.4}),
    "mkv, sound later": Kind("a.mkv", later_s={"audio": 0.4}),
    "webm, sound later": Kind("a.webm", VP9, later_s={"audio": 0.4}),
    "mp4, pictures later": Kind("a.mp4", later_s={"video": 0.4}),
    "mpeg-ts, pictures later": Kind("a.ts", later_s={"video": 0.4}),
}


def write_flashes(path: Path, *, ticks: list[int] | None = None, **options) -> Path:
    """Write a clip; `ticks` leaves out the frames that are not named."""
    shown = range(round(LENGTH_S * FPS)) if ticks is None else ticks
    bright = {round(moment_s * FPS) for moment_s in MOMENTS_S}
    pictures = [np.full((48, 64, 3), 235 if i in bright else 20, dtype=np.uint8) for i in shown]
    sound = np.zeros(round(LENGTH_S * RATE_HZ), dtype=np.float32)
    beep = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(round(BEEP_S * RATE_HZ)) / RATE_HZ)
    for moment_s in MOMENTS_S:
        first = round(moment_s * RATE_HZ)
        sound[first : first + len(beep)] = beep
    return write_clip(path, pictures, fps=FPS, ticks=ticks, sound=sound, **options)


def move_streams(path: Path, moved: Path, *, later_s: dict[str, float]) -> Path:
    """Copy packets into another file, those of some streams later."""
    with av.open(str(path)) as source, av.open(str(moved), mode="w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                ticks = round(later_s.get(packet.stream.type, 0.0) / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return moved


def flashes_of(media: MediaFile, *, span: tuple[float | None, float | None]) -> list[float]:
    """Return the seconds of the bright frames."""
    clip = read_frames(
        media, num_frames=1000, policy="segment_start", start_s=span[0], end_s=span[1]
    )
    means = clip.frames.reshape(len(clip.frames), -1).mean(axis=1)
    return [clip.times_s[i] for i in np.flatnonzero(means > 128)]


def beeps_of(media: MediaFile, *, span: tuple[float | None, float | None]) -> list[float]:
    """Return the seconds at which a beep sets in."""
    waveform = read_audio(media, sample_rate_hz=RATE_HZ, start_s=span[0], end_s=span[1])
    loud = np.flatnonzero(waveform.abs().numpy() > 0.3)
    first = [i for i, before in zip(loud, [-RATE_HZ, *loud], strict=False) if i - before > 2000]
    return [(span[0] or 0.0) + i / RATE_HZ for i in first]


def within(moments_s: tuple[float, ...], span: tuple[float | None, float | None]) -> list[float]:
    start_s, end_s = span[0] or 0.0, LENGTH_S + 1 if span[1] is None else span[1]
    return [moment_s for moment_s in moments_s if start_s <= moment_s < end_s]


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory) -> tuple[Path, float]:
    """A clip, and by how much its beeps come after its flashes."""
    kind = KINDS[request.param]
    path = tmp_path_factory.mktemp("flashes") / kind.name
    if kind.later_s:
        # Of mkv the order of decoding is not known, so mp4 is what is copied.
        source = path.with_name("source.webm" if path.suffix == ".webm" else "source.mp4")
        move_streams(write_flashes(source, **kind.options), path, later_s=kind.later_s)
    else:
        write_flashes(path, **kind.options)
    return path, kind.later_s.get("audio", 0.0) - kind.later_s.get("video", 0.0)


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_flash_and_beep_are_within_one_frame(made, span):
    path, beeps_later_s = made
    with MediaFile(path) as media:
        flashes_s, beeps_s = flashes_of(media, span=span), beeps_of(media, span=span)
    beeps_at_s = tuple(moment_s + beeps_later_s for moment_s in MOMENTS_S)
    # Second zero is the first picture.
    assert flashes_s == pytest.approx(within(MOMENTS_S, span), abs=0.002)
    assert beeps_s == pytest.approx(within(beeps_at_s, span), abs=FRAME_S)


def test_frames_left_out_leave_the_others_with_their_beeps(tmp_path):
    """The rate varies between 2.5 and 25 frames a second."""
    ticks = sorted({*range(0, 125, 10), *range(60, 80), *(round(m * FPS) for m in MOMENTS_S)})
    path = write_flashes(tmp_path / "a.mp4", ticks=ticks)
    with MediaFile(path) as media:
        assert flashes_of(media, span=(None, None)) == pytest.approx(MOMENTS_S)
        assert beeps_of(media, span=(None, None)) == pytest.approx(MOMENTS_S, abs=FRAME_S)


def test_a_beginning_cut_off_by_an_edit_list_is_cut_off_both(tmp_path):
    """Moving everything to 0.5 s before zero makes the writer hide what lies before zero."""
    path = write_flashes(tmp_path / "a.mp4", options={"output_ts_offset": "-0.5"})
    moments_s = [moment_s - 0.5 for moment_s in MOMENTS_S]
    with MediaFile(path) as media:
        flashes_s = flashes_of(media, span=(None, None))
        beeps_s = beeps_of(media, span=(None, None))
    assert flashes_s == pytest.approx(moments_s, abs=FRAME_S)
    assert beeps_s == pytest.approx(flashes_s, abs=FRAME_S)


def test_the_encoders_are_fed_flash_and_beep_of_the_same_second(tmp_path):
    shape = Shape(num_steps=1, num_tokens=1, width=1)
    video = VideoSpec(125, 32, (0.0,) * 3, (1.0,) * 3)
    audio = AudioSpec(125, FRAME_S, RATE_HZ, 32, 2, 0.0, 1.0, "consecutive")
    specs = {
        "video": BranchSpec("video", ("video",), video, shape, int),
        "audio": BranchSpec("audio", ("audio",), audio, shape, int),
    }
    path = str(write_flashes(tmp_path / "a.mp4"))
    frames, sound = MediaLoader(specs).load_all([Request(MediaItem(k, path), k) for k in specs])
    bright = torch.nonzero(frames.pixels.mean(dim=(1, 2, 3)) > 0.5).flatten()
    loudness = sound.mel[..., 0].amax(dim=(1, 2))
    for i, moment_s in zip(bright, MOMENTS_S, strict=True):
        assert frames.times_s[i] == pytest.approx(moment_s)
        step = sound.times_s.index(pytest.approx(moment_s))
        assert loudness[step] > loudness[step - 2] + 3
