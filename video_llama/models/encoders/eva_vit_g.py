"""EVA ViT-g/14 as BLIP-2 uses it: all patch tokens, no final norm, no head.

The network is timm's `Eva`, whose parameter names are those of the published `eva_vit_g.pth`
(LAVIS, lavis/models/eva_vit.py). The norm after it is a bridge stage, `layer_norm`.

Shapes: M rows, T frames, K valid frames, N = 1 + patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape, VideoSpec
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.base import encode_valid_steps, low_precision, resize_positions

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per channel, as published with CLIP (openai/CLIP, clip/clip.py)."""

PUBLISHED_DEPTH = 40
"""Blocks of the published trunk; BLIP-2 uses all but the last."""


@registry.register_encoder("eva_vit_g")
class EvaVitG(nn.Module):
    """A plain vision transformer over single frames."""

    @dataclass(frozen=True)
    class Config:
        """Sizes and the media the weights were trained with.

        Attributes:
            image_size: side of a frame in pixels; positions are resized on load.
            patch_size: side of a patch in pixels.
            width: D.
            depth: transformer blocks.
            num_heads: attention heads a block.
            mlp_ratio: hidden width of the MLP over D; the product is rounded down.
            num_frames: frames taken from a clip, T.
            frame_policy: which frames, a name in `processors.video.FRAME_POLICIES`.
            mean: per channel.
            std: per channel.
            drop_path_rate: of the last block, growing linearly from 0; matters if trained.
            dtype: of linear and convolution weights; norms and the residual stream stay float32.
                Keep float32 if the encoder is trained, or small updates are rounded away.
        """

        image_size: int = 224
        patch_size: int = 14
        width: int = 1408
        depth: int = 39
        num_heads: int = 16
        mlp_ratio: float = 4.3637
        num_frames: int = 8
        frame_policy: str = "segment_start"
        mean: tuple[float, float, float] = CLIP_MEAN
        std: tuple[float, float, float] = CLIP_STD
        drop_path_rate: float = 0.0
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"

        def __post_init__(self) -> None:
            if self.image_size % self.patch_size:
                raise ValueError(
                    f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}."
                )
            if self.width % self.num_heads:
                raise ValueError(
                    f"width {self.width} is no multiple of num_heads {self.num_heads}."
                )
            if min(self.depth, self.num_frames) < 1:
                raise ValueError("depth and num_frames must be at least 1.")

        def media_spec(self) -> VideoSpec:
            """Return what the encoder must be fed."""
            return VideoSpec(
                num_frames=self.num_frames,
                image_size=self.image_size,
                mean=self.mean,
                std=self.std,
                frame_policy=self.frame_policy,
            )

        def out_shape(self, num_steps: int) -> Shape:
            """Return the shape of one row: a class token and the patches of every frame."""
            side = self.image_size // self.patch_size
            return Shape(num_steps=num_steps, num_tokens=1 + side * side, width=self.width)

        def key_map(self) -> KeyMap:
            """Return the table from the names in `eva_vit_g.pth` to ours."""
            past = tuple(
                Excuse(f"blocks.{index}.**", "blocks past the depth in use")
                for index in range(self.depth, PUBLISHED_DEPTH)
            )
            unused = tuple(
                Excuse(f"{name}.**", "final norm and head, not used by BLIP-2")
                for name in ("norm", "fc_norm", "head")
            )
            return KeyMap(
                renames=(("**", "vit.**"),),
                drops=past + unused,
                adapters={"vit.pos_embed": resize_positions},
            )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vit = Eva(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=True,
            qkv_fused=True,
            use_abs_pos_emb=True,
            use_rot_pos_emb=False,
            swiglu_mlp=False,
            num_classes=0,
            global_pool="",
            use_fc_norm=False,
            drop_path_rate=config.drop_path_rate,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.vit.norm = nn.Identity()
        self._dtype = getattr(torch, config.dtype)
        for layer in self.vit.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(self._dtype)

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode frames.

        Args:
            raw: float[M, T, 3, H, W], normalised.
            mask: bool[M, T], true where a frame is real.

        Returns:
            Tokens float32[M, T, N, D], zeros and masked where no frame is.
        """
        tokens_MTND = encode_valid_steps(self._encode, raw, mask=mask)
        side = self.config.image_size // self.config.patch_size
        return Features(
            tokens=tokens_MTND,
            mask=mask[..., None].expand(tokens_MTND.shape[:3]),
            grid=(side, side),
            num_prefix=1,
        )

    def _encode(self, frames: Tensor) -> Tensor:
        with low_precision(self._dtype, device=frames.device):
            return self.vit(frames).float()

    def repeated_layers(self) -> list[nn.Module]:
        """Return the blocks in their order."""
        return list(self.vit.blocks)

    def key_map(self) -> KeyMap:
        """Return the table from the names in `eva_vit_g.pth` to ours."""
        return self.config.key_map()
