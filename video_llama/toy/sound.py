"""Sound of toy scenes, and the voices of things: pure functions to a mono waveform.

A scene's sound says what happens when (a tone, beeps, a glide, a pip); it has one plain timbre.
A voice says who it is: every shape has its own timbre and every colour its own pitch, so that a
picture of one thing and its voice make a pair. Voices are never heard in a clip.

Shapes: N samples, 16 kHz.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_llama.toy.scenes import DURATION_S, GLIDE_RANGE_HZ, PIP_S, Sound

SAMPLE_RATE_HZ = 16_000
BEEPS_PER_S = {"slow beeps": 2.0, "fast beeps": 8.0}

VOICE_HZ = {
    "red": 230.0,
    "green": 310.0,
    "blue": 420.0,
    "yellow": 570.0,
    "purple": 770.0,
    "white": 1040.0,
}
"""Pitch of a thing's voice by its colour; neighbours lie a fourth or more apart."""

VOICE_PARTIALS = {
    "circle": ((1.0, 1.0),),
    "square": ((1.0, 1.0), (3.0, 0.6), (5.0, 0.4), (7.0, 0.3)),
    "triangle": ((1.0, 1.0), (2.0, 0.8), (4.0, 0.6)),
    "star": ((1.0, 1.0), (2.76, 0.8), (5.4, 0.6)),
}
"""Timbre of a thing's voice by its shape: multiples of the pitch and how strong each is."""

_LOUDNESS = (0.12, 0.4)
_FLOOR = 2e-4
_FADE_S = 0.005
_PLAIN_PARTIALS = ((1.0, 1.0), (2.0, 0.15))

Floats = NDArray[Any]


def synthesize(sound: Sound) -> NDArray[np.float32]:
    """Make the sound of a scene.

    Args:
        sound: what is to be heard; equal sounds give equal samples.

    Returns:
        float32[N] for 2 s at 16 kHz, within -1..1. "silence" is a faint hiss, as of a microphone.
    """
    rng = np.random.default_rng(sound.seed)
    time_s = np.arange(round(DURATION_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    loudness, start = rng.uniform(*_LOUDNESS), rng.random()
    hiss = _FLOOR * rng.standard_normal(len(time_s))
    if sound.kind == "silence":
        return hiss.astype(np.float32)
    if sound.kind == "noise":
        wave = 0.4 * rng.standard_normal(len(time_s)).clip(-2.5, 2.5)
    elif sound.kind in ("rising", "falling"):
        wave = _tone(_glide_hz(time_s, falling=sound.kind == "falling"), start=start)
    else:
        assert sound.frequency_hz is not None
        wave = _tone(np.full(len(time_s), sound.frequency_hz), start=start)
        wave = wave * _gate(sound, time_s=time_s, start=start)
    return (loudness * wave + hiss).astype(np.float32)


def voice(*, shape: str, colour: str, seed: int) -> NDArray[np.float32]:
    """Make the voice of a thing.

    Args:
        shape: gives the timbre.
        colour: gives the pitch.
        seed: of loudness, phases, a slow tremolo and a detuning of 2 % at most.

    Returns:
        float32[N] for 2 s at 16 kHz, within -1..1.
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(DURATION_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = np.full(len(time_s), VOICE_HZ[colour] * rng.uniform(0.98, 1.02))
    partials = VOICE_PARTIALS[shape]
    wave = _tone(pitch_hz, start=rng.random(), partials=partials)
    tremolo = 1 - 0.2 * (1 + np.sin(2 * np.pi * (rng.uniform(1, 3) * time_s + rng.random())))
    hiss = _FLOOR * rng.standard_normal(len(time_s))
    return (rng.uniform(*_LOUDNESS) * tremolo * wave + hiss).astype(np.float32)


def _glide_hz(time_s: Floats, *, falling: bool) -> Floats:
    """Return the frequency of a glide at each time; equal steps in pitch take equal time."""
    low, high = GLIDE_RANGE_HZ
    way = time_s / DURATION_S
    return low * (high / low) ** (1 - way if falling else way)


def _tone(
    frequency_hz: Floats,
    *,
    start: float,
    partials: tuple[tuple[float, float], ...] = _PLAIN_PARTIALS,
) -> Floats:
    """Sum partials of a tone with a running phase; the parts' strengths sum to one."""
    phase = 2 * np.pi * (start + np.cumsum(frequency_hz) / SAMPLE_RATE_HZ)
    total = sum(strength for _, strength in partials)
    wave = np.zeros_like(phase)
    for multiple, strength in partials:
        wave += strength / total * np.sin(multiple * phase)
    return wave


def _gate(sound: Sound, *, time_s: Floats, start: float) -> Floats:
    """Open and close a tone, 0..1 per sample, with short ramps against clicks."""
    if sound.kind == "steady":
        return np.ones_like(time_s)
    if sound.kind == "pip":
        assert sound.pip_time_s is not None
        inside_s = np.minimum(time_s - sound.pip_time_s, sound.pip_time_s + PIP_S - time_s)
    else:
        rate = BEEPS_PER_S[sound.kind]
        # Half of each period sounds; the beeps start anywhere in it.
        inside_s = (0.25 - np.abs((time_s * rate + start) % 1.0 - 0.5)) / rate
    gate: Floats = np.clip(inside_s / _FADE_S, 0.0, 1.0)
    return gate
