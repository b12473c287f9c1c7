"""Probes: the same questions with something taken away, to see what the answers rest on.

A probe is a pure function on loaded media, applied before collate. It changes what the encoders
are fed (pixels, mels), never their output: permuting cached features instead of frames would be
the same thing only for an encoder that treats every frame by itself, and would flatter one that
does not. The seconds told to the decoder stay as they are.

A question that has none of the media a probe alters is not asked under it.

Shapes: T time steps, F mel bins, W mel frames, H, W pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from video_llama.common.errors import ConfigError
from video_llama.common.registry import unknown_name
from video_llama.common.types import AudioSpec, MediaItem, MediaKind, Sample
from video_llama.datasets.routing import num_steps
from video_llama.processors.audio import log_mel

VISUAL: frozenset[MediaKind] = frozenset({"image", "video"})
AUDIBLE: frozenset[MediaKind] = frozenset({"audio"})


@dataclass(frozen=True)
class Alteration:
    """What a probe may look at besides the item it alters.

    Attributes:
        partner: the item of the same kind and place in another clip.
        audio_spec: what the audio encoder is fed, None if the model is deaf.
        seed: everything random is a function of it and the item.
    """

    partner: MediaItem
    audio_spec: AudioSpec | None
    seed: int


@dataclass(frozen=True)
class Probe:
    """One way of altering media.

    Attributes:
        name: as written in `run.probes`.
        alters: kinds of media it changes; a question without any is left out.
        ceilings: what an honest model falls to: the lowest of these ceilings that a question
            set knows.
        apply: returns the altered item, None to take it out of the prompt.
        needs_partner: whether a second clip is needed.
        needs_pixels: whether cached features will not do.
        spares_the_rest: whether answers that do not rest on the altered media must stay as they
            were. Not so for pictures: a clip of shuffled frames is like nothing in training.
    """

    name: str
    alters: frozenset[MediaKind]
    ceilings: tuple[str, ...]
    apply: Callable[[MediaItem, Alteration], MediaItem | None]
    needs_partner: bool = False
    needs_pixels: bool = False
    spares_the_rest: bool = False


def get_probes(names: Sequence[str]) -> list[Probe]:
    """Return probes by name, in the order asked for.

    Raises:
        ConfigError: a name is unknown; the text lists the known ones.
    """
    problems = [
        f"run.probes: {unknown_name(name, PROBES, what='probe')}"
        for name in names
        if name not in PROBES
    ]
    if problems:
        raise ConfigError(problems)
    return [PROBES[name] for name in dict.fromkeys(names)]


def alter(
    items: Sequence[MediaItem],
    probe: Probe,
    *,
    partner: Sequence[MediaItem] | None,
    audio_spec: AudioSpec | None,
    seed: int,
) -> list[MediaItem | None]:
    """Apply a probe to the media of one clip; the items themselves are left alone.

    Args:
        items: loaded media, in text order.
        probe: only media of the kinds it alters are touched.
        partner: loaded media of another clip, of the same kinds in the same order.
        audio_spec: what the audio encoder is fed, None if the model is deaf.
        seed: everything random is a function of it and the clip.

    Returns:
        One item per place, None where the prompt is to have nothing.
    """
    others = items if partner is None else partner
    return [
        probe.apply(item, Alteration(partner=other, audio_spec=audio_spec, seed=seed))
        if item.kind in probe.alters
        else item
        for item, other in zip(items, others, strict=True)
    ]


def with_media(sample: Sample, items: Sequence[MediaItem | None]) -> Sample:
    """Return a copy of a sample with other media in the places of its own, None for nothing."""
    remaining = iter(items)
    messages = []
    for message in sample.messages:
        parts = [next(remaining) if isinstance(p, MediaItem) else p for p in message.content]
        content = [part for part in parts if part is not None]
        messages.append(dataclasses.replace(message, content=content))
    return dataclasses.replace(sample, messages=messages)


def partners(signatures: Mapping[str, tuple[MediaKind, ...]], *, seed: int) -> dict[str, str]:
    """Give every clip another clip with the same kinds of media; nobody keeps its own.

    Clips of one signature are shuffled into a ring and each takes the next one's place.

    Args:
        signatures: kinds of media of every clip, by the clip's identity.
        seed: of the shuffle.

    Returns:
        Partner by clip; a clip that is alone with its signature has none and is missing.
    """
    groups: dict[tuple[MediaKind, ...], list[str]] = {}
    for clip, signature in signatures.items():
        groups.setdefault(signature, []).append(clip)
    chosen: dict[str, str] = {}
    for signature, clips in groups.items():
        ring = sorted(clips)
        random.Random(f"{seed} {signature}").shuffle(ring)
        if len(ring) > 1:
            chosen.update(zip(ring, ring[1:] + ring[:1], strict=True))
    return chosen


def frame_order(num_frames: int, *, name: str, seed: int) -> list[int]:
    """Return a permutation of frames that differs from the true order if any can.

    Args:
        num_frames: length of the clip in frames.
        name: identity of the clip, so that every clip is shuffled in its own way.
        seed: of the evaluation.
    """
    order = list(range(num_frames))
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = random.Random(int.from_bytes(digest, "big"))
    while num_frames > 1 and order == sorted(order):
        generator.shuffle(order)
    return order


def _drop(item: MediaItem, alteration: Alteration) -> None:
    """Take the item out of the prompt."""


def _swap(item: MediaItem, alteration: Alteration) -> MediaItem:
    """Show or play the other clip."""
    return alteration.partner


def _shuffle(item: MediaItem, alteration: Alteration) -> MediaItem:
    """Show the frames in another order."""
    if item.kind == "image":
        return item
    assert item.pixels is not None, "frames are shuffled before they are encoded"
    order = frame_order(len(item.pixels), name=f"{item.path} {item.start_s}", seed=alteration.seed)
    return dataclasses.replace(item, pixels=item.pixels[order], feature_key=None, content_hash=None)


def _mute(item: MediaItem, alteration: Alteration) -> MediaItem:
    """Play digital silence of the same length."""
    spec = alteration.audio_spec
    assert spec is not None, "a deaf model has no audio items"
    mel = _silence(spec, num_steps=num_steps(item))
    return dataclasses.replace(item, mel=mel, features=None, feature_key=None, content_hash=None)


@lru_cache(maxsize=8)
def _silence(spec: AudioSpec, *, num_steps: int) -> Tensor:
    """Return the mel of silence, the same object for all sounds of a length: encoded once."""
    silence = torch.zeros(int(spec.clip_s * spec.sample_rate_hz))
    return log_mel(silence, spec, starts=[Fraction(0)] * num_steps)


PROBES = {
    probe.name: probe
    for probe in (
        Probe("no_media", VISUAL | AUDIBLE, ("blind", "deaf"), _drop),
        Probe(
            "frames_shuffled", frozenset({"video"}), ("order_blind",), _shuffle, needs_pixels=True
        ),
        Probe("clip_swapped", VISUAL | AUDIBLE, ("blind", "deaf"), _swap, needs_partner=True),
        Probe("sound_muted", AUDIBLE, ("deaf",), _mute, spares_the_rest=True),
        Probe("sound_swapped", AUDIBLE, ("deaf",), _swap, needs_partner=True, spares_the_rest=True),
    )
}
"""Every probe by name."""
