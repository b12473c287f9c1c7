"""Any image model of timm by its name: DINOv2, EVA-02, Swin, ConvNeXt, ResNet and many more.

What the model makes before its pooling and head becomes the patch tokens; networks without tokens
give the grid of their last feature map. Nothing is fetched: a part's `weights` names a file with
the names of the model's own `state_dict`, as timm's files on the hub have.

Shapes: M rows, T frames, K valid frames, N tokens a frame, D width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from video_llama.common.media_specs import Filter, Resize
from video_llama.common.registry import did_you_mean, registry
from video_llama.common.types import Features, Shape, VideoSpec
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.base import (
    encode_valid_steps,
    keep_statistics,
    low_precision,
    resize_positions,
)

MAX_PREFIX = 16
"""Class and register tokens that a table of positions may have rows for."""


@dataclass(frozen=True)
class Traits:
    """What a model says of itself before it has weights.

    Attributes:
        image_size: side of a frame in pixels.
        mean: per channel.
        std: per channel.
        num_prefix: class and register tokens before the patches.
        grid: rows and columns of the patches.
        width: D.
        unused: names of parameters that have no part in the patch tokens.
        elsewhere: names in the model's file that the model here lacks: its classifier.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_prefix: int
    grid: tuple[int, int]
    width: int
    unused: tuple[str, ...]
    elsewhere: tuple[str, ...]


@registry.register_encoder("timm_vit")
class TimmVit(nn.Module):
    """Patch tokens of single frames."""

    @dataclass(frozen=True)
    class Config:
        """Which model, and what it is fed.

        Attributes:
            model: a name of `timm.list_models()`, with or without the tag of its weights; the tag
                decides on mean and std, e.g. vit_large_patch14_reg4_dinov2.lvd142m.
            image_size: side of a frame in pixels, None for the model's own; positions are resized
                on load.
            drop_prefix: leave class and register tokens out of what is returned.
            num_frames: frames taken from a clip, T; 1 for a branch of pictures.
            frame_policy: which frames, a name in `processors.video.FRAME_POLICIES`.
            resize: how a frame becomes a square, see `VideoSpec`. The margin that timm cuts off
                all around for classification (`crop_pct`) is kept.
            filter: by what filter, see `VideoSpec`.
            dtype: of linear and convolution weights; norms stay float32. Keep float32 if the
                encoder is trained, or small updates are rounded away.
        """

        model: str
        image_size: int | None = None
        drop_prefix: bool = True
        num_frames: int = 1
        frame_policy: str = "linspace"
        resize: Resize = "short_side_crop"
        filter: Filter = "bicubic_smooth"
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"

        def __post_init__(self) -> None:
            check_name(self.model)
            if self.num_frames < 1:
                raise ValueError(f"num_frames must be at least 1, found {self.num_frames}.")
            if self.image_size is not None and self.image_size < 1:
                raise ValueError(f"image_size must be at least 1, found {self.image_size}.")
            # Asked here, so that a model that cannot be is refused with the run file.
            traits_of(self.model, self.image_size)

        @property
        def traits(self) -> Traits:
            """What the model says of itself."""
            return traits_of(self.model, self.image_size)

        @property
        def num_prefix(self) -> int:
            """Class and register tokens that are returned."""
            return 0 if self.drop_prefix else self.traits.num_prefix

        def media_spec(self) -> VideoSpec:
            """Return what the encoder must be fed."""
            return VideoSpec(
                num_frames=self.num_frames,
                image_size=self.traits.image_size,
                mean=self.traits.mean,
                std=self.traits.std,
                frame_policy=self.frame_policy,
                resize=self.resize,
                filter=self.filter,
            )

        def out_shape(self, num_steps: int) -> Shape:
            """Return the shape of one row: the patches of every frame, and tokens before them."""
            num_tokens = self.num_prefix + math.prod(self.traits.grid)
            return Shape(num_steps, num_tokens=num_tokens, width=self.traits.width)

        def key_map(self) -> KeyMap:
            """Return the table from timm's names to ours."""
            drops = [Excuse(name, "the classifier, not used") for name in self.traits.elsewhere]
            drops += [Excuse(name, "behind the patch tokens") for name in self.traits.unused]
            return KeyMap(
                renames=(("**", "trunk.**"),),
                drops=tuple(drops),
                adapters={"trunk.pos_embed": fit_positions},
            )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk: Any = build(config.model, config.image_size)
        for name in config.traits.unused:
            owner, _, leaf = name.rpartition(".")
            self.trunk.get_submodule(owner).register_parameter(leaf, None)
        self._dtype = getattr(torch, config.dtype)
        for layer in self.trunk.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(self._dtype)

    def train(self, mode: bool = True) -> TimmVit:
        """Set the mode; batch norms keep the statistics of the file."""
        super().train(mode)
        keep_statistics(self)
        return self

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode frames.

        Args:
            raw: float[M, T, 3, H, W], normalised.
            mask: bool[M, T], true where a frame is real.

        Returns:
            Tokens float32[M, T, N, D], zeros and masked where no frame is.
        """
        tokens_MTND = encode_valid_steps(self._encode, raw, mask=mask)
        return Features(
            tokens=tokens_MTND,
            mask=mask[..., None].expand(tokens_MTND.shape[:3]),
            grid=self.config.traits.grid,
            num_prefix=self.config.num_prefix,
        )

    def _encode(self, frames: Tensor) -> Tensor:
        with low_precision(self._dtype, device=frames.device):
            made = self.trunk.forward_features(frames)
        tokens_KND = as_tokens(made, width=self.config.traits.width).float()
        return tokens_KND[:, self.config.traits.num_prefix - self.config.num_prefix :]

    def repeated_layers(self) -> list[nn.Module]:
        """Return the blocks in their order; empty for networks without any."""
        blocks = getattr(self.trunk, "blocks", None)
        return list(blocks.children()) if isinstance(blocks, nn.Module) else []

    def key_map(self) -> KeyMap:
        """Return the table from timm's names to ours."""
        return self.config.key_map()


