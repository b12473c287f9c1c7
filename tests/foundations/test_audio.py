"""The shipped toy ears and the eye that goes with them, and the truth they learn from."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from video_llama.common.weights import load_weights, read_state
from video_llama.foundations.audio import (
    IMAGEBIND_FILE,
    VISION_CONFIG,
    AudioRecipe,
    class_means,
    kinds_of,
    train_audio,
)
from video_llama.foundations.fit import Schedule, Trained
from video_llama.foundations.frames import make_frames, normalise
from video_llama.foundations.listener import AUDIO_CONFIG, audio_spec, embed
from video_llama.foundations.segments import (
    NONE,
    NUM_PITCH_BINS,
    make_sounds,
    make_voices,
    pitch_bin,
    truth_of,
)
from video_llama.models.encoders.imagebind import ImageBind
from video_llama.toy.scenes import Sound
from video_llama.toy.sound import synthesize

SHIPPED = Path(str(importlib.resources.files("video_llama") / "foundations" / "toy"))
STEP = Schedule(num_steps=2, batch_size=4, lr=1e-3)
TINY = AudioRecipe(3, 2, 1, 1, 3, 2, STEP, STEP)


def shipped(config: ImageBind.Config) -> ImageBind:
    encoder = ImageBind(config)
    state = read_state(SHIPPED / IMAGEBIND_FILE)
    load_weights(encoder, state, key_map=encoder.key_map(), source=IMAGEBIND_FILE)
    return encoder.eval()


@pytest.fixture(scope="module")
def ear() -> ImageBind:
    return shipped(AUDIO_CONFIG)


@pytest.fixture(scope="module")
def eye() -> ImageBind:
    return shipped(VISION_CONFIG)


def truth(sound: Sound) -> dict[str, list[float]]:
    told = truth_of(sound, wave=synthesize(sound))
    return {name: values.tolist() for name, values in told.items()}


def test_a_pip_is_in_its_segment_for_two_fifths_of_it():
    told = truth(Sound("pip", "high", 1000.0, "midway", 0.9, seed=1))
    # 0.9 to 1.0 s: the fourth quarter second, from 0.75 s on; it sounds from 0.6 of it to its end.
    assert told["on_share"] == pytest.approx([0, 0, 0, 0.4, 0, 0, 0, 0], abs=0.03)
    assert told["onsets"] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert told["on_middle"][3] == pytest.approx(0.8, abs=0.02)
    assert told["pitch"] == [NONE] * 3 + [pitch_bin(1000.0)] + [NONE] * 4


def test_a_steady_tone_begins_once():
    told = truth(Sound("steady", "low", 300.0, seed=2))
    assert told["onsets"] == [1] + [0] * 7
    assert told["on_share"] == pytest.approx([1.0] * 8)
    assert told["glide"] == [1] * 8


def test_fast_beeps_begin_twice_in_a_quarter_of_a_second():
    told = truth(Sound("fast beeps", "low", 300.0, seed=3))
    assert sum(told["onsets"]) in (15, 16)
    assert told["on_share"] == pytest.approx([0.5] * 8, abs=0.15)


def test_a_rising_tone_climbs_through_the_bins():
    told = truth(Sound("rising", seed=4))
    assert told["glide"] == [2] * 8
    assert told["pitch"] == sorted(told["pitch"])
    assert told["pitch"][-1] - told["pitch"][0] >= 7


def test_noise_is_loud_and_has_no_tone():
    told = truth(Sound("noise", seed=5))
    assert told["is_noise"] == [1] * 8
    assert told["pitch"] == [NONE] * 8
    # At least 0.12 * 0.4 * 0.9 against 1e-4: more than two and a half powers of ten.
    assert min(told["loudness"]) > 2.5


def test_bins_of_pitch_cover_the_range_in_equal_ratios():
    assert pitch_bin(220.0) == 0
    assert pitch_bin(1299.0) == NUM_PITCH_BINS - 1
    # The middle of 220 to 1300 Hz in ratios is the root of their product, 534.8 Hz.
    assert (pitch_bin(530.0), pitch_bin(540.0)) == (NUM_PITCH_BINS // 2 - 1, NUM_PITCH_BINS // 2)


def test_segments_have_the_shape_the_encoder_is_fed():
    segments = make_sounds(2, seed=0, spec=audio_spec(), split="valid")
    assert segments.mel.shape == (16, 1, 64, 25)
    assert np.isfinite(segments.mel.numpy()).all()


def test_the_file_has_the_published_names():
    names = set(read_state(SHIPPED / IMAGEBIND_FILE))
    assert "modality_preprocessors.audio.rgbt_stem.proj.weight" in names
    assert "modality_trunks.vision.pre_transformer_layer.0.weight" in names
    assert "modality_postprocessors.audio.1.log_logit_scale" in names


@torch.no_grad()
def test_voices_it_never_heard_are_told_apart(ear: ImageBind):
    spec = audio_spec()
    known = make_voices(1, seed=501, spec=spec, split="train")
    unknown = make_voices(1, seed=502, spec=spec, split="valid")
    middles = class_means(embed(ear, known.mel), known.voice)
    found = (embed(ear, unknown.mel) @ middles.T).argmax(dim=1)
    assert (found == unknown.voice).float().mean() > 0.95


@torch.no_grad()
def test_pictures_of_things_lie_next_to_their_voices(ear: ImageBind, eye: ImageBind):
    voices = make_voices(1, seed=503, spec=audio_spec(), split="valid")
    middles = class_means(embed(ear, voices.mel), voices.voice)
    frames = make_frames(60, seed=503, split="valid")
    kinds = kinds_of(frames)
    alone = kinds.sum(dim=1) == 1
    seen = embed(eye, normalise(frames.pixels[alone]))
    found = (seen @ middles.T).argmax(dim=1)
    assert (found == kinds[alone].argmax(dim=1)).float().mean() > 0.9


@torch.no_grad()
def test_sound_comes_out_twenty_times_as_long_as_pictures(ear: ImageBind, eye: ImageBind):
    heard = embed(ear, torch.randn(3, 1, 64, 25))
    seen = embed(eye, torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(heard.norm(dim=1), torch.full((3,), 20.0))
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(3))


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    torch.set_num_threads(1)
    return train_audio(seed=6, recipe=TINY)


def test_equal_seeds_give_equal_weights(hardly_trained):
    again = train_audio(seed=6, recipe=TINY).files[IMAGEBIND_FILE]
    for name, tensor in hardly_trained.files[IMAGEBIND_FILE].items():
        assert torch.equal(tensor, again[name]), name


def test_gates_are_missed_by_ears_that_learned_nothing(hardly_trained):
    assert not all(gate.is_passed for gate in hardly_trained.gates)


def test_the_middle_of_a_kind_is_the_direction_of_its_members():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    middles = class_means(vectors, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(middles[0], functional.normalize(torch.ones(2), dim=0))
    torch.testing.assert_close(middles[1], torch.tensor([0.0, 1.0]))
