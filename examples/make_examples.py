"""Make the example media of this folder: our own pictures and tones, free to use.

    python examples/make_examples.py [folder]

Files called `toy_...` are scenes of the toy world that are in none of its data sets, so the model
that ships with the package can talk about them; the others show what else can be read.

Byte-identical on every run with the same PyAV: one encoder thread, no dates, seeded noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_llama.toy.codec import encode_mp4, write_jpg
from video_llama.toy.codec import write_wav as write_toy_wav
from video_llama.toy.render import FRAMES_PER_S, render_clip, render_frames
from video_llama.toy.scenes import MIRROR_S, Event, Scene, Sound, Thing
from video_llama.toy.sound import SAMPLE_RATE_HZ, synthesize

Frames = list[NDArray[np.uint8]]

SILENCE = Sound("silence", seed=1)
BOUNCE = Scene(
    key="examples-bounce",
    kind="bounce",
    split="test",
    seed=0,
    things=(Thing("circle", "purple", "right", x=30.0, y=36.0, radius=9.5, speed=18.0),),
    event=Event("bounce", "late", time_s=1.42),
    sound=Sound("pip", "high", 1000.0, "late", pip_time_s=1.42, seed=3),
    background_seed=12,
)
CHANGE = Scene(
    key="examples-change",
    kind="change",
    split="test",
    seed=0,
    things=(Thing("star", "yellow", "up", x=34.0, y=34.0, radius=10.0, speed=16.0),),
    event=Event("colour_change", "early", time_s=0.33, colour="blue"),
    sound=SILENCE,
    background_seed=11,
)
PAIR = Scene(
    key="examples-pair",
    kind="pair",
    split="test",
    seed=0,
    things=(
        Thing("square", "green", "still", x=18.0, y=24.0, radius=8.8, speed=0.0),
        Thing("triangle", "red", "still", x=44.0, y=42.0, radius=9.0, speed=0.0),
    ),
    event=None,
    sound=SILENCE,
    background_seed=5,
)
BEEPS = Sound("slow beeps", "low", 300.0, seed=9)


def main() -> None:
    """Write all examples into the folder named on the command line, or next to this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    camera = draw_scene(width=1280, height=720, num_frames=75)
    chirp = draw_sound(sample_rate_hz=48000, duration_s=3.0)
    write_clip(folder / "camera_720p.mp4", camera, fps=25, sound=chirp, codecs=("libx264", "aac"))
    small = draw_scene(width=320, height=180, num_frames=24)
    write_clip(
        folder / "web.webm",
        small,
        fps=12,
        sound=chirp[: 2 * 48000],
        codecs=("libvpx-vp9", "libopus"),
    )
    Image.fromarray(small[0]).save(folder / "picture.jpg", quality=85)
    write_gif(folder / "animation.gif", draw_scene(width=160, height=90, num_frames=12), fps=5)
    write_wav(folder / "sound.wav", chirp[: 2 * 48000 : 3], sample_rate_hz=16000)
    write_toy_media(folder)


def write_toy_media(folder: Path) -> None:
    """Write a clip with sound, a silent clip, a picture and a sound of the toy world."""
    bounce, change = (render_clip(scene) for scene in (BOUNCE, CHANGE))
    clip = encode_mp4(bounce, frames_per_s=FRAMES_PER_S, waveform=synthesize(BOUNCE.sound))
    (folder / "toy_bounce.mp4").write_bytes(clip)
    (folder / "toy_silent.mp4").write_bytes(encode_mp4(change, frames_per_s=FRAMES_PER_S))
    write_jpg(folder / "toy_picture.jpg", render_frames(PAIR, times_s=(MIRROR_S,))[0])
    write_toy_wav(folder / "toy_sound.wav", synthesize(BEEPS), sample_rate_hz=SAMPLE_RATE_HZ)


def draw_scene(*, width: int, height: int, num_frames: int) -> Frames:
    """Draw a ball that rolls from left to right over a soft gradient, with camera noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / height
    ground = np.stack([60 + 60 * y, 110 + 40 * x * height / width, 150 - 70 * y], axis=-1)
    frames = []
    for i in range(num_frames):
        done = i / max(num_frames - 1, 1)
        centre = (0.2 + done * (width / height - 0.4), 0.65 - 0.1 * np.sin(6 * np.pi * done))
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.12**2
        picture = np.where(ball[..., None], np.array([225.0, 60.0, 45.0]), ground)
        picture = picture + generator.normal(0.0, 1.0, size=picture.shape)
        frames.append(picture.clip(0, 255).astype(np.uint8))
    return frames


def draw_sound(*, sample_rate_hz: int, duration_s: float) -> NDArray[np.float32]:
    """Return a tone that rises from 300 to 900 Hz in short beeps, float32[N]."""
    times_s = np.arange(int(duration_s * sample_rate_hz)) / sample_rate_hz
    phase = 2 * np.pi * (300 * times_s + 100 * times_s**2)
    beeps = np.clip(8 * np.sin(2 * np.pi * 2 * times_s), 0, 1)
    return (0.4 * np.sin(phase) * beeps).astype(np.float32)


def write_clip(
    path: Path,
    frames: Frames,
    *,
    fps: int,
    sound: NDArray[np.float32],
    codecs: tuple[str, str],
) -> None:
    """Write pictures and mono sound at 48 kHz into one file."""
    with av.open(str(path), mode="w", container_options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(codecs[0], rate=fps)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        video.options = {"crf": "30"}
        audio = container.add_stream(codecs[1], rate=48000, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 48000, 0
        resampler = av.AudioResampler(format=audio.format, layout="mono", rate=48000)
        for piece in resampler.resample(block):
            container.mux(audio.encode(piece))
        container.mux(audio.encode())


def write_gif(path: Path, frames: Frames, *, fps: int) -> None:
    """Write an animation that loops."""
    pictures = [Image.fromarray(frame).quantize(32) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // fps, loop=0)


def write_wav(path: Path, sound: NDArray[np.float32], *, sample_rate_hz: int) -> None:
    """Write mono 16 bit PCM."""
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("pcm_s16le", rate=sample_rate_hz, layout="mono")
        samples = np.round(sound * 32767).astype(np.int16)
        block = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        block.sample_rate = sample_rate_hz
        container.mux(stream.encode(block))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
