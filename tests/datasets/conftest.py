"""Real little files, some of them broken, and a tokenizer that can be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tables import BROKEN, NUM_CLIPS, write_table

from video_llama.common.types import AudioSpec, BranchSpec, Shape, VideoSpec
from video_llama.conversation.engines import Run
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.processors.media import MediaLoader


class CharacterEngine:
    """One token per character: 10 + its code point, so that lengths can be counted by hand."""

    size = 400

    def encode(self, text: str) -> Run:
        return Run([10 + ord(c) for c in text], [(i, i + 1) for i in range(len(text))])

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 10) for i in ids)

    def id_of(self, token: str) -> int | None:
        return None


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(
        engine=CharacterEngine(),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        pad_id=3,
        vocab_size=400,
        special_texts=("<s>", "</s>"),
    )


def slots_of_video(num_steps: int) -> int:
    return 4


def slots_of_audio(num_steps: int) -> int:
    return 2


@pytest.fixture(scope="session")
def specs() -> dict[str, BranchSpec]:
    """A video branch of 4 frames and 4 slots, an audio branch of 2 clips and 2 slots."""
    half = (0.5, 0.5, 0.5)
    video = VideoSpec(num_frames=4, image_size=16, mean=half, std=half)
    audio = AudioSpec(2, 0.25, 16000, num_mel_bins=16, num_mel_frames=25, mean=-4.0, std=9.0)
    return {
        "video": BranchSpec(
            "video", ("image", "video"), video, Shape(4, 3, 5), slots_of_video, "frozen-video"
        ),
        "audio": BranchSpec("audio", ("audio",), audio, Shape(2, 1, 7), slots_of_audio, "frozen-a"),
    }


@pytest.fixture(scope="session")
def media_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips page/0.mp4 .. page/5.mp4 of 6 frames with sound; number 2 is cut off."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "page").mkdir()
    for number in range(NUM_CLIPS):
        write_clip(folder / "page" / f"{number}.mp4", shade=30 * number, num_frames=6)
    broken = folder / "page" / f"{BROKEN}.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    write_clip(folder / "page" / "silent.mp4", shade=10, num_frames=6, sound=False)
    write_clip(folder / "page" / "one_frame.mp4", shade=10, num_frames=1)
    (folder / "image").mkdir()
    for name in ("1", "2", "COCO_train2014_000000000009"):
        Image.new("RGB", (20, 12), (200, 10, 10)).save(folder / "image" / f"{name}.jpg")
    return folder


def write_clip(path: Path, *, shade: int, num_frames: int, sound: bool = True) -> None:
    """Write H.264 frames at 8 per second, and half a second of AAC."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(num_frames):
            # Brighter to the right, so that a crop is another picture.
            column = (np.linspace(0, 80, 32) + shade + 3 * number).astype(np.uint8)
            pixels = np.broadcast_to(column[None, :, None], (32, 32, 3)).copy()
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            tone = np.sin(np.arange(8000) * 0.2 * (1 + shade / 100)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A WebVid table over the six clips."""
    path = tmp_path / "webvid.csv"
    write_table(path, [(str(i), f"Clip number {i}!", "page") for i in range(NUM_CLIPS)])
    return path


@pytest.fixture
def make_encoder(specs, tokenizer):
    def make(cache: FeatureCache | None = None, max_len: int = 200) -> SampleEncoder:
        text = TextSettings(
            template=get_template("vicuna_v0", frame_times=False),
            tokenizer=tokenizer,
            max_len=max_len,
        )
        return SampleEncoder(specs, text=text, reader=MediaLoader(specs), cache=cache)

    return make
