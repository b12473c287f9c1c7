"""The readers of the real data sets read a toy world, every sample of it, down to the media."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from video_llama.common.registry import registry
from video_llama.common.types import AudioSpec
from video_llama.datasets.base import DatasetReader
from video_llama.foundations.listener import audio_spec
from video_llama.processors.audio import log_mel, read_audio
from video_llama.toy.plan import Counts, sample_split
from video_llama.toy.sound import synthesize
from video_llama.toy.words import PITCHED_SOUNDS
from video_llama.toy.world import write_world

COUNTS = Counts(
    train=6, valid=4, test=12, composition=4, train_pictures=6, valid_pictures=2, voices=1
)
BOTH = ("video", "audio")

READERS = {
    "webvid/visual/train.csv": ("webvid", "videos", ("video",)),
    "webvid/sound/valid.csv": ("webvid", "videos", ("audio",)),
    "webvid/joint/train.csv": ("webvid", "videos", BOTH),
    "videochat_instruct/visual/train.json": ("video_instruct", "videos", ("video",)),
    "videochat_instruct/joint/valid.json": ("video_instruct", "videos", BOTH),
    "videochat_instruct/cross_modal/train.json": ("video_instruct", "videos", BOTH),
    "pictures/train/filter_cap.json": ("cc_sbu_align", "pictures/train", None),
    "pictures/valid/llava_instruct.json": ("llava_instruct", "pictures/valid/image", None),
    "questions/test/visual/questions.json": ("mvbench", "videos", ("video",)),
    "questions/composition/joint/questions.json": ("mvbench", "videos", BOTH),
    "voices/questions.json": ("mvbench", "voices/sound", ("audio",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(
        tmp_path_factory.mktemp("read") / "w", seed=1, counts=COUNTS, num_workers=1
    ).folder


def open_reader(folder: Path, annotations: str) -> DatasetReader:
    name, media, streams = READERS[annotations]
    reader = registry.get_dataset_class(name)
    told = {"annotations": str(folder / annotations), "media": str(folder / media)}
    if streams is not None and "streams" in {field.name for field in fields(reader.Config)}:
        told["streams"] = streams
    return reader(reader.Config(**told), name="toy")


@pytest.mark.parametrize("annotations", READERS)
def test_every_sample_names_files_that_are_there(folder: Path, annotations: str):
    reader = open_reader(folder, annotations)
    assert reader.missing() == []
    for index in range(len(reader)):
        sample = reader.sample(index)
        assert sample.media
        assert all(Path(item.path).is_file() for item in sample.media)


def test_a_question_keeps_its_kind_and_its_scene(folder: Path):
    reader = open_reader(folder, "questions/test/visual/questions.json")
    meta = reader.sample(0).meta
    assert {"kind", "key", "needs", "options", "answer"} <= set(meta)


def test_the_sound_of_a_clip_fills_eight_segments(folder: Path):
    spec = audio_spec()
    assert isinstance(spec, AudioSpec)
    clip = folder / "videos" / "train_000" / "train-1-000000.mp4"
    waveform = read_audio(clip, sample_rate_hz=spec.sample_rate_hz)
    assert log_mel(waveform, spec).shape == (8, 1, 64, 25)


def test_the_sound_of_a_clip_is_in_time_with_its_pictures(folder: Path):
    # A shift by one codec frame of 1024 samples would put the two out of phase.
    for clip in sample_split("train", counts=COUNTS, seed=1).clips:
        read = read_audio(folder / "videos" / clip.path, sample_rate_hz=16_000).numpy()
        made = synthesize(clip.scene.sound)
        if clip.scene.sound.kind in PITCHED_SOUNDS:
            assert np.corrcoef(read, made)[0, 1] > 0.98
