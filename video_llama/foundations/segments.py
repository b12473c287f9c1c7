"""Quarter-second segments of toy sound with their truth, after a round trip through AAC.

Shapes: K segments, F x L mel picture, S segments of one sound, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from video_llama.common.rng import fold
from video_llama.common.types import AudioSpec
from video_llama.foundations.frames import corpus_seed
from video_llama.processors.audio import log_mel
from video_llama.toy.codec import decode_sound, encode_m4a
from video_llama.toy.scenes import Mix, Sound, sample_scene
from video_llama.toy.sound import NUM_SAMPLES, Track, synthesize, track_of, voice
from video_llama.toy.words import COLOURS, SHAPES

NONE = -1
"""Stands for "does not apply" in every integer target."""

NUM_PITCH_BINS = 12
PITCH_RANGE_HZ = (220.0, 1300.0)
GLIDES = {"falling": 0, "rising": 2}
LEVEL, NUM_GLIDES = 1, 3
MAX_ONSETS = 2

# Sounds that differ from segment to segment need more examples than pips.
_MIX = Mix(pip=0.25)
_SEGMENTS_PER_SOUND = 8
_QUIETEST = 1e-4
# A tone that reaches into a segment for less than a hundredth of a second cannot be heard there.
_LEAST_SHARE = 0.04


@dataclass(frozen=True)
class Segments:
    """Mels and what is to be heard in them.

    Attributes:
        mel: float32[K, 1, F, L], normalised.
        on_share: float32[K], share of the segment in which a tone sounds.
        on_middle: float32[K], middle of that time in the segment, 0..1; 0.5 without a tone.
        loudness: float32[K], log10 of the root mean square over 1e-4, at least 0.
        is_noise: int64[K], 1 for noise.
        onsets: int64[K], beginnings of a tone, at most MAX_ONSETS.
        pitch: int64[K], bin of the tone's frequency, NONE without a tone.
        glide: int64[K], 0 down, 1 level, 2 up, NONE without a tone.
        voice: int64[K], see `voice_class`; NONE for the sounds of clips, and then all else is.
    """

    mel: Tensor
    on_share: Tensor
    on_middle: Tensor
    loudness: Tensor
    is_noise: Tensor
    onsets: Tensor
    pitch: Tensor
    glide: Tensor
    voice: Tensor

    def take(self, rows: Tensor) -> Segments:
        """Return the segments of int64[B] rows."""
        return Segments(*(getattr(self, field.name)[rows] for field in fields(self)))

    def join(self, other: Segments) -> Segments:
        """Return these segments and the other ones."""
        return _join([self, other])


def voice_class(*, shape: str, colour: str) -> int:
    """Number the 24 kinds of things that have a voice."""
    return SHAPES.index(shape) * len(COLOURS) + COLOURS.index(colour)


def make_sounds(num_sounds: int, *, seed: int, spec: AudioSpec, split: str) -> Segments:
    """Cut the sounds of scenes into segments.

    Args:
        num_sounds: each gives 8 segments.
        seed: of the foundations.
        spec: of the segments.
        split: of the scenes.
    """
    pieces = []
    for index in range(num_sounds):
        scene = sample_scene(index, seed=corpus_seed(seed), split=split, mix=_MIX)
        wave = synthesize(scene.sound)
        pieces.append(Segments(_mels(wave, spec=spec), **truth_of(scene.sound, wave=wave)))
    return _join(pieces)


def make_voices(num_each: int, *, seed: int, spec: AudioSpec, split: str) -> Segments:
    """Cut voices into segments, 8 of every voice.

    Args:
        num_each: voices of every shape in every colour.
        seed: of the foundations.
        spec: of the segments.
        split: names the part of the corpus.
    """
    pieces = []
    for number in range(num_each):
        for shape in SHAPES:
            for colour in COLOURS:
                own = fold("voice", seed, split, shape, colour, number)
                mel = _mels(voice(shape=shape, colour=colour, seed=own), spec=spec)
                pieces.append(_voiced(mel, kind=voice_class(shape=shape, colour=colour)))
    return _join(pieces)


def pitch_bin(frequency_hz: float) -> int:
    """Return the bin of a frequency, equal ratios in equal bins."""
    low, high = PITCH_RANGE_HZ
    place = np.log(frequency_hz / low) / np.log(high / low)
    return int(np.clip(place * NUM_PITCH_BINS, 0, NUM_PITCH_BINS - 1))


def _mels(wave: NDArray[np.float32], *, spec: AudioSpec) -> Tensor:
    """Return float32[S, 1, F, L] as a clip's track would give them."""
    decoded = decode_sound(encode_m4a(wave))
    return log_mel(torch.from_numpy(decoded), spec)


