"""Keys of the vision transformers of CLIP, SigLIP and LanguageBind; registers nothing itself.

What can be said before any weight exists: sizes, media, shapes, names in published files. The
modules are in `vit_layers`.

Shapes: T frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from video_llama.common.media_specs import Filter, Resize
from video_llama.common.types import Shape, VideoSpec
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.base import resize_positions
from video_llama.models.encoders.eva_vit_g import CLIP_MEAN, CLIP_STD

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
Dtype = Literal["float32", "bfloat16", "float16"]

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Family:
    """What the published trunks of one family have in common.

    Attributes:
        has_class_token: a class token stands before the patches, a norm before the first layer,
            and the patch convolution has no bias.
        norm_eps: of every norm.
        activation: of the MLPs, where the config names none.
        mean: of pixels, where the config names none.
        std: of pixels, where the config names none.
        resize: how a frame becomes a square, where the config does not say.
    """

    has_class_token: bool
    norm_eps: float
    activation: Activation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize


FAMILIES = {
    "clip": Family(True, 1e-5, "quick_gelu", CLIP_MEAN, CLIP_STD, "short_side_crop"),
    "siglip": Family(False, 1e-6, "gelu_tanh", HALF, HALF, "squash"),
}
"""After openai/clip-vit-* and google/siglip-*, their config.json and preprocessor_config.json."""


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a trunk and the media its weights were trained with.

    Attributes:
        image_size: side of a frame in pixels; positions are resized on load.
        patch_size: side of a patch in pixels; what is left of a frame is not seen.
        width: D.
        depth: layers of the published trunk.
        num_heads: attention heads a layer.
        ffn_width: hidden width of the MLPs.
        family: "clip" (a class token, a norm before the first layer) or "siglip" (neither).
        activation: of the MLPs, None for the family's: quick_gelu of openai's CLIP, gelu_tanh of
            SigLIP. Other CLIPs may have gelu: LanguageBind, and what laion trained on DataComp.
        select_layer: whose output is used: -1 the last layer's, -2 the one's before it, n the
            n-th's. No norm follows. Layers behind it are not built.
        drop_class_token: leave the class token out of what is returned; SigLIP has none.
        num_frames: frames taken from a clip, T; 1 for a branch of pictures.
        frame_policy: which frames, a name in `processors.video.FRAME_POLICIES`.
        mean: per channel, None for the family's.
        std: per channel, None for the family's.
        resize: how a frame becomes a square, see `VideoSpec`; None for the family's.
        filter: by what filter, see `VideoSpec`.
        dtype: of linear and convolution weights; norms and the residual stream stay float32.
            Keep float32 if the encoder is trained, or small updates are rounded away.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    ffn_width: int = 4096
    family: Literal["clip", "siglip"] = "clip"
    activation: Activation | None = None
    select_layer: int = -2
    drop_class_token: bool = True
    num_frames: int = 1
    frame_policy: str = "linspace"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: Resize | None = None
    filter: Filter = "bicubic_smooth"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is smaller than patch_size {self.patch_size}."
            )
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}.")
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, found {self.num_frames}.")
        if not 1 <= self.num_layers <= self.depth:
            raise ValueError(
                f"select_layer {self.select_layer} is none of the {self.depth} layers; expected "
                f"1 to {self.depth}, or -1 to -{self.depth} counted from the last."
            )

    @property
    def num_layers(self) -> int:
        """Layers that are built."""
        return self.select_layer + (self.depth + 1 if self.select_layer < 0 else 0)

    @property
    def traits(self) -> Family:
        """What the family says."""
        return FAMILIES[self.family]

    @property
    def side(self) -> int:
        """Patches in a row, and rows."""
        return self.image_size // self.patch_size

    @property
    def num_prefix(self) -> int:
        """Class tokens that are returned."""
        return int(self.traits.has_class_token and not self.drop_class_token)

    def media_spec(self) -> VideoSpec:
        """Return what the encoder must be fed."""
        return VideoSpec(
            num_frames=self.num_frames,
            image_size=self.image_size,
            mean=self.mean or self.traits.mean,
            std=self.std or self.traits.std,
            frame_policy=self.frame_policy,
            resize=self.resize or self.traits.resize,
            filter=self.filter,
        )

    def out_shape(self, num_steps: int) -> Shape:
        """Return the shape of one row: the patches of every frame, and a class token if kept."""
        return Shape(num_steps, num_tokens=self.num_prefix + self.side**2, width=self.width)

    def key_map(self) -> KeyMap:
        """Return the table from published names, with or without `vision_model.`, to ours."""
        here = (
            *((f"encoder.layers.{i}.**", "behind the layer in use") for i in self._unused()),
            ("post_layernorm.*", "norm behind the last layer, not used"),
            ("head.**", "pooling, not used"),
            ("embeddings.position_ids", "counted, not learnt"),
        )
        beside = (
            ("text_model.**", "the text tower, not used"),
            ("visual_projection.weight", "projection into the space of texts, not used"),
            ("text_projection.weight", "projection of texts, not used"),
            ("logit_*", "scale of the contrastive loss, not used"),
        )
        inside = KeyMap(drops=tuple(Excuse(*drop) for drop in here))
        outside = KeyMap(renames=(), drops=tuple(Excuse(*drop) for drop in beside))
        whole = inside.under(published="vision_model.").join(inside, outside)
        table = {"embeddings.position_embedding.weight": self._fit_positions}
        return KeyMap(renames=whole.renames, drops=whole.drops, adapters=table)

    def _unused(self) -> range:
        return range(self.num_layers, self.depth)

    def _fit_positions(self, table: Tensor, shape: torch.Size) -> Tensor:
        """Stretch a file's positions to this config's grid."""
        num_prefix = int(self.traits.has_class_token)
        if table.ndim != 2 or len(shape) != 2:
            return table
        return resize_positions(table[None], torch.Size((1, *shape)), num_prefix=num_prefix)[0]