def check_name(model: str) -> None:
    """Refuse what is no model of timm, or would be fetched.

    Raises:
        ValueError: with the nearest name.
    """
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise ValueError(
            f"timm {timm.__version__} has no model '{model}'{near or '.'} Expected a "
            "name of timm.list_models(); nothing is fetched, `weights` names a file."
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(f"model '{name}' has no weights '{tag}'; known: {', '.join(tags)}.")


def build(model: str, image_size: int | None, *, num_classes: int = 0) -> nn.Module:
    """Build a model of timm with random weights."""
    keys: dict[str, Any] = {"num_classes": num_classes}
    settings = timm.get_pretrained_cfg(model)
    if image_size is not None and settings is not None and settings.fixed_input_size:
        keys["img_size"] = image_size
    return timm.create_model(model, pretrained=False, **keys)


@functools.lru_cache(maxsize=32)
def traits_of(model: str, image_size: int | None) -> Traits:
    """Ask a model about itself, on the meta device.

    Raises:
        ValueError: it makes nothing that could be a grid of patches.
    """
    with torch.device("meta"):
        trunk: Any = build(model, image_size)
        whole = build(model, image_size, num_classes=1)
    told = resolve_model_data_config(trunk)
    side = image_size or told["input_size"][-1]
    try:
        with torch.enable_grad():
            made = trunk.forward_features(torch.empty(1, 3, side, side, device="meta"))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"model '{model}' cannot take frames of {side} pixels: {error}."
        ) from error
    if not isinstance(made, Tensor) or made.ndim not in (3, 4):
        raise ValueError(f"model '{model}' makes no patch tokens of a picture; take another one.")
    width = made.shape[-1] if made.ndim == 3 else trunk.num_features
    num_prefix = getattr(trunk, "num_prefix_tokens", 0) if made.ndim == 3 else 0
    tokens = as_tokens(made, width=width)
    rows = math.isqrt(tokens.shape[1] - num_prefix)
    if rows * rows != tokens.shape[1] - num_prefix:
        raise ValueError(
            f"model '{model}' makes {tokens.shape[1]} tokens of a square picture, {num_prefix} of "
            "them before the patches; the rest is no square grid; take another model."
        )
    made.sum().backward()
    return Traits(
        image_size=side,
        mean=told["mean"],
        std=told["std"],
        num_prefix=num_prefix,
        grid=(rows, rows),
        width=width,
        unused=tuple(name for name, p in trunk.named_parameters() if p.grad is None),
        elsewhere=tuple(sorted(set(whole.state_dict()) - set(trunk.state_dict()))),
    )


def as_tokens(made: Tensor, *, width: int) -> Tensor:
    """Lay a feature map, float[K, D, H, W] or float[K, H, W, D], out as float[K, N, D]."""
    if made.ndim == 3:
        return made
    return made.flatten(2).mT if made.shape[1] == width else made.flatten(1, 2)


def fit_positions(table: Tensor, shape: torch.Size) -> Tensor:
    """Stretch a file's positions to another grid, whatever number of class rows it has."""
    for num_prefix in range(MAX_PREFIX if table.ndim == 3 and len(shape) == 3 else 0):
        resized = resize_positions(table, shape, num_prefix=num_prefix)
        if resized.shape == shape:
            return resized
    return table
