"""ImageBind-huge's audio and vision trunks; only the chosen one is built.

Ported from ImageBind (facebookresearch/ImageBind, imagebind/models/imagebind_model.py). Both
trunks end in the same space, which is why Video-LLaMA trains its audio branch on pictures through
the vision trunk and listens through the audio trunk. Text, depth, thermal and motion are left out.

Shapes: M rows, T clips or frames, K valid steps, F mel bins, L mel frames, N tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.registry import registry
from video_llama.common.types import AudioSpec, Features, MediaSpec, Shape, VideoSpec
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.base import encode_valid_steps, resize_positions
from video_llama.models.encoders.eva_vit_g import CLIP_MEAN, CLIP_STD

MEL_MEAN, MEL_STD = -4.268, 9.138
"""Of log-mel values over AudioSet, as published (imagebind/data.py)."""

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
NORM_EPS = 1e-6
STEM_NORM_EPS = 1e-5
MLP_RATIO = 4
FRAMES_PER_PATCH = 2
"""The vision stem is a convolution over two frames; a still picture is shown to it twice."""

INITIAL_SCALE = 20.0
MAX_SCALE = 100.0


@registry.register_encoder("imagebind")
class ImageBind(nn.Module):
    """One token for every sound clip or frame, on the unit sphere of the joint space."""

    @dataclass(frozen=True)
    class Config:
        """Sizes of both trunks, so that switching between them is one key.

        Attributes:
            trunk: "audio" hears mels, "vision" sees frames.
            out_width: width of the joint space.
            audio_scale: "released" multiplies the audio trunk's unit vectors by its learned scale
                (20 in the published file), as the released weights expect at inference although
                they were trained on the vision trunk's unit vectors; "matched" leaves them at 1.
            audio_width: D of the audio trunk.
            audio_depth: its blocks.
            audio_num_heads: attention heads of its blocks.
            audio_patch_size: side of its patches in mel bins and frames.
            audio_patch_stride: step between patches; they overlap where it is smaller.
            num_mel_bins: F.
            num_mel_frames: L.
            num_clips: clips cut from a track, T.
            clip_s: length of a clip in seconds.
            clip_policy: where clips start, a name in `processors.audio.CLIP_POLICIES`.
            vision_width: D of the vision trunk.
            vision_depth: its blocks.
            vision_num_heads: attention heads of its blocks.
            vision_patch_size: side of its patches in pixels.
            image_size: side of a frame in pixels; positions are resized on load.
            num_frames: frames taken from a clip, T.
            frame_policy: which frames, a name in `processors.video.FRAME_POLICIES`.
        """

        trunk: Literal["audio", "vision"] = "audio"
        out_width: int = 1024
        audio_scale: Literal["released", "matched"] = "released"
        audio_width: int = 768
        audio_depth: int = 12
        audio_num_heads: int = 12
        audio_patch_size: int = 16
        audio_patch_stride: int = 10
        num_mel_bins: int = 128
        num_mel_frames: int = 204
        num_clips: int = 8
        clip_s: float = 2.0
        clip_policy: str = "clips"
        vision_width: int = 1280
        vision_depth: int = 32
        vision_num_heads: int = 16
        vision_patch_size: int = 14
        image_size: int = 224
        num_frames: int = 8
        frame_policy: str = "segment_start"

        def __post_init__(self) -> None:
            for trunk in ("audio", "vision"):
                width, heads = (getattr(self, f"{trunk}_{name}") for name in ("width", "num_heads"))
                if width % heads:
                    raise ValueError(
                        f"{trunk}_width {width} is no multiple of {trunk}_num_heads {heads}."
                    )
            if self.image_size % self.vision_patch_size:
                raise ValueError(
                    f"image_size {self.image_size} is no multiple of vision_patch_size "
                    f"{self.vision_patch_size}."
                )
            if min(self.num_mel_bins, self.num_mel_frames) < self.audio_patch_size:
                raise ValueError(
                    f"a mel of {self.num_mel_bins} x {self.num_mel_frames} is smaller than one "
                    f"patch; audio_patch_size is {self.audio_patch_size}."
                )

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of patches of the chosen trunk."""
            if self.trunk == "vision":
                side = self.image_size // self.vision_patch_size
                return side, side
            size, stride = self.audio_patch_size, self.audio_patch_stride
            rows, columns = (
                (length - size) // stride + 1 for length in (self.num_mel_bins, self.num_mel_frames)
            )
            return rows, columns

        def media_spec(self) -> MediaSpec:
            """Return what the chosen trunk must be fed."""
            if self.trunk == "vision":
                return VideoSpec(
                    num_frames=self.num_frames,
                    image_size=self.image_size,
                    mean=CLIP_MEAN,
                    std=CLIP_STD,
                    frame_policy=self.frame_policy,
                )
            return AudioSpec(
                num_clips=self.num_clips,
                clip_s=self.clip_s,
                sample_rate_hz=16_000,
                num_mel_bins=self.num_mel_bins,
                num_mel_frames=self.num_mel_frames,
                mean=MEL_MEAN,
                std=MEL_STD,
                clip_policy=self.clip_policy,
            )

        def out_shape(self, num_steps: int) -> Shape:
            """Return the shape of one row: one token a step."""
            return Shape(num_steps=num_steps, num_tokens=1, width=self.out_width)

        def key_map(self) -> KeyMap:
            """Return the table from the names in `imagebind_huge.pth` to ours."""
            trunk = self.trunk
            pre = f"modality_preprocessors.{trunk}"
            stem = f"{pre}.rgbt_stem"
            blocks = f"modality_trunks.{trunk}.blocks"
            shared = (
                (f"{pre}.cls_token", "cls_token"),
                (f"{pre}.pos_embedding_helper.pos_embed", "positions"),
                (f"{blocks}.**", "blocks.**"),
                (f"modality_heads.{trunk}.0.*", "norm.*"),
                (f"modality_heads.{trunk}.2.weight", "head.weight"),
            )
            own = {
                "audio": (
                    (f"{stem}.proj.weight", "stem.weight"),
                    (f"{stem}.norm_layer.*", "stem.norm.*"),
                    ("modality_postprocessors.audio.1.log_logit_scale", "log_scale"),
                ),
                "vision": (
                    (f"{stem}.proj.1.weight", "stem.weight"),
                    ("modality_trunks.vision.pre_transformer_layer.0.*", "pre_norm.*"),
                ),
            }[trunk]
            return KeyMap(
                renames=shared + own,
                drops=tuple(
                    Excuse(f"modality_*.{other}.**", f"only the {trunk} trunk is built")
                    for other in MODALITIES
                    if other != trunk
                ),
                adapters={"positions": resize_positions} if trunk == "vision" else {},
            )

    log_scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, depth, num_heads = (
            getattr(config, f"{config.trunk}_{name}") for name in ("width", "depth", "num_heads")
        )
        if config.trunk == "audio":
            self.stem: nn.Module = MelStem(
                width, patch_size=config.audio_patch_size, stride=config.audio_patch_stride
            )
            self.pre_norm: nn.Module = nn.Identity()
            self.register_buffer("log_scale", torch.tensor(INITIAL_SCALE).log())
        else:
            self.stem = FrameStem(width, patch_size=config.vision_patch_size)
            self.pre_norm = nn.LayerNorm(width, eps=NORM_EPS)
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + rows * columns, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(
            Block(width, num_heads=num_heads, has_bias_kv=config.trunk == "audio")
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, config.out_width, bias=False)

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode sound clips or frames.

        Args:
            raw: float[M, T, 1, F, L] mels or float[M, T, 3, H, W] frames, normalised.
            mask: bool[M, T], true where a step is real.

        Returns:
            Tokens float[M, T, 1, out_width], zeros and masked where no step is.
        """
        tokens_MTND = encode_valid_steps(self._encode, raw, mask=mask)
        return Features(tokens=tokens_MTND, mask=mask[..., None])

    def _encode(self, steps: Tensor) -> Tensor:
        patches_KND = self.stem(steps)
        cls_K1D = self.cls_token.expand(len(patches_KND), -1, -1)
        hidden_KND = self.pre_norm(torch.cat([cls_K1D, patches_KND], dim=1) + self.positions)
        *blocks, last = self.blocks
        for block in blocks:
            hidden_KND = block(hidden_KND)
        # What leaves the trunk is the class token; the last block need not compute the others.
        cls_K1D = last(hidden_KND, num_kept=1)
        joint_K1D = functional.normalize(self.head(self.norm(cls_K1D)), dim=-1)
        if self.config.trunk == "audio" and self.config.audio_scale == "released":
            return joint_K1D * self.log_scale.exp().clamp(max=MAX_SCALE)
        return joint_K1D

    def repeated_layers(self) -> list[nn.Module]:
        """Return the blocks in their order."""
        return list(self.blocks)

    def key_map(self) -> KeyMap:
        """Return the table from the names in `imagebind_huge.pth` to ours."""
        return self.config.key_map()


class MelStem(nn.Module):
    """Overlapping patches of a mel picture, normalised: float[K, 1, F, L] to float[K, N, D]."""

    def __init__(self, width: int, *, patch_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(width, 1, patch_size, patch_size))
        self.norm = nn.LayerNorm(width, eps=STEM_NORM_EPS)
        _init_convolution(self.weight)

    def forward(self, mels: Tensor) -> Tensor:
        """Cut mels into patches."""
        patches = functional.conv2d(mels, self.weight, stride=self.stride)
        return self.norm(patches.flatten(2).transpose(1, 2))


class FrameStem(nn.Module):
    """Patches of a still picture: float[K, 3, H, W] to float[K, N, D]."""

    def __init__(self, width: int, *, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3, FRAMES_PER_PATCH, patch_size, patch_size))
        _init_convolution(self.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Cut frames into patches."""
        # Showing one picture as every frame of the kernel equals summing the kernel over time.
        weight = self.weight.sum(dim=2)
        patches = functional.conv2d(frames, weight, stride=weight.shape[-1])
        return patches.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block; names are the published ones."""

    def __init__(self, width: int, *, num_heads: int, has_bias_kv: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(
            width, num_heads, add_bias_kv=has_bias_kv, batch_first=True
        )
        self.norm_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, hidden_width=MLP_RATIO * width)
        self.norm_2 = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, hidden: Tensor, num_kept: int | None = None) -> Tensor:
        """Map float[K, N, D] to its first `num_kept` tokens, by default all of them."""
        normed = self.norm_1(hidden)
        mixed = self.attn(normed[:, :num_kept], normed, normed, need_weights=False)[0]
        hidden = hidden[:, :num_kept] + mixed
        return hidden + self.mlp(self.norm_2(hidden))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, *, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[K, N, D]."""
        return self.fc2(functional.gelu(self.fc1(hidden)))


def _init_convolution(weight: Tensor) -> None:
    """Initialise as torch's convolutions do: uniform within one over the root of the fan-in."""
    bound = weight[0].numel() ** -0.5
    nn.init.uniform_(weight, -bound, bound)
