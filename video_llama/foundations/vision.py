"""Pretrains the toy EVA ViT and its BLIP-2 style Q-Former on frames of the toy world.

What is trained are the classes of the full-size model at small sizes; only the heads, which say
what the tokens must tell, are thrown away afterwards. Frames have been through H.264, as those of
a real clip.

Two choices make it work (docs/toy_world.md has the numbers): the linear patch embedding starts as
the whitening basis of pixel patches, and heads on the MEAN of the queries keep what is to be seen
linear in it; heads on single queries alone would leave a colour in the number of its query.

Shapes: K frames, P patches, Q queries, D width, 6 colours, 4 shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.types import Features
from video_llama.common.weights import KeyMap, export_weights
from video_llama.foundations.fit import Gate, Schedule, Trained, fit
from video_llama.foundations.frames import PLACE_SCALE_PX, Frames, make_frames, normalise
from video_llama.foundations.patch_heads import PatchHeads, cross_entropy
from video_llama.foundations.whitening import sine_positions, whitening_of
from video_llama.models.bridges.layer_norm import LayerNorm
from video_llama.models.bridges.qformer import QFormer
from video_llama.models.encoders.eva_vit_g import EvaVitG
from video_llama.toy.words import COLOURS, SHAPES

EVA_CONFIG = EvaVitG.Config(
    image_size=64, patch_size=8, width=96, depth=3, num_heads=4, mlp_ratio=4.3637
)
QFORMER_CONFIG = QFormer.Config(
    num_queries=8,
    num_layers=2,
    width=96,
    num_heads=4,
    ffn_width=384,
    cross_attention_frequency=1,
    over="step",
    dropout=0.0,
)
LN_VISION_KEYS = KeyMap(renames=(("ln_vision.*", "*"),))
"""Name of BLIP-2's norm between the two, in the file of its Q-Former."""

EVA_FILE = "eva_vit_g.safetensors"
QFORMER_FILE = "blip2_qformer.safetensors"

_PLACE_WEIGHT, _MEAN_WEIGHT = 8.0, 16.0


class Eyes(nn.Module):
    """ViT, norm and per-frame Q-Former in a row, as a video branch has them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EvaVitG(EVA_CONFIG)
        shape = EVA_CONFIG.out_shape(1)
        self.norm = LayerNorm(LayerNorm.Config(), shape)
        self.qformer = QFormer(QFORMER_CONFIG, shape)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map float[K, 3, H, W] to patch tokens float[K, P, D] and queries float[K, Q, D]."""
        mask = torch.ones(len(pixels), 1, dtype=torch.bool)
        features: Features = self.norm(self.encoder(pixels[:, None], mask))
        return features.tokens[:, 0, features.num_prefix :], self.qformer(features).tokens[:, 0]


