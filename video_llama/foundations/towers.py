"""Pretrains the toy towers of Video-LLaVA: a picture tower, then its temporal attention.

As LanguageBind's were: first a CLIP trunk on single pictures; then, from there, the same trunk with
attention across time between its layers, on clips. What is trained are the classes of the full-size
model at small sizes; only the heads, which say what the tokens must tell, are thrown away.

Shapes: C clips, T frames, P patches, D width, 6 colours, 4 shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.weights import export_weights
from video_llama.foundations.clips import PATCH_PX, Clips, make_clips
from video_llama.foundations.fit import Gate, Schedule, Trained, fit
from video_llama.foundations.frames import PLACE_SCALE_PX, normalise
from video_llama.foundations.patch_heads import cross_entropy
from video_llama.foundations.whitening import sine_axis, sine_positions, whitening_of
from video_llama.models.encoders.clip_vit import ClipVit
from video_llama.models.encoders.languagebind import LanguageBind
from video_llama.toy.words import COLOURS, SHAPES

SIZES: dict[str, Any] = {
    "image_size": 64,
    "patch_size": PATCH_PX,
    "width": 96,
    "depth": 4,
    "num_heads": 4,
    "ffn_width": 384,
    "activation": "gelu",
    "resize": "squash",
}
"""Of both towers; as published, the layer before the last is used, and the last never built."""

IMAGE_FILE, VIDEO_FILE = "languagebind_image.safetensors", "languagebind_video.safetensors"
NUM_FRAMES = 8

_PLACE_WEIGHT, _PRESENCE_WEIGHT = 8.0, 16.0
_OFFSET_WEIGHT = 4.0
TIME_GAIN = 0.25


class Heads(nn.Module):
    """What the tokens must tell; linear, and gone after the pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        num_things = len(COLOURS) * len(SHAPES)
        self.presence = nn.Linear(width, num_things)
        self.place = nn.Linear(width, len(COLOURS) * 3)
        self.thing = nn.Linear(width, num_things + 1)
        self.offset = nn.Linear(width, 3)
        self.ever = nn.Linear(width, num_things)

    def loss(self, tokens: Tensor, *, truth: Clips, over_time: bool) -> Tensor:
        """Compare tokens with what is on the frames.

        Args:
            tokens: float[C, T, 1 + P, D].
            truth: of the same C clips and T frames.
            over_time: also ask every frame what is there at any time of its clip.
        """
        class_token, patches = tokens[:, :, 0], tokens[:, :, 1:]
        has_colour = truth.presence.any(dim=3)
        presence = _binary(self.presence(class_token), truth.presence.flatten(2))
        place = self.place(class_token).unflatten(2, (len(COLOURS), 3))
        is_thing = truth.thing >= 0
        # The last class is "nothing"; -1 counts from the end.
        labels = truth.thing.remainder(self.thing.out_features)
        offset = (self.offset(patches) - truth.offset)[is_thing]
        return (
            presence * _PRESENCE_WEIGHT
            + (place - truth.place)[has_colour].abs().mean() * _PLACE_WEIGHT
            + cross_entropy(self.thing(patches[is_thing]), labels[is_thing])
            + cross_entropy(self.thing(patches[~is_thing]), labels[~is_thing])
            + offset.abs().mean() * _OFFSET_WEIGHT
            + (_binary(self.ever(class_token), ever_there(truth)) if over_time else 0.0)
            * _PRESENCE_WEIGHT
        )

    def measure(self, tokens: Tensor, *, truth: Clips, over_time: bool) -> dict[str, float]:
        """Score what linear heads read from the tokens of held-out clips; see `loss`."""
        class_token, patches = tokens[:, :, 0], tokens[:, :, 1:]
        presence = (self.presence(class_token) > 0) == truth.presence.flatten(2)
        has_colour = truth.presence.any(dim=3)
        place = self.place(class_token).unflatten(2, (len(COLOURS), 3))
        is_thing = truth.thing >= 0
        thing = self.thing(patches).argmax(dim=3) == truth.thing.remainder(self.thing.out_features)
        offset = (self.offset(patches) - truth.offset)[is_thing].abs()
        place_px = (place - truth.place)[has_colour][:, :2].norm(dim=1) * PLACE_SCALE_PX
        measured = {
            "set_exact": presence.all(dim=2).float().mean().item(),
            "position_px": place_px.mean().item(),
            "thing_of_patch": thing[is_thing].float().mean().item(),
            "offset_px": offset[:, :2].mean().item() * PATCH_PX,
        }
        if over_time:
            ever = (self.ever(class_token) > 0) == ever_there(truth)
            measured["ever_exact"] = ever.all(dim=2).float().mean().item()
        return measured


def ever_there(truth: Clips) -> Tensor:
    """Return bool[C, T, 24], for every frame what is there at any time of its clip."""
    return (
        truth.presence.flatten(2).any(dim=1, keepdim=True).expand(-1, truth.presence.shape[1], -1)
    )


def _binary(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target.float())


