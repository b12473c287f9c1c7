"""LanguageBind's video trunk: a CLIP ViT whose layers look across time before they look around.

Ported from LanguageBind (PKU-YuanGroup/LanguageBind, languagebind/video/modeling_video.py), whose
towers Video-LLaVA's published checkpoints hold. Before the spatial attention of a layer, every
token attends to the tokens in its place in all frames of its clip; there is no temporal MLP.
Without temporal attention it is the trunk of transformers' `VideoLlavaForConditionalGeneration`.

Shapes: M rows, R clips, T frames of the longest, K real frames of all, N tokens a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from video_llama.common.logger import get_logger
from video_llama.common.media_specs import Filter
from video_llama.common.registry import registry
from video_llama.common.types import Features
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.vit import Activation, VitConfig
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
        # The layers are entered once, whatever the rows hold: ranks that share weights rely on it.
        frames = raw[mask]
        is_empty = len(frames) == 0
        if is_empty:
            # An empty slice of something keeps the parameters in the graph.
            frames = raw.new_zeros(self.config.num_frames, *raw.shape[2:])
        # A row by itself is computed without its padding, to the bit as if it never had any.
        alone = is_empty or len(mask) == 1
        tokens_KND = self._encode(frames, mask.new_ones(1, len(frames)) if alone else mask)
        if is_empty:
            tokens_KND = tokens_KND[:0]
        tokens_MTND = tokens_KND.new_zeros(*mask.shape, *tokens_KND.shape[1:])
        return self.features(tokens_MTND.index_put((mask,), tokens_KND), mask=mask)

    def _encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn float[K, 3, H, W], the frames where bool[R, T] is true, into float32[K, N, D]."""
        if not self.config.temporal_attention:
            return self.run(frames)
        self._warn_if_stretched(mask.shape[1])
        clips = Clips.of(
            mask, num_rows=self.config.num_positions, is_full=len(frames) == mask.numel()
        )
        return self.run(frames, clips)

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


@dataclass(frozen=True)
class Clips:
    """How frames that stand one after the other make up clips.

    Attributes:
        mask: bool[R, T], true where a frame is real; the frames are those, row by row.
        times: float[R, T], where each frame lies in the table of frames.
        is_moving: float[R, 1, 1], 0 for a single frame, which has no place in time, else 1.
        places: int64[R, T], the number of each frame; None if all are real.
        seen: bool[R, T, T], which frames each may look at; None if it is all.
    """

    mask: Tensor
    times: Tensor
    is_moving: Tensor
    places: Tensor | None = None
    seen: Tensor | None = None

    @classmethod
    def of(cls, mask: Tensor, *, num_rows: int, is_full: bool) -> Clips:
        """Lay clips over a table of `num_rows` rows, from its first to its last."""
        lengths = mask.sum(dim=1, keepdim=True)
        times = (mask.cumsum(dim=1) - 1).clamp(min=0) * (num_rows - 1) / (lengths - 1).clamp(min=1)
        is_moving = (lengths > 1)[..., None].float()
        if is_full:
            return cls(mask, times, is_moving)
        places = (mask.flatten().cumsum(dim=0) - 1).clamp(min=0).view_as(mask)
        # What is not real looks at itself, for attention to nothing is not a number.
        alone = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return cls(mask, times, is_moving, places=places, seen=mask[:, None] | alone)


class TemporalLayer(Layer):
    """A CLIP layer behind attention over the frames of a clip."""

    def __init__(self, config: LanguageBind.Config) -> None:
        super().__init__(config)
        width = config.width
        table = torch.randn(1, config.num_positions, width) * width**-0.5
        self.temporal_embedding = nn.Parameter(table)
        self.temporal_attn = Attention(width, num_heads=config.num_heads)
        self.temporal_layer_norm1 = nn.LayerNorm(width, eps=config.traits.norm_eps)

    def forward(self, hidden: Tensor, clips: Clips | None = None) -> Tensor:
        """Map float[K, N, D], the frames of clips."""
        assert clips is not None, "a layer that looks across time needs to know the clips"
        if clips.places is None:
            frames_RTND = hidden.unflatten(0, clips.mask.shape)
        else:
            frames_RTND = hidden[clips.places]
        tubes_RNTD = frames_RTND.transpose(1, 2) + self.positions(clips)[:, None]
        num_tokens = hidden.shape[1]
        seen = None if clips.seen is None else clips.seen.repeat_interleave(num_tokens, dim=0)
        read = self.temporal_attn(self.temporal_layer_norm1(tubes_RNTD).flatten(0, 1), seen)
        frames_RTND = (tubes_RNTD + read.view_as(tubes_RNTD)).transpose(1, 2)
        if clips.places is None:
            return super().forward(frames_RTND.flatten(0, 1))
        return super().forward(frames_RTND[clips.mask])

    def positions(self, clips: Clips) -> Tensor:
        """Return float[R, T, D]: rows of the table of frames, or what lies between two of them."""
        table_PD = self.temporal_embedding[0].float()
        below = clips.times.long()
        above = (below + 1).clamp(max=len(table_PD) - 1)
        low, share = table_PD[below], (clips.times - below)[..., None]
        return (low + share * (table_PD[above] - low)) * clips.is_moving
