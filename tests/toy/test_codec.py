"""Clips and sounds as files."""

import numpy as np
import pytest

from video_llama.toy.codec import decode_frames, decode_sound, encode_m4a, encode_mp4

RATE_HZ = 16_000


@pytest.mark.parametrize("num_samples", [1, 1024, 1025, 33_000])
def test_a_sound_of_any_length_comes_back_as_long(num_samples):
    tone = 0.5 * np.sin(np.arange(num_samples) / 5).astype(np.float32)
    heard = decode_sound(encode_m4a(tone, sample_rate_hz=RATE_HZ))
    assert num_samples <= len(heard) < num_samples + 2 * 1024


def test_frames_with_a_sound_of_no_length_are_a_clip():
    frames = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    clip = encode_mp4(frames, frames_per_s=8, waveform=np.zeros(0, dtype=np.float32))
    assert decode_frames(clip).shape == frames.shape


def test_a_tone_comes_back_at_its_pitch():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    heard = decode_sound(encode_m4a(tone, sample_rate_hz=RATE_HZ))[2048 : 2048 + 8000]
    assert np.argmax(np.abs(np.fft.rfft(heard))) == 220
