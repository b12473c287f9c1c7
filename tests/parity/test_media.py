"""Pixels, frames, captions and mels against the published processors, under their own switches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from closeness import assert_close, relative_error

from video_llama.common.types import AudioSpec, MediaItem, VideoSpec
from video_llama.conversation.templates import get_template
from video_llama.models.encoders.eva_vit_g import CLIP_MEAN, CLIP_STD
from video_llama.models.encoders.imagebind import MEL_MEAN, MEL_STD
from video_llama.processors.audio import clip_starts, log_mel, read_audio
from video_llama.processors.captions import BlipCaption
from video_llama.processors.media import MediaCompat
from video_llama.processors.pictures import read_picture
from video_llama.processors.transforms import crop_box, normalise, random_resized_crop, resize
from video_llama.processors.video import read_frames, sample_frames

GOLDENS = Path(__file__).parents[1] / "goldens" / "processors"
SAMPLERS = json.loads((GOLDENS / "samplers.json").read_text())
PROCESSORS = json.loads((GOLDENS / "processors.json").read_text())
MELS = json.loads((GOLDENS / "audio_mel.json").read_text())
SPEC = VideoSpec(num_frames=8, image_size=56, mean=CLIP_MEAN, std=CLIP_STD)
RELEASED = MediaCompat.released()
STEP = 1 / 255 / min(CLIP_STD)
"""What one step of a pixel's 255 becomes at most."""


def mel_spec(num_clips):
    return AudioSpec(
        num_clips=num_clips,
        clip_s=2.0,
        sample_rate_hz=16_000,
        num_mel_bins=128,
        num_mel_frames=204,
        mean=MEL_MEAN,
        std=MEL_STD,
    )


class TestVideo:
    def frames(self, tensors, name):
        """The uint8[T, H, W, 3] of a published [3, T, H, W]."""
        return tensors("processors/processors_video")[f"video.{name}_u8"].permute(1, 2, 3, 0)

    @pytest.mark.parametrize("name", ["noise", "smooth"])
    def test_evaluation_gives_the_published_pixels(self, name, tensors):
        expected = tensors("processors/processors_video")[f"video.eval.{name}"]
        found = normalise(self.frames(tensors, name).numpy(), SPEC).transpose(0, 1)
        assert_close(found, expected, kind="pixels")

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("name", ["noise", "smooth"])
    def test_a_training_crop_wraps_around_as_published(self, name, seed, tensors):
        case = f"video.train.{name}.seed{seed}"
        expected = tensors("processors/processors_video")[case]
        frames = self.frames(tensors, name).numpy()
        box = crop_box(frames.shape[1], width=frames.shape[2], seed=seed)
        assert [box.top, box.left, box.height, box.width] == PROCESSORS[case]["crop_ijhw"]
        crop = random_resized_crop(
            frames, image_size=56, seed=seed, overshoot=RELEASED.bicubic_overshoot
        )
        found = normalise(crop, SPEC).transpose(0, 1)
        difference = (found - expected).abs()
        # A value within 1e-5 of an integer may be cut to the step below.
        is_off = difference > 1e-5 * expected.abs().max()
        assert is_off.sum() <= 3
        assert difference.max() <= 1.001 * STEP
        assert_close(found[~is_off], expected[~is_off], kind="pixels")


class TestPictures:
    @pytest.mark.parametrize("size", [56, 84])
    def test_evaluation_gives_the_published_pixels(self, size, tensors):
        picture = read_picture(GOLDENS / "image.png")[None]
        found = normalise(resize(picture, image_size=size), SPEC)[0]
        expected = tensors("processors/processors_picture")[f"image.eval{size}"]
        assert_close(found, expected, kind="pixels")

    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_training_crop_gives_the_published_pixels(self, seed, tensors):
        case = f"image.train56.seed{seed}"
        picture = read_picture(GOLDENS / "image.png")[None]
        box = crop_box(picture.shape[1], width=picture.shape[2], seed=seed)
        assert [box.top, box.left, box.height, box.width] == PROCESSORS[case]["crop_ijhw"]
        crop = random_resized_crop(picture, image_size=56, seed=seed, method="bicubic_smooth")
        expected = tensors("processors/processors_picture")[case]
        assert_close(normalise(crop, SPEC)[0], expected, kind="pixels")


@pytest.mark.parametrize("case", PROCESSORS["pre_caption"], ids=lambda case: repr(case["text"][:9]))
def test_captions_are_cleaned_as_published(case):
    assert BlipCaption(BlipCaption.Config())(case["text"]) == case["out"]
    prompted = BlipCaption(BlipCaption.Config(prompt="a video of ", max_words=5))
    assert prompted(case["text"]) == case["out_prompt"]


