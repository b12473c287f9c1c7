"""Sounds are what the scene says: measured on spectra and envelopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.toy.codec import decode_sound, encode_m4a
from video_llama.toy.scenes import PIP_S, Sound, sample_scene
from video_llama.toy.sound import SAMPLE_RATE_HZ, VOICE_HZ, synthesize, track_of, voice
from video_llama.toy.words import COLOURS, SHAPES


def peak_hz(wave: np.ndarray) -> float:
    """Frequency of the strongest component."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * SAMPLE_RATE_HZ / len(wave))


def level(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_every_sound_lasts_two_seconds_and_does_not_clip(index: int):
    wave = synthesize(sample_scene(index, seed=0, split="train").sound)
    assert wave.shape == (32_000,)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() <= 1


def test_equal_sounds_give_equal_samples():
    sound = Sound("noise", seed=4)
    assert synthesize(sound).tobytes() == synthesize(sound).tobytes()


@pytest.mark.parametrize("frequency_hz", [300.0, 1000.0])
def test_a_steady_tone_has_its_frequency(frequency_hz: float):
    wave = synthesize(Sound("steady", "low", frequency_hz, seed=1))
    assert peak_hz(wave) == pytest.approx(frequency_hz, abs=1)


@pytest.mark.parametrize(("kind", "count"), [("slow beeps", 4), ("fast beeps", 16)])
def test_beeps_come_at_their_rate_and_fill_half_of_the_time(kind: str, count: int):
    wave = synthesize(Sound(kind, "high", 1000.0, seed=2))
    envelope = np.abs(wave).reshape(-1, 160).max(axis=1) > 0.05
    begins = (envelope[1:] & ~envelope[:-1]).sum() + envelope[0]
    assert abs(begins - count) <= 1
    assert envelope.mean() == pytest.approx(0.5, abs=0.12)


def test_glides_go_between_their_ends_and_mirror_each_other():
    rising, falling = (synthesize(Sound(kind, seed=3)) for kind in ("rising", "falling"))
    # 1/20 s at either end of a glide from 300 to 1200 Hz.
    assert peak_hz(rising[:800]) == pytest.approx(310, abs=25)
    assert peak_hz(rising[-800:]) == pytest.approx(1180, abs=40)
    assert peak_hz(falling[:800]) == pytest.approx(1180, abs=40)


def test_a_pip_sounds_only_in_its_tenth_of_a_second():
    wave = synthesize(Sound("pip", "high", 1000.0, "midway", 0.9, seed=5))
    first, last = (round(time_s * SAMPLE_RATE_HZ) for time_s in (0.9, 0.9 + PIP_S))
    outside = np.concatenate([wave[:first], wave[last:]])
    assert level(wave[first:last]) > 100 * level(outside)


def test_silence_is_far_quieter_than_any_tone():
    assert level(synthesize(Sound("silence", seed=6))) < 1e-3


def test_noise_has_no_tone():
    spectrum = np.abs(np.fft.rfft(synthesize(Sound("noise", seed=7)))) ** 2
    assert spectrum.max() / spectrum.sum() < 0.005


def test_a_track_of_silence_has_no_tone_anywhere():
    assert track_of(Sound("silence")).gate.max() == 0


@pytest.mark.parametrize("colour", COLOURS)
def test_a_voice_has_the_pitch_of_its_colour(colour: str):
    wave = voice(shape="circle", colour=colour, seed=1)
    assert peak_hz(wave) == pytest.approx(VOICE_HZ[colour], rel=0.025)


def test_the_timbres_of_the_shapes_differ():
    spectra = []
    for shape in SHAPES:
        wave = voice(shape=shape, colour="red", seed=1)
        spectra.append(np.log(np.abs(np.fft.rfft(wave.reshape(-1, 500))).mean(axis=0) + 1e-3))
    distances = [np.abs(a - b).mean() for i, a in enumerate(spectra) for b in spectra[:i]]
    assert min(distances) > 0.1


def test_a_tone_survives_the_codec():
    wave = synthesize(Sound("steady", "low", 300.0, seed=8))
    decoded = decode_sound(encode_m4a(wave))
    assert len(decoded) - len(wave) in range(1024)
    assert np.corrcoef(decoded[: len(wave)], wave)[0, 1] > 0.99
