"""LanguageBind's video trunk: a CLIP ViT whose layers look across time before they look around.

Ported from LanguageBind (PKU-YuanGroup/LanguageBind, languagebind/video/modeling_video.py), whose
towers Video-LLaVA's published checkpoints hold. Before the spatial attention of a layer, every
token attends to the tokens in its place in all frames of its clip; there is no temporal MLP.
Without temporal attention it is the trunk of transformers' `VideoLlavaForConditionalGeneration`.

Shapes: M rows, R rows of equal length, T frames, N tokens a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import Features
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.vit import Activation, Filter, VitConfig
from video_llama.models.encoders.vit_layers import Attention, Layer, VitTrunk

TEMPORAL = ("temporal_embedding", "temporal_attn.**", "temporal_layer_norm1.*")
"""What a layer has besides a CLIP layer's own."""


@registry.register_encoder("languagebind")
class LanguageBind(VitTrunk):
    """Patch tokens of frames that have seen the rest of their clip."""

    @dataclass(frozen=True)
    class Config(VitConfig):
        """Sizes of LanguageBind_Video_merge unless told otherwise; see also `vit.VitConfig`.

        Attributes:
            activation: of the MLPs.
            drop_class_token: leave the class token of every frame out of what is returned;
                Video-LLaVA keeps it.
            num_frames: frames taken from a clip, T.
            filter: by what filter, see `VideoSpec`.
            temporal_attention: whether the layers look across time.
            num_positions: rows of the published table of frames; it is stretched over the frames
                of a clip that has more or fewer.
        """

        activation: Activation | None = "gelu"
        drop_class_token: bool = False
        num_frames: int = 8
        filter: Filter = "bilinear"
        temporal_attention: bool = True
        num_positions: int = 8

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.family != "clip":
                raise ValueError(f"LanguageBind is of the family clip, found {self.family}.")
            if self.num_positions < 1:
                raise ValueError(f"num_positions must be at least 1, found {self.num_positions}.")

        def key_map(self) -> KeyMap:
            """Return the table from published names, with or without `vision_model.`, to ours."""
            table = super().key_map()
            if self.temporal_attention:
                return table
            off = tuple(
                Excuse(f"{prefix}encoder.layers.*.{name}", "temporal_attention is off")
                for prefix in ("vision_model.", "")
                for name in TEMPORAL
            )
            return table.join(KeyMap(renames=(), drops=off))

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, layer_type=TemporalLayer if config.temporal_attention else Layer)
        self._has_warned = False

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode clips; frames that are not real have no part in them.

        Args:
            raw: float[M, T, 3, H, W], normalised.
            mask: bool[M, T], true where a frame is real.

        Returns:
            Tokens float32[M, T, N, D], zeros and masked where no frame is.
        """
        # Rows of equal length together, without padding: a clip's features, its positions in time
        # among them, are then a function of its own frames alone.
        lengths = mask.sum(dim=1)
        pieces, places = [], []
        for length in sorted(set(lengths.tolist()) - {0}):
            chosen = mask & (lengths == length)[:, None]
            clips = raw[chosen].unflatten(0, (-1, length))
            pieces.append(self._encode(clips).flatten(0, 1))
            places.append(chosen.nonzero())
        if not pieces:
            # An empty slice of something keeps the parameters in the graph.
            nothing = raw.new_zeros(1, self.config.num_frames, *raw.shape[2:])
            pieces.append(self._encode(nothing).flatten(0, 1)[:0])
            places.append(mask.nonzero())
        found, where = torch.cat(pieces), torch.cat(places)
        tokens_MTND = found.new_zeros(*mask.shape, *found.shape[1:])
        tokens_MTND = tokens_MTND.index_put((where[:, 0], where[:, 1]), found)
        return self.features(tokens_MTND, mask=mask)

    def _encode(self, clips: Tensor) -> Tensor:
        """Turn float[R, T, 3, H, W] into float32[R, T, N, D]."""
        num_frames = clips.shape[1]
        if not self.config.temporal_attention:
            return self.run(clips.flatten(0, 1)).unflatten(0, (-1, num_frames))
        self._warn_if_stretched(num_frames)
        return self.run(clips.flatten(0, 1), num_frames).unflatten(0, (-1, num_frames))

    def _warn_if_stretched(self, num_frames: int) -> None:
        rows = self.config.num_positions
        if num_frames in (1, rows) or self._has_warned:
            return
        self._has_warned = True
        get_logger().warning(
            "languagebind: a clip of %d frames; the weights were trained with %d, positions in "
            "time are stretched (said once)",
            num_frames,
            rows,
        )


class TemporalLayer(Layer):
    """A CLIP layer behind attention over the frames of a clip."""

    def __init__(self, config: LanguageBind.Config) -> None:
        super().__init__(config)
        width = config.width
        table = torch.randn(1, config.num_positions, width) * width**-0.5
        self.temporal_embedding = nn.Parameter(table)
        self.temporal_attn = Attention(width, num_heads=config.num_heads)
        self.temporal_layer_norm1 = nn.LayerNorm(width, eps=config.traits.norm_eps)

    def forward(self, hidden: Tensor, num_frames: int = 1) -> Tensor:
        """Map float[R T, N, D], the frames of a clip one after the other."""
        clips_RNTD = hidden.unflatten(0, (-1, num_frames)).transpose(1, 2)
        clips_RNTD = clips_RNTD + self._positions(num_frames)
        tubes_KTD = self.temporal_layer_norm1(clips_RNTD).flatten(0, 1)
        clips_RNTD = clips_RNTD + self.temporal_attn(tubes_KTD).view_as(clips_RNTD)
        return super().forward(clips_RNTD.transpose(1, 2).flatten(0, 1))

    def _positions(self, num_frames: int) -> Tensor:
        """Return float[T, D], or a zero for a single frame, which has no place in time."""
        table_1PD = self.temporal_embedding
        if num_frames == 1:
            # As published. The sum over nothing keeps the table in the graph.
            return table_1PD[:, :0].sum()
        if num_frames == table_1PD.shape[1]:
            return table_1PD[0]
        stretched = functional.interpolate(
            table_1PD.float().mT, size=num_frames, mode="linear", align_corners=True
        )
        return stretched[0].mT
