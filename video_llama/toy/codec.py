"""Clips as real files: frames and sound to mp4 and back, sound to wav, frames to jpg.

Settings are fixed, and so are the bytes on one machine: one thread, no time stamps. Knows nothing
of scenes.

Shapes: T frames, H = W pixels, N samples.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

# x264's macroblock tree reads past the edge of pictures as small as ours, so the same frames would
# not always give the same file; without lookahead there is no tree.
VIDEO_OPTIONS = {"preset": "veryfast", "crf": "20", "x264-params": "rc-lookahead=0:mbtree=0"}
AUDIO_OPTIONS = {"aac_coder": "fast", "aac_tns": "0"}
AUDIO_BITS_PER_S = 32_000


def encode_mp4(
    frames: NDArray[np.uint8],
    *,
    frames_per_s: int,
    waveform: NDArray[np.float32] | None = None,
    sample_rate_hz: int = 16_000,
) -> bytes:
    """Make an H.264 mp4, with an AAC mono track if there is sound.

    Args:
        frames: uint8[T, H, W, 3], red, green, blue; H and W even.
        frames_per_s: rate.
        waveform: float32[N], -1..1, None for a clip without a sound track.
        sample_rate_hz: of the waveform.

    Returns:
        The file's bytes.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=frames_per_s, options=VIDEO_OPTIONS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        # All streams must be known before the first packet.
        track = None if waveform is None else _add_track(container, sample_rate_hz)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if track is not None and waveform is not None:
            _mux_sound(container, track, waveform=waveform)
    return file.getvalue()


def encode_m4a(waveform: NDArray[np.float32], *, sample_rate_hz: int = 16_000) -> bytes:
    """Make a file of the AAC track alone, as `encode_mp4` would."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = _add_track(container, sample_rate_hz)
        _mux_sound(container, track, waveform=waveform)
    return file.getvalue()


def decode_frames(mp4: bytes) -> NDArray[np.uint8]:
    """Read all frames of an mp4 back: uint8[T, H, W, 3]."""
    with av.open(io.BytesIO(mp4), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8, copy=False)


def decode_sound(mp4: bytes) -> NDArray[np.float32]:
    """Read the mono track of an mp4 back: float32[N], with up to one codec frame of padding."""
    with av.open(io.BytesIO(mp4), "r") as container:
        pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(pieces).astype(np.float32)


def write_wav(path: Path, waveform: NDArray[np.float32], *, sample_rate_hz: int) -> None:
    """Write a mono 16-bit wav file."""
    import soundfile

    soundfile.write(path, waveform, sample_rate_hz, subtype="PCM_16", format="WAV")


def write_jpg(path: Path, picture: NDArray[np.uint8], *, quality: int = 92) -> None:
    """Write one frame, uint8[H, W, 3], as a jpg file."""
    from PIL import Image

    Image.fromarray(picture).save(path, format="JPEG", quality=quality)


def _add_track(container: OutputContainer, sample_rate_hz: int) -> AudioStream:
    """Open an AAC mono track."""
    track = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options=AUDIO_OPTIONS)
    track.bit_rate = AUDIO_BITS_PER_S
    return track


def _mux_sound(
    container: OutputContainer, track: AudioStream, *, waveform: NDArray[np.float32]
) -> None:
    """Encode a waveform into its track."""
    # PyAV cuts a sound into the codec's frames, for less than a call for each costs; it takes no
    # sound of no length.
    if len(waveform):
        samples = np.ascontiguousarray(waveform[None])
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = track.rate, 0
        sound.time_base = Fraction(1, track.rate)
        container.mux(track.encode(sound))
    container.mux(track.encode())