def truth_of(sound: Sound, *, wave: NDArray[np.float32]) -> dict[str, Tensor]:
    """Say what is to be heard in the segments of a scene's sound.

    Args:
        sound: of a scene.
        wave: float32[N], as synthesized; its loudness is measured.

    Returns:
        The fields of `Segments` but the mel, each [S].
    """
    track = track_of(sound)
    gates = track.gate.reshape(_SEGMENTS_PER_SOUND, -1)
    on_share = gates.mean(axis=1)
    has_tone = on_share > _LEAST_SHARE
    ramp = (np.arange(gates.shape[1]) + 0.5) / gates.shape[1]
    on_middle = np.where(has_tone, (gates * ramp).mean(1) / np.maximum(on_share, 1e-9), 0.5)
    level = np.sqrt((wave.reshape(gates.shape) ** 2).mean(axis=1))
    return {
        "on_share": _floats(on_share),
        "on_middle": _floats(on_middle),
        "loudness": _floats(np.log10(np.maximum(level / _QUIETEST, 1))),
        "is_noise": torch.full((len(gates),), int(sound.kind == "noise")),
        "onsets": _onsets(track).clamp(max=MAX_ONSETS),
        "pitch": _pitches(track, has_tone=has_tone),
        "glide": torch.from_numpy(np.where(has_tone, GLIDES.get(sound.kind, LEVEL), NONE)),
        "voice": torch.full((len(gates),), NONE),
    }


def _onsets(track: Track) -> Tensor:
    """Count the beginnings of a tone in every segment; one that was on before does not count."""
    is_open = track.gate > 0.5
    begins = is_open & ~np.concatenate([[False], is_open[:-1]])
    return torch.from_numpy(begins.reshape(_SEGMENTS_PER_SOUND, -1).sum(axis=1))


def _pitches(track: Track, *, has_tone: NDArray[np.bool_]) -> Tensor:
    """Return the pitch bin of every segment: of the mean frequency while the tone sounds."""
    gates = track.gate.reshape(_SEGMENTS_PER_SOUND, -1)
    frequencies = track.frequency_hz.reshape(gates.shape)
    means = (gates * frequencies).sum(1) / np.maximum(gates.sum(1), 1e-9)
    return torch.tensor(
        [pitch_bin(mean) if on else NONE for mean, on in zip(means, has_tone, strict=True)]
    )


def _voiced(mel: Tensor, *, kind: int) -> Segments:
    """Mark segments as a voice; nothing else is asked of them."""
    nothing = torch.full((len(mel),), NONE)
    zeros = torch.zeros(len(mel))
    return Segments(
        mel=mel,
        on_share=zeros,
        on_middle=zeros,
        loudness=zeros,
        is_noise=nothing,
        onsets=nothing,
        pitch=nothing,
        glide=nothing,
        voice=torch.full((len(mel),), kind),
    )


def _join(pieces: list[Segments]) -> Segments:
    return Segments(
        *(torch.cat([getattr(p, field.name) for p in pieces]) for field in fields(Segments))
    )


def _floats(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


assert NUM_SAMPLES % _SEGMENTS_PER_SOUND == 0
