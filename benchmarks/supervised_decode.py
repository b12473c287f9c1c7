"""What decoding in a supervised child costs against decoding in the process itself.

    OMP_NUM_THREADS=1 python benchmarks/supervised_decode.py

Both ways take turns on the same clip, picture and sound together, as a training reads them; prints
the rows of `RESULTS.md`. Linux only, for the clocks of other processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, Shape, VideoSpec
from video_llama.processors.media import MediaLoader, Request
from video_llama.processors.supervised import SupervisedLoader


@dataclass(frozen=True)
class Clip:
    """A clip to decode.

    Attributes:
        name: shown in the table.
        height: of its pictures, in pixels; they are 16:9, the toy's are square.
        num_frames: in it.
        fps: of them.
        image_size: side of what the encoder is fed.
        rounds: how often it is decoded each way.
    """

    name: str
    height: int
    num_frames: int
    fps: int
    image_size: int
    rounds: int


CLIPS = (
    Clip("toy, 64 x 64, 2 s", 64, 16, 8, 64, 600),
    Clip("360p, 10 s", 360, 250, 25, 224, 30),
    Clip("720p, 10 s", 720, 250, 25, 224, 15),
)


PUBLISHED_MEL = {"clip_s": 2.0, "num_mel_bins": 128, "num_mel_frames": 204}


@dataclass(frozen=True)
class Cost:
    """Medians of one way, in milliseconds a clip: on the clock, and of processors."""

    wall_ms: float
    cpu_ms: float


def write(clip: Clip, path: Path) -> None:
    """Write moving noise with a tone."""
    width = clip.height if clip.height == clip.image_size else clip.height * 16 // 9
    noise = np.random.default_rng(0).integers(0, 256, (clip.height // 8, width // 8, 3), np.uint8)
    picture = noise.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=clip.fps)
        video.height, video.width = picture.shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(clip.num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * number, axis=1), format="rgb24")
            container.mux(video.encode(frame))
        seconds = clip.num_frames / clip.fps
        tone = np.sin(np.arange(int(16000 * seconds), dtype=np.float32) / 6)[None]
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode())


def specs_of(clip: Clip) -> dict[str, BranchSpec]:
    """Return the published branches, with pictures of the clip's size."""
    half = (0.5, 0.5, 0.5)
    video = VideoSpec(8, clip.image_size, half, half)
    is_toy = clip.height == clip.image_size
    mel = {"clip_s": 0.25, "num_mel_bins": 64, "num_mel_frames": 25} if is_toy else PUBLISHED_MEL
    audio = AudioSpec(num_clips=8, sample_rate_hz=16000, mean=-4.0, std=9.0, **mel)
    return {
        "video": BranchSpec("video", ("video",), video, Shape(8, 1, 1), int),
        "audio": BranchSpec("audio", ("audio",), audio, Shape(8, 1, 1), int),
    }


def cpu_s(pid: int) -> float:
    """Return the processor time a process has had, by its own clock of the kernel's."""
    return time.clock_gettime((~pid << 3) | 2)


def measure(work: Callable[[], object], *, pids: list[int]) -> Cost:
    """Do it once."""
    before_s = sum(map(cpu_s, pids))
    started_s = time.perf_counter()
    work()
    wall_s = time.perf_counter() - started_s
    return Cost(wall_s * 1e3, (sum(map(cpu_s, pids)) - before_s) * 1e3)


def median(costs: list[Cost]) -> Cost:
    """Return the median of both."""
    return Cost(
        statistics.median(cost.wall_ms for cost in costs),
        statistics.median(cost.cpu_ms for cost in costs),
    )


def compare(clip: Clip, path: Path) -> tuple[Cost, Cost]:
    """Return what a clip costs here, and in a child."""
    plain = MediaLoader(specs_of(clip))
    supervised = SupervisedLoader(plain, timeout_s=60)
    requests = [
        Request(MediaItem("video", str(path)), "video"),
        Request(MediaItem("audio", str(path)), "audio"),
    ]
    for one, other in zip(plain.load_all(requests), supervised.load_all(requests), strict=True):
        assert other.times_s == one.times_s
    here, child = [], []
    for _ in range(clip.rounds):
        here.append(measure(lambda: plain.load_all(requests), pids=[os.getpid()]))
        pids = [os.getpid(), supervised.pid or 0]
        child.append(measure(lambda: supervised.load_all(requests), pids=pids))
    supervised.close()
    return median(here), median(child)


def main() -> None:
    """Print a row per clip."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print(
        "| clip | here, ms | in a child, ms | ratio | here, CPU ms | in a child, CPU ms | ratio |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for clip in CLIPS:
            path = Path(folder) / f"{clip.height}.mp4"
            write(clip, path)
            here, child = compare(clip, path)
            print(
                f"| {clip.name} | {here.wall_ms:.2f} | {child.wall_ms:.2f} | "
                f"{child.wall_ms / here.wall_ms:.2f} | {here.cpu_ms:.2f} | {child.cpu_ms:.2f} | "
                f"{child.cpu_ms / here.cpu_ms:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