@dataclass(frozen=True)
class TowerRecipe:
    """How much is seen and how often.

    Attributes:
        num_train_clips: clips of 8 frames.
        num_valid_clips: held-out ones.
        pictures: how long and how fast the picture tower is trained; examples are frames.
        clips: the same of the temporal attention; examples are clips.
    """

    num_train_clips: int = 4000
    num_valid_clips: int = 150
    pictures: Schedule = Schedule(num_steps=4000, batch_size=64, lr=1.5e-3)
    clips: Schedule = Schedule(num_steps=2500, batch_size=8, lr=1e-3)


DEFAULT_RECIPE = TowerRecipe()


def train_towers(*, seed: int, recipe: TowerRecipe = DEFAULT_RECIPE) -> Trained:
    """Pretrain both towers from nothing.

    Args:
        seed: of scenes, weights and order.
        recipe: how much is seen and how often.
    """
    torch.manual_seed(seed)
    train = make_clips(recipe.num_train_clips, seed=seed, split="train")
    valid = make_clips(recipe.num_valid_clips, seed=seed, split="valid")
    tower = ClipVit(ClipVit.Config(**SIZES, drop_class_token=False))
    heads = Heads(tower.config.width)
    start_from_pixels(tower, pixels=normalise(train.pixels[:250].flatten(0, 1)))
    curve = _train(tower, heads, train=_as_pictures(train), valid=valid, recipe=recipe, seed=seed)
    video_tower = with_temporal_attention(tower)
    curve += _train(video_tower, heads, train=train, valid=valid, recipe=recipe, seed=seed)
    last = curve[-1]
    gates = (
        Gate("what is on a frame, from its class token", last["set_exact"], 0.93),
        Gate("what is on a patch", last["thing_of_patch"], 0.95),
        Gate("position error, px", last["position_px"], 3.0, lower_is_better=True),
        Gate("what is ever on the clip, from one frame's", last["ever_exact"], 0.9),
    )
    return Trained(files=export_towers(tower, video_tower), curve=curve, gates=gates)


def _train(
    tower: ClipVit | LanguageBind,
    heads: Heads,
    *,
    train: Clips,
    valid: Clips,
    recipe: TowerRecipe,
    seed: int,
) -> list[dict[str, float]]:
    """Train what learns of a tower, and the heads; return the curve."""
    looks_across = isinstance(tower, LanguageBind)

    def loss_of(rows: Tensor) -> Tensor:
        truth = train.take(rows)
        return heads.loss(encode(tower, truth.pixels), truth=truth, over_time=looks_across)

    def probe() -> dict[str, float]:
        tokens = torch.cat([encode(tower, pixels) for pixels in valid.pixels.split(16)])
        return heads.measure(tokens, truth=valid, over_time=looks_across)

    return fit(
        [tower, heads],
        loss_of=loss_of,
        num_examples=len(train.pixels),
        schedule=recipe.clips if looks_across else recipe.pictures,
        seed=seed,
        probe=probe,
        name="video tower" if looks_across else "picture tower",
    )


def encode(tower: ClipVit | LanguageBind, pixels: Tensor) -> Tensor:
    """Map frames uint8[C, T, H, W, 3] to tokens float[C, T, 1 + P, D]."""
    shape = pixels.shape[:2]
    frames = normalise(pixels.flatten(0, 1)).unflatten(0, shape)
    return tower(frames, torch.ones(shape, dtype=torch.bool)).tokens


def _as_pictures(clips: Clips) -> Clips:
    """Return every frame as a clip of its own."""
    parts = (getattr(clips, field.name) for field in fields(clips))
    return Clips(*(part.flatten(0, 1)[:, None] for part in parts))


def with_temporal_attention(tower: ClipVit) -> LanguageBind:
    """Return a video tower that starts from a picture tower and knows the order of frames.

    Args:
        tower: a picture tower that keeps its class token.
    """
    config = LanguageBind.Config(**SIZES, num_frames=NUM_FRAMES, frame_policy="segment_start")
    video_tower = LanguageBind(config)
    video_tower.load_state_dict(tower.state_dict(), strict=False)
    for name, parameter in video_tower.named_parameters():
        if ".temporal_embedding" in name or ".temporal_attn.out_proj." in name:
            nn.init.zeros_(parameter)
    # Later layers find it in the residual stream.
    table = video_tower.get_parameter("encoder.layers.0.temporal_embedding")
    table.data.copy_(TIME_GAIN * sine_axis(NUM_FRAMES, width=config.width))
    return video_tower


def start_from_pixels(tower: ClipVit, *, pixels: Tensor) -> None:
    """Start patch weights and positions where the toy world is easy to see.

    Args:
        tower: changed in place.
        pixels: float[K, 3, H, W], normalised, of the world the tower will see.
    """
    config = tower.config
    start = whitening_of(pixels, patch_size=config.patch_size, width=config.width)
    with torch.no_grad():
        tower.embeddings.patch_embedding.weight.copy_(start.weight)
        table = sine_positions(config.side, width=config.width)
        tower.embeddings.position_embedding.weight.copy_(table[0])


def export_towers(tower: ClipVit, video_tower: LanguageBind) -> dict[str, dict[str, Tensor]]:
    """Return the weights under published names, in half precision: they are a download."""
    return {
        file: {
            name: tensor.half()
            for name, tensor in export_weights(each, key_map=each.key_map()).items()
        }
        for file, each in ((IMAGE_FILE, tower), (VIDEO_FILE, video_tower))
    }
