"""Pretrains the toy ImageBind: its ear on sound, then its eye towards its ear.

The audio trunk learns what is to be heard in a quarter of a second; all of it must stand linearly
in the vector that leaves the encoder, which lies on a sphere of radius 20. Then the trunk is
frozen and the vision trunk learns to put the picture of a thing where its voice is: InfoNCE over
the 24 kinds of things, as ImageBind was trained (Girdhar et al., 2023, eq. 1), and a pull towards
the voice itself, so that no gap remains between the two. Two things on a picture belong between
their voices.

Shapes: K segments or pictures, D = 64 joint width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from video_llama.common.weights import export_weights
from video_llama.foundations.fit import Curve, Gate, Schedule, Trained, fit
from video_llama.foundations.frames import Frames, make_frames, normalise
from video_llama.foundations.listener import (
    AUDIO_CONFIG,
    NUM_VOICES,
    TEMPERATURE,
    Listener,
    audio_spec,
    embed,
)
from video_llama.foundations.segments import make_sounds, make_voices
from video_llama.foundations.whitening import sine_positions, whitening_of
from video_llama.models.encoders.imagebind import FRAMES_PER_PATCH, FrameStem, ImageBind

VISION_CONFIG = replace(AUDIO_CONFIG, trunk="vision")
IMAGEBIND_FILE = "imagebind_huge.safetensors"

_ALIGN_PULL = 4.0


@dataclass(frozen=True)
class AudioRecipe:
    """How much is heard and seen, and how often.

    Attributes:
        num_train_sounds: sounds of clips, 8 segments of each.
        num_valid_sounds: held-out ones.
        num_train_voices: voices of every kind of thing.
        num_valid_voices: held-out ones.
        num_train_clips: clips the pictures are taken from, 8 of each.
        num_valid_clips: held-out ones.
        ear: how long and how fast the audio trunk learns.
        eye: likewise the vision trunk.
    """

    num_train_sounds: int = 3000
    num_valid_sounds: int = 200
    num_train_voices: int = 20
    num_valid_voices: int = 3
    num_train_clips: int = 3000
    num_valid_clips: int = 150
    ear: Schedule = Schedule(num_steps=1500, batch_size=64, lr=2e-3)
    eye: Schedule = Schedule(num_steps=4000, batch_size=48, lr=1.5e-3)


DEFAULT_RECIPE = AudioRecipe()


def train_audio(*, seed: int, recipe: AudioRecipe = DEFAULT_RECIPE) -> Trained:
    """Pretrain both trunks from nothing.

    Args:
        seed: of sounds, pictures, weights and order.
        recipe: how much is heard and seen, and how often.

    Returns:
        The curve is that of the audio trunk, then that of the vision trunk.
    """
    torch.manual_seed(seed)
    listener = Listener()
    ear_curve = _train_ear(listener, recipe=recipe, seed=seed)
    listener.eval().requires_grad_(False)
    eye = ImageBind(VISION_CONFIG)
    eye_curve = _train_eye(eye, ear=listener.encoder, recipe=recipe, seed=seed)
    ear, last = ear_curve[-1], eye_curve[-1]
    gates = (
        Gate("noise", ear["is_noise"], 0.99),
        Gate("onsets in a segment", ear["onsets"], 0.95),
        Gate("pitch within one bin", ear["pitch_near"], 0.99),
        Gate("glide", ear["glide"], 0.97),
        Gate("share of the segment, error", ear["on_share_error"], 0.05, lower_is_better=True),
        Gate("voice", ear["voice"], 0.99),
        Gate("voice of a picture, among 24", last["voice_of_picture"], 0.95),
        Gate("picture of a voice, among 24", last["picture_of_voice"], 0.95),
    )
    files = {
        IMAGEBIND_FILE: {
            **export_weights(listener.encoder, key_map=listener.encoder.key_map()),
            **export_weights(eye, key_map=eye.key_map()),
        }
    }
    return Trained(files=files, curve=ear_curve + eye_curve, gates=gates)


def _train_ear(listener: Listener, *, recipe: AudioRecipe, seed: int) -> Curve:
    """Train the audio trunk on sounds and voices alike."""
    spec = audio_spec()
    sounds = make_sounds(recipe.num_train_sounds, seed=seed, spec=spec, split="train")
    train = sounds.join(make_voices(recipe.num_train_voices, seed=seed, spec=spec, split="train"))
    held_out = make_sounds(recipe.num_valid_sounds, seed=seed, spec=spec, split="valid")
    valid = held_out.join(make_voices(recipe.num_valid_voices, seed=seed, spec=spec, split="valid"))
    return fit(
        [listener],
        loss_of=lambda rows: listener.loss(train.take(rows)),
        num_examples=len(train.mel),
        schedule=recipe.ear,
        seed=seed,
        probe=lambda: listener.measure(valid),
        name="audio",
    )


def _train_eye(eye: ImageBind, *, ear: ImageBind, recipe: AudioRecipe, seed: int) -> Curve:
    """Train the vision trunk towards the middles of the voices; the ear stays as it is."""
    spec = audio_spec()
    with torch.no_grad():
        voices = make_voices(recipe.num_train_voices, seed=seed, spec=spec, split="train")
        heard = functional.normalize(embed(ear, voices.mel), dim=1)
        unseen = make_voices(recipe.num_valid_voices, seed=seed, spec=spec, split="valid")
        unheard = functional.normalize(embed(ear, unseen.mel), dim=1)
    middles = class_means(heard, voices.voice)
    train, valid = (
        with_things(make_frames(number, seed=seed, split=split))
        for number, split in ((recipe.num_train_clips, "train"), (recipe.num_valid_clips, "valid"))
    )
    start_from_pixels(eye, pixels=normalise(train.pixels[:2000]))

    def loss_of(rows: Tensor) -> Tensor:
        seen, kinds = embed(eye, normalise(train.pixels[rows])), kinds_of(train.take(rows))
        share = kinds / kinds.sum(dim=1, keepdim=True)
        contrast = functional.cross_entropy(seen @ middles.T / TEMPERATURE, share)
        pull = 1 - (seen * functional.normalize(kinds @ middles, dim=1)).sum(dim=1).mean()
        return contrast + _ALIGN_PULL * pull

    def probe() -> dict[str, float]:
        seen, kinds = embed(eye, normalise(valid.pixels)), kinds_of(valid)
        alone = kinds.sum(dim=1) == 1
        kind = kinds.argmax(dim=1)
        faces = class_means(seen[alone], kind[alone])
        wanted = functional.normalize(kinds @ middles, dim=1)
        best_two = (seen @ middles.T).topk(2, dim=1).indices
        return {
            "voice_of_picture": _hit(seen[alone] @ middles.T, kind[alone]),
            "voices_of_two": kinds[~alone].gather(1, best_two[~alone]).all(1).float().mean().item(),
            "picture_of_voice": _hit(unheard @ faces.T, unseen.voice),
            "cosine": (seen * wanted).sum(dim=1).mean().item(),
        }

    return fit(
        [eye],
        loss_of=loss_of,
        num_examples=len(train.pixels),
        schedule=recipe.eye,
        seed=seed,
        probe=probe,
        name="alignment",
    )


def with_things(frames: Frames) -> Frames:
    """Keep the frames on which there is something."""
    return frames.take(frames.presence.flatten(1).any(dim=1).nonzero()[:, 0])


def kinds_of(frames: Frames) -> Tensor:
    """Return float[K, 24], 1 for every kind of thing on a frame, in the order of voices."""
    return frames.presence.transpose(1, 2).flatten(1).float()


def start_from_pixels(eye: ImageBind, *, pixels: Tensor) -> None:
    """Start patch weights and positions where the toy world is easy to see."""
    config = eye.config
    size, width = config.vision_patch_size, config.vision_width
    start = whitening_of(pixels, patch_size=size, width=width)
    assert isinstance(eye.stem, FrameStem)
    with torch.no_grad():
        # Both frames of the kernel see the same picture, so each gets its share.
        eye.stem.weight.copy_(start.weight[:, :, None] / FRAMES_PER_PATCH)
        eye.positions.copy_(sine_positions(config.image_size // size, width=width))


def class_means(vectors: Tensor, kinds: Tensor) -> Tensor:
    """Return float[24, D], the unit vector in the middle of each kind of thing."""
    members = functional.one_hot(kinds, NUM_VOICES).float()
    return functional.normalize(members.T @ vectors, dim=1)


def _hit(scores: Tensor, kinds: Tensor) -> float:
    return (scores.argmax(dim=1) == kinds).float().mean().item()
