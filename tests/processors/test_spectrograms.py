"""Against the feature extractors of transformers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from made_media import tone
from transformers import ASTFeatureExtractor, ClapFeatureExtractor, WhisperFeatureExtractor

from video_llama.common.types import AudioSpec
from video_llama.processors.audio import log_mel
from video_llama.processors.spectrograms import MEL_RECIPES

WHISPER = AudioSpec(1, 3.0, 16000, 80, 300, -4.0, 4.0, "consecutive", "whisper")
AST = AudioSpec(1, 1.3, 16000, 128, 128, -4.2677393, 2 * 4.5689974, "consecutive")
CLAP = AudioSpec(1, 2.0, 48000, 64, 201, 0.0, 1.0, "consecutive", "clap")


def sound(duration_s, *, rate_hz):
    """A tone that fades, an octave above it later on, and a little noise."""
    wave = tone(rate_hz=rate_hz, duration_s=duration_s)
    times_s = np.arange(len(wave)) / rate_hz
    wave = wave * np.exp(-times_s) + 0.1 * np.sin(2 * np.pi * 880 * times_s) * (times_s > 0.3)
    noise = np.random.default_rng(0).normal(0, 0.01, len(wave))
    return (wave + noise).astype(np.float32)


def picture_of(wave, spec):
    return log_mel(torch.from_numpy(wave), spec, starts=[Fraction(0)])[0, 0]


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize("duration_s", [3.0, 1.7, 4.5, 0.01])
def test_whispers_pictures_are_those_of_transformers(duration_s, num_mel_bins):
    wave = sound(duration_s, rate_hz=16000)
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=3)
    expected = extractor(wave, sampling_rate=16000, return_tensors="pt").input_features[0]
    spec = AudioSpec(1, 3.0, 16000, num_mel_bins, 300, -4.0, 4.0, "consecutive", "whisper")
    torch.testing.assert_close(picture_of(wave, spec), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("duration_s", [0.5, 1.295, 3.0])
def test_asts_pictures_are_those_of_transformers(duration_s):
    wave = sound(duration_s, rate_hz=16000)
    extractor = ASTFeatureExtractor(num_mel_bins=128, max_length=128)
    expected = extractor(wave, sampling_rate=16000, return_tensors="pt").input_values[0]
    torch.testing.assert_close(picture_of(wave, AST), expected.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("duration_s", [2.0, 1.5, 0.7, 0.01])
def test_claps_pictures_are_those_of_transformers(duration_s):
    wave = sound(duration_s, rate_hz=48000)
    extractor = ClapFeatureExtractor(
        max_length_s=2, frequency_min=50, frequency_max=14000, truncation="rand_trunc"
    )
    expected = extractor(wave, sampling_rate=48000, return_tensors="pt").input_features[0, 0]
    torch.testing.assert_close(picture_of(wave, CLAP), expected.T.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", [WHISPER, AST, CLAP])
def test_a_long_sound_is_cut_into_clips_that_are_heard_alone(spec):
    wave = torch.from_numpy(sound(2.5 * spec.clip_s, rate_hz=spec.sample_rate_hz))
    starts = [Fraction(0), Fraction(spec.clip_s), 2 * Fraction(spec.clip_s)]
    together = log_mel(wave, spec, starts=starts)
    assert together.shape == (3, *spec.step_shape)
    size = round(spec.clip_s * spec.sample_rate_hz)
    for i, picture in enumerate(together):
        alone = log_mel(wave[i * size : (i + 1) * size], spec, starts=[Fraction(0)])[0]
        torch.testing.assert_close(picture, alone, atol=2e-4, rtol=0)


@pytest.mark.parametrize("spec", [WHISPER, CLAP])
def test_separate_channels_are_mixed(spec):
    wave = torch.from_numpy(sound(spec.clip_s, rate_hz=spec.sample_rate_hz))
    both = torch.stack([2 * wave, torch.zeros_like(wave)])
    starts = [Fraction(0)]
    assert torch.equal(log_mel(both, spec, starts=starts), log_mel(wave, spec, starts=starts))


@pytest.mark.parametrize("spec", [WHISPER, AST, CLAP])
def test_silence_and_nothing_at_all_are_finite(spec):
    for num_samples in (0, 1, spec.sample_rate_hz):
        picture = log_mel(torch.zeros(num_samples), spec, starts=[Fraction(0)])
        assert picture.isfinite().all()


def test_every_recipe_of_a_spec_is_known():
    assert set(MEL_RECIPES) == {"kaldi", "whisper", "clap"}
