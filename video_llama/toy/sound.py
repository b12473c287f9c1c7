"""Sound of toy scenes, and the voices of things: pure functions to a mono waveform.

A scene's sound says what happens when (a tone, beeps, a glide, a pip); it has one plain timbre.
A voice says who it is: every shape has its own timbre and every colour its own pitch, so that a
picture of one thing and its voice make a pair. Voices are never heard in a clip.

Shapes: N samples at 16 kHz.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_llama.toy.scenes import DURATION_S, GLIDE_RANGE_HZ, PIP_S, Sound

SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = round(DURATION_S * SAMPLE_RATE_HZ)
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


@dataclass(frozen=True)
class Track:
    """What a tone does, in closed form.

    Attributes:
        gate: float[N], 0 closed to 1 open.
        frequency_hz: float[N]; 0 if the sound has no tone.
    """

    gate: Floats
    frequency_hz: Floats


def track_of(sound: Sound) -> Track:
    """Say what the tone of a sound does at every sample; noise and silence have none."""
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    if sound.kind in ("noise", "silence"):
        return Track(np.zeros(NUM_SAMPLES), np.zeros(NUM_SAMPLES))
    if sound.kind in ("rising", "falling"):
        frequency_hz = _glide_hz(time_s, falling=sound.kind == "falling")
        return Track(np.ones(NUM_SAMPLES), frequency_hz)
    assert sound.frequency_hz is not None
    gate = _gate(sound, time_s=time_s, start=_draw(sound.seed).start)
    return Track(gate, np.full(NUM_SAMPLES, sound.frequency_hz))


def synthesize(sound: Sound) -> NDArray[np.float32]:
    """Make the sound of a scene.

    Args:
        sound: what is to be heard; equal sounds give equal samples.

    Returns:
        float32[N] for 2 s at 16 kHz, within -1..1. "silence" is a faint hiss, as of a microphone.
    """
    drawn = _draw(sound.seed)
    rng = np.random.default_rng(sound.seed)
    hiss = _FLOOR * rng.standard_normal(NUM_SAMPLES)
    if sound.kind == "noise":
        wave = 0.4 * rng.standard_normal(NUM_SAMPLES).clip(-2.5, 2.5)
    else:
        track = track_of(sound)
        # Sines are dear, and a shut gate lets none through.
        opened = track.gate > 0
        wave = np.zeros(NUM_SAMPLES)
        phase = _phase(track.frequency_hz, start=drawn.start)
        wave[opened] = track.gate[opened] * _tone(phase[opened])
    return (drawn.loudness * wave + hiss).astype(np.float32)


def voice(*, shape: str, colour: str, seed: int) -> NDArray[np.float32]:
    """Make the voice of a thing.

    Args:
        shape: gives the timbre.
        colour: gives the pitch.
        seed: of loudness, phases, a slow tremolo and a detuning of 2 % at most.

    Returns:
        float32[N] for 2 s at 16 kHz, within -1..1.
    """
    drawn = _draw(seed)
    rng = np.random.default_rng(seed)
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    pitch_hz = np.full(NUM_SAMPLES, VOICE_HZ[colour] * rng.uniform(0.98, 1.02))
    wave = _tone(_phase(pitch_hz, start=drawn.start), partials=VOICE_PARTIALS[shape])
    tremolo = 1 - 0.2 * (1 + np.sin(2 * np.pi * (rng.uniform(1, 3) * time_s + rng.random())))
    hiss = _FLOOR * rng.standard_normal(NUM_SAMPLES)
    return (drawn.loudness * tremolo * wave + hiss).astype(np.float32)


@dataclass(frozen=True)
class _Drawn:
    """What every sound draws from its seed: loudness and the place in its period it starts at."""

    loudness: float
    start: float


def _draw(seed: int) -> _Drawn:
    rng = random.Random(f"toy sound/{seed}")
    return _Drawn(rng.uniform(*_LOUDNESS), rng.random())


def _glide_hz(time_s: Floats, *, falling: bool) -> Floats:
    """Return the frequency of a glide at each time; equal steps in pitch take equal time."""
    low, high = GLIDE_RANGE_HZ
    way = time_s / DURATION_S
    return low * (high / low) ** (1 - way if falling else way)


def _phase(frequency_hz: Floats, *, start: float) -> Floats:
    """Return the running phase of a tone; `start` is the place in its period it starts at."""
    phase: Floats = 2 * np.pi * (start + np.cumsum(frequency_hz) / SAMPLE_RATE_HZ)
    return phase


def _tone(phase: Floats, *, partials: tuple[tuple[float, float], ...] = _PLAIN_PARTIALS) -> Floats:
    """Sum partials of a tone; the parts' strengths sum to one."""
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