class TestFrames:
    @pytest.mark.parametrize(
        "case",
        [case for case in SAMPLERS["uniform"] if case["total"]],
        ids=lambda case: f"{case['n_frms']}of{case['total']}",
    )
    def test_frames_and_the_sentence_of_their_seconds_are_the_published_ones(self, case):
        frames = sample_frames(case["total"], num_frames=case["n_frms"], policy="segment_start")
        assert frames.tolist() == case["indices"]
        times_s = tuple(int(i) / case["fps"] for i in frames)
        sentence = get_template("vicuna_v0_released").seconds_of(
            MediaItem("video", "v", times_s=times_s)
        )
        assert sentence + " " == case["msg"]

    @pytest.mark.parametrize("name", ["n8_hw56", "n4_hw56", "n100_hw-1"])
    def test_the_seconds_of_a_clip_are_the_published_ones(self, name):
        num_frames = int(name[1:].split("_")[0])
        clip = read_frames(GOLDENS / "clip.mp4", num_frames=num_frames, policy="segment_start")
        item = MediaItem("video", "v", times_s=clip.times_s)
        sentence = get_template("vicuna_v0_released").seconds_of(item)
        assert sentence + " " == SAMPLERS["clip"][name]["msg"]

    @pytest.mark.parametrize(
        "case", SAMPLERS["uniform_count_mismatch_scan"]["cases"], ids=lambda case: case["total"]
    )
    def test_where_rounding_gave_a_frame_too_many_it_is_left_out(self, case):
        frames = sample_frames(case["total"], num_frames=case["n_frms"], policy="segment_start")
        assert len(case["indices"]) == case["n_frms"] + 1
        assert frames.tolist() == case["indices"][:-1]

    @pytest.mark.parametrize(
        "case",
        SAMPLERS["headtail"],
        ids=lambda case: f"{case['n_frms']}of{case['total']}seed{case['seed']}",
    )
    def test_drawn_frames_are_the_published_ones_and_none_is_lost(self, case):
        frames = sample_frames(
            case["total"], num_frames=case["n_frms"], policy="headtail", seed=case["seed"]
        ).tolist()
        num_frames = min(case["n_frms"], case["total"])
        assert len(frames) == num_frames
        assert frames[: num_frames // 2] == case["indices"][: num_frames // 2]
        # Published, an odd number of frames loses one of the tail.
        assert num_frames % 2 or frames == case["indices"]


class TestSound:
    @pytest.mark.parametrize("name", [name for name in MELS if ".clips" in name])
    def test_mels_of_all_clips_are_the_published_ones(self, name, tensors):
        case = MELS[name]
        path = (GOLDENS / Path(case["file"]).name).with_suffix(".flac")
        spec = mel_spec(case["clips_per_video"])
        waveform = read_audio(path, sample_rate_hz=16_000, channels=RELEASED.channels)
        starts = clip_starts(
            waveform.shape[-1] / 16_000, num_clips=spec.num_clips, clip_s=2.0, policy="clips"
        )
        slices = [[int(start * 16_000), int((start + 2) * 16_000)] for start in starts]
        assert slices == case["sample_slices"]
        found = log_mel(waveform, spec, starts=starts, mean_removal=RELEASED.mean_removal)
        expected = tensors("processors/audio_mel")[f"{name}.mel"][0]
        assert_close(found, expected, kind="mels")

    def test_the_mel_before_normalisation_is_the_published_one(self, tensors):
        waveform = read_audio(GOLDENS / "dc_16k_mono_5s.flac", sample_rate_hz=16_000)[:32_000]
        found = log_mel(waveform, mel_spec(1))[0] * MEL_STD + MEL_MEAN
        expected = tensors("processors/audio_mel")["single.mel_unnormalised"]
        assert_close(found, expected, kind="mels")

    @pytest.mark.parametrize(
        "row", MELS["clip_sampler"], ids=lambda row: f"{row['clips']}in{row['duration']}s"
    )
    def test_clips_start_where_they_start_as_published(self, row):
        starts = clip_starts(row["duration"], num_clips=row["clips"], clip_s=2, policy="clips")
        ends = [start + 2 for start in starts]
        pairs = [[float(start), float(end)] for start, end in zip(starts, ends, strict=True)]
        assert pairs == row["timepoints"]

    def test_removing_the_mean_in_place_costs_what_it_costs_as_published(self):
        waveform = read_audio(GOLDENS / "dc_16k_mono_5s.flac", sample_rate_hz=16_000)
        copied, shared = (
            log_mel(waveform, mel_spec(8), mean_removal=rule) for rule in ("copy", "in_place")
        )
        effect = MELS["dc_inplace_effect_max_abs_diff"]
        assert relative_error((copied - shared).abs().max(), torch.tensor(effect)) <= 1e-4
