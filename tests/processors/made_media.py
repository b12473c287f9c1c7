"""Tiny real media files, written with PyAV the moment a test asks for them; and the goldens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GOLDENS = Path(__file__).parent.parent / "goldens" / "processors"


def shade(i, *, height=64, width=64):
    """A grey picture whose value tells its index: 12 * i."""
    return np.full((height, width, 3), 12 * i, dtype=np.uint8)


def index_of(picture):
    """Invert `shade`, over the losses of a codec."""
    return round(float(picture.mean()) / 12)


def tone(*, rate_hz=16000, duration_s=2.0, frequency_hz=440.0):
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray] | None = None,
    *,
    fps: int = 8,
    ticks: Sequence[int] | None = None,
    sound: np.ndarray | None = None,
    sound_pts: int = 0,
    rotation: int = 0,
    codecs: tuple[str, str] = ("libx264", "aac"),
    gop: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write pictures (time stamps `ticks` in units of 1/fps) and 16 kHz mono sound."""
    with av.open(str(path), mode="w", options=options or {}) as container:
        video = audio = None
        if pictures is not None:
            video = container.add_stream(codecs[0], rate=fps)
            video.height, video.width = pictures[0].shape[:2]
            odd = pictures[0].shape[0] % 2 or pictures[0].shape[1] % 2
            video.pix_fmt = "yuv444p" if odd else "yuv420p"
            video.thread_count = 1
            video.time_base = Fraction(1, fps)
            if gop:
                video.gop_size = gop
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            rate_hz = 48000 if codecs[1] == "libopus" else 16000
            audio = container.add_stream(codecs[1], rate=rate_hz, layout="mono")
        if video is not None:
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.time_base = Fraction(1, fps)
                frame.pts = i if ticks is None else ticks[i]
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = 16000, sound_pts
            block.time_base = Fraction(1, 16000)
            resampler = av.AudioResampler(format=audio.format, layout="mono", rate=audio.rate)
            for piece in resampler.resample(block):
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def silence(num_frames: int) -> bytes:
    """Return AAC of nothing: 64 ms in a few bytes, so many times."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        block = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        block.sample_rate = 16000
        for plane in block.planes:
            plane.update(bytes(plane.buffer_size))
        for _ in range(4):
            container.mux(stream.encode(block))
        container.mux(stream.encode())
    content = buffer.getvalue()
    return content[content.rindex(b"\xff\xf1") :] * num_frames