class Heads(nn.Module):
    """What the tokens must tell; linear, and gone after the pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = PatchHeads(width)
        self.slot_presence = nn.Linear(width, 1)
        self.slot_shape = nn.Linear(width, len(SHAPES))
        self.slot_place = nn.Linear(width, 3)
        self.mean_presence = nn.Linear(width, len(COLOURS) * len(SHAPES))
        self.mean_place = nn.Linear(width, len(COLOURS) * 3)

    def loss(self, patches: Tensor, queries: Tensor, *, truth: Frames) -> Tensor:
        """Compare tokens with what is on the frames.

        Args:
            patches: float[K, P, D].
            queries: float[K, Q, D]; query k speaks of colour k.
            truth: of the same K frames.
        """
        has_colour = truth.presence.any(dim=2)
        slots, mean = queries[:, : len(COLOURS)], queries.mean(dim=1)
        shape_of_slot = truth.presence.int().argmax(dim=2)
        return (
            self.patches.loss(patches, truth=truth)
            + cross_entropy(self.slot_shape(slots[has_colour]), shape_of_slot[has_colour])
            + _binary(self.slot_presence(slots).squeeze(2), has_colour)
            + _binary(self.mean_presence(mean), truth.presence.flatten(1)) * _MEAN_WEIGHT
            + _PLACE_WEIGHT * _l1(self.slot_place(slots), truth.place, where=has_colour)
            + _PLACE_WEIGHT
            * _l1(
                self.mean_place(mean).unflatten(1, (len(COLOURS), 3)),
                truth.place,
                where=has_colour,
            )
        )

    def measure(self, patches: Tensor, queries: Tensor, *, truth: Frames) -> dict[str, float]:
        """Score what linear heads read from the tokens of held-out frames."""
        has_colour = truth.presence.any(dim=2)
        slots, mean = queries[:, : len(COLOURS)], queries.mean(dim=1)
        slot_shape = functional.one_hot(self.slot_shape(slots).argmax(dim=2), len(SHAPES)).bool()
        slot_set = slot_shape & (self.slot_presence(slots) > 0)
        mean_set = self.mean_presence(mean).unflatten(1, (len(COLOURS), len(SHAPES))) > 0
        place = self.mean_place(mean).unflatten(1, (len(COLOURS), 3))
        error_px = (place - truth.place)[has_colour].abs() * PLACE_SCALE_PX
        slot_px = (self.slot_place(slots) - truth.place)[has_colour].abs() * PLACE_SCALE_PX
        return {
            "patch_shape": self.patches.measure(patches, truth=truth),
            "slot_set_exact": _all_equal(slot_set, truth.presence),
            "mean_set_exact": _all_equal(mean_set, truth.presence),
            "slot_position_px": slot_px[:, :2].norm(dim=1).mean().item(),
            "mean_position_px": error_px[:, :2].norm(dim=1).mean().item(),
            "mean_radius_px": error_px[:, 2].mean().item(),
        }


@dataclass(frozen=True)
class VisionRecipe:
    """How much is seen and how often.

    Attributes:
        num_train_clips: clips the frames are taken from, 8 of each.
        num_valid_clips: held-out ones.
        schedule: how long and how fast.
    """

    num_train_clips: int = 4000
    num_valid_clips: int = 150
    schedule: Schedule = Schedule(num_steps=3500, batch_size=32, lr=1.5e-3)


DEFAULT_RECIPE = VisionRecipe()


def train_vision(*, seed: int, recipe: VisionRecipe = DEFAULT_RECIPE) -> Trained:
    """Pretrain ViT and image Q-Former from nothing.

    Args:
        seed: of scenes, weights and order.
        recipe: how much is seen and how often.
    """
    torch.manual_seed(seed)
    train = make_frames(recipe.num_train_clips, seed=seed, split="train")
    valid = make_frames(recipe.num_valid_clips, seed=seed, split="valid")
    eyes, heads = Eyes(), Heads(QFORMER_CONFIG.width)
    start_from_pixels(eyes.encoder, pixels=normalise(train.pixels[:2000]))
    scale_to_width(eyes.qformer)

    def loss_of(rows: Tensor) -> Tensor:
        patches, queries = eyes(normalise(train.pixels[rows]))
        return heads.loss(patches, queries, truth=train.take(rows))

    def probe() -> dict[str, float]:
        return measure(eyes, heads=heads, frames=valid)

    curve = fit(
        [eyes, heads],
        loss_of=loss_of,
        num_examples=len(train.pixels),
        schedule=recipe.schedule,
        seed=seed,
        probe=probe,
        name="vision",
    )
    last = curve[-1]
    gates = (
        Gate("slot set exact", last["slot_set_exact"], 0.97),
        Gate("mean set exact", last["mean_set_exact"], 0.97),
        Gate("position error of the mean, px", last["mean_position_px"], 3.0, lower_is_better=True),
        Gate("radius error of the mean, px", last["mean_radius_px"], 1.5, lower_is_better=True),
    )
    return Trained(files=export_vision(eyes), curve=curve, gates=gates)


def export_vision(eyes: Eyes) -> dict[str, dict[str, Tensor]]:
    """Return the weights under published names: those of EVA's file and those of BLIP-2's."""
    return {
        EVA_FILE: export_weights(eyes.encoder, key_map=eyes.encoder.key_map()),
        QFORMER_FILE: {
            **export_weights(eyes.qformer, key_map=eyes.qformer.key_map()),
            **export_weights(eyes.norm, key_map=LN_VISION_KEYS),
        },
    }


def measure(eyes: Eyes, *, heads: Heads, frames: Frames) -> dict[str, float]:
    """Score eyes and heads on frames, without gradients."""
    with torch.no_grad():
        batches = [eyes(normalise(pixels)) for pixels in frames.pixels.split(256)]
        patches, queries = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return heads.measure(patches, queries, truth=frames)


def start_from_pixels(encoder: EvaVitG, *, pixels: Tensor) -> None:
    """Start patch weights and positions where the toy world is easy to see.

    Args:
        encoder: changed in place.
        pixels: float[K, 3, H, W], normalised, of the world the encoder will see.
    """
    config = encoder.config
    start = whitening_of(pixels, patch_size=config.patch_size, width=config.width)
    side = config.image_size // config.patch_size
    projection, positions = encoder.vit.patch_embed.proj, encoder.vit.pos_embed
    assert projection.bias is not None
    assert positions is not None
    with torch.no_grad():
        projection.weight.copy_(start.weight)
        projection.bias.copy_(start.bias)
        positions.copy_(sine_positions(side, width=config.width))


def scale_to_width(qformer: QFormer) -> None:
    """Draw linear weights anew with the spread that keeps signals' size at this width.

    BERT's 0.02 is meant for 768 inputs; at 96 it leaves attention uniform for hundreds of steps.

    Args:
        qformer: changed in place.
    """
    for layer in qformer.layers.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def _all_equal(predicted: Tensor, truth: Tensor) -> float:
    """Share of frames of which every entry is right."""
    return (predicted == truth).flatten(1).all(dim=1).float().mean().item()


def _binary(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target.float())


def _l1(predicted: Tensor, target: Tensor, *, where: Tensor) -> Tensor:
    """Mean absolute error over the entries where a colour is present."""
    return (predicted - target)[where].abs().sum() / max(1, 3 * int(where.sum()))
