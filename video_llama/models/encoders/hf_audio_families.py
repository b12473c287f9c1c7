"""What Whisper, AST and CLAP are: pictures, shapes and names of each; registers nothing itself.

Shapes: K clips, F mel bins, L mel frames, R rows of a grid (of frequencies), C columns (of time),
D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTModel,
    ClapAudioConfig,
    ClapAudioModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from video_llama.common.types import AudioSpec
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.encoders.hf_audio_family import Family

WHISPER_RATE_HZ, AST_RATE_HZ, CLAP_RATE_HZ = 16_000, 16_000, 48_000
FRAMES_PER_S = 100
"""Of all three."""

WHISPER_STRIDE = 2
"""Mel frames a token: of the second convolution."""

CLAP_CLIP_S = 10.0
"""Of `ClapFeatureExtractor`."""

AST_MARGIN_S = 0.02
"""What a clip needs beyond its frames for the window of the last."""

AST_MEAN, AST_STD = -4.2677393, 4.5689974
"""Of log-mel values over AudioSet; AST divides by twice the second (`ASTFeatureExtractor`)."""


def first_rows(table: Tensor, shape: torch.Size) -> Tensor:
    """Cut a table of positions to fewer."""
    return table[: shape[0]] if len(table) > shape[0] else table


class Whisper(Family[WhisperEncoder]):
    """The encoder of Whisper; a clip may be shorter than its 30 s, its positions are then cut."""

    config_class = WhisperConfig
    model_types = ("whisper",)
    key_map = KeyMap(
        renames=(("model.encoder.**", "trunk.**"), ("encoder.**", "trunk.**")),
        drops=tuple(
            Excuse(pattern, "the decoder of text, not used")
            for pattern in ("model.decoder.**", "decoder.**", "proj_out.weight")
        ),
        adapters={"trunk.embed_positions.weight": first_rows},
    )

    def check(self) -> None:
        """Refuse clips of half a token, or of more than there are positions."""
        longest_s = self.config.max_source_positions * WHISPER_STRIDE / FRAMES_PER_S
        tokens = (longest_s if self.clip_s is None else self.clip_s) * FRAMES_PER_S / WHISPER_STRIDE
        if round(tokens, 6) % 1 or tokens < 1:
            raise ValueError(
                f"clip_s must be a multiple of {WHISPER_STRIDE / FRAMES_PER_S} s for whisper, "
                f"found {self.clip_s}."
            )
        if tokens > self.config.max_source_positions:
            raise ValueError(
                f"clip_s must be at most {longest_s:g} s, which whisper has positions for, found "
                f"{self.clip_s}."
            )
        self.config.max_source_positions = round(tokens)

    def build(self) -> WhisperEncoder:
        """Return the encoder; its positions learn if the part does."""
        return WhisperEncoder(self.config).requires_grad_(True)

    def spec(self, *, num_clips: int, clip_policy: str) -> AudioSpec:
        """Return what the encoder must be fed."""
        num_frames = WHISPER_STRIDE * self.config.max_source_positions
        return AudioSpec(
            num_clips=num_clips,
            clip_s=num_frames / FRAMES_PER_S,
            sample_rate_hz=WHISPER_RATE_HZ,
            num_mel_bins=self.config.num_mel_bins,
            num_mel_frames=num_frames,
            mean=-4.0,
            std=4.0,
            clip_policy=clip_policy,
            recipe="whisper",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """One row: the convolutions take all frequencies in."""
        return 1, int(self.config.max_source_positions)

    @property
    def width(self) -> int:
        """D."""
        return int(self.config.d_model)

    def run(self, trunk: WhisperEncoder, mels: Tensor) -> Tensor:
        """Turn float[K, 1, F, L] into float[K, 1, C, D]."""
        return trunk(mels[:, 0]).last_hidden_state[:, None]

    def layers(self, trunk: WhisperEncoder) -> list[nn.Module]:
        """Return the layers in their order."""
        return list(trunk.layers)


_AST = KeyMap(
    renames=(
        ("encoder.layer.*.attention.attention.query.*", "trunk.layers.*.attention.q_proj.*"),
        ("encoder.layer.*.attention.attention.key.*", "trunk.layers.*.attention.k_proj.*"),
        ("encoder.layer.*.attention.attention.value.*", "trunk.layers.*.attention.v_proj.*"),
        ("encoder.layer.*.attention.output.dense.*", "trunk.layers.*.attention.o_proj.*"),
        ("encoder.layer.*.intermediate.dense.*", "trunk.layers.*.mlp.fc1.*"),
        ("encoder.layer.*.output.dense.*", "trunk.layers.*.mlp.fc2.*"),
        ("encoder.layer.*.**", "trunk.layers.*.**"),
        ("**", "trunk.**"),
    ),
)
"""Names inside AST: those of files on the hub, then those transformers 5 has in memory."""


class Ast(Family[ASTModel]):
    """The Audio Spectrogram Transformer; its two class tokens are left out."""

    config_class = ASTConfig
    model_types = ("audio-spectrogram-transformer",)
    key_map = KeyMap(renames=(), drops=(Excuse("classifier.**", "the classifier, not used"),)).join(
        _AST.under(published="audio_spectrogram_transformer."), _AST
    )

    @property
    def longest_s(self) -> float:
        """Seconds of sound that fill a picture."""
        return self.config.max_length / FRAMES_PER_S + AST_MARGIN_S

    def check(self) -> None:
        """Refuse clips that do not fit into the picture."""
        if self.clip_s is not None and self.clip_s > self.longest_s:
            raise ValueError(
                f"clip_s must be at most {self.longest_s:g} s for an ast of max_length "
                f"{self.config.max_length}, found {self.clip_s}."
            )

    def build(self) -> ASTModel:
        """Return the trunk."""
        return ASTModel(self.config)

    def spec(self, *, num_clips: int, clip_policy: str) -> AudioSpec:
        """Return what the trunk must be fed."""
        return AudioSpec(
            num_clips=num_clips,
            clip_s=self.longest_s if self.clip_s is None else self.clip_s,
            sample_rate_hz=AST_RATE_HZ,
            num_mel_bins=self.config.num_mel_bins,
            num_mel_frames=self.config.max_length,
            mean=AST_MEAN,
            std=2 * AST_STD,
            clip_policy=clip_policy,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Overlapping patches by frequency and time."""
        config = self.config
        rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        return rows, (config.max_length - config.patch_size) // config.time_stride + 1

    def run(self, trunk: ASTModel, mels: Tensor) -> Tensor:
        """Turn float[K, 1, F, L] into float[K, R, C, D]."""
        return trunk(mels[:, 0].mT).last_hidden_state[:, 2:].unflatten(1, self.grid)

    def layers(self, trunk: ASTModel) -> list[nn.Module]:
        """Return the layers in their order."""
        return list(trunk.layers)


class Clap(Family[ClapAudioModel]):
    """CLAP's audio trunk (HTSAT) without fusion."""

    config_class = ClapAudioConfig
    model_types = ("clap", "clap_audio_model")
    inside = "audio_config"
    key_map = KeyMap(
        renames=(
            ("audio_model.audio_encoder.**", "trunk.audio_encoder.**"),
            ("audio_encoder.**", "trunk.audio_encoder.**"),
        ),
        drops=(
            Excuse("text_*.**", "the text tower, not used"),
            Excuse("audio_projection.**", "projection into the space of texts, not used"),
            Excuse("logit_scale_*", "scale of the contrastive loss, not used"),
        ),
    )

    @property
    def _ratio(self) -> int:
        """Stretches of time that are laid one below the other to make a square."""
        return int(self.config.spec_size // self.config.num_mel_bins)

    @property
    def _length_s(self) -> float:
        """Seconds of a clip; without a word those it was trained with."""
        return CLAP_CLIP_S if self.clip_s is None else self.clip_s

    def check(self) -> None:
        """Refuse fusion, and clips that do not fit into the picture."""
        if self.config.enable_fusion:
            raise ValueError("enable_fusion must be false: clips are heard one by one here.")
        longest_s = (self.config.spec_size * self._ratio - 1) / FRAMES_PER_S
        if self._length_s > longest_s:
            raise ValueError(
                f"clip_s must be at most {longest_s:g} s for a clap of spec_size "
                f"{self.config.spec_size}, found {self._length_s:g}."
            )

    def build(self) -> ClapAudioModel:
        """Return the trunk."""
        return ClapAudioModel(self.config)

    def spec(self, *, num_clips: int, clip_policy: str) -> AudioSpec:
        """Return what the trunk must be fed."""
        return AudioSpec(
            num_clips=num_clips,
            clip_s=self._length_s,
            sample_rate_hz=CLAP_RATE_HZ,
            num_mel_bins=self.config.num_mel_bins,
            num_mel_frames=int(self._length_s * FRAMES_PER_S) + 1,
            mean=0.0,
            std=1.0,
            clip_policy=clip_policy,
            recipe="clap",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """What the last stage leaves of the square, stretches of time side by side again."""
        shrunk = self.config.spec_size // 2 ** (len(self.config.depths) - 1)
        rows, columns = (shrunk // stride for stride in self.config.patch_stride)
        return rows // self._ratio, columns * self._ratio

    def run(self, trunk: ClapAudioModel, mels: Tensor) -> Tensor:
        """Turn float[K, 1, F, L] into float[K, R, C, D]."""
        return trunk(mels.mT).last_hidden_state.permute(0, 2, 3, 1)

    def layers(self, trunk: ClapAudioModel) -> list[nn.Module]:
        """Return the blocks of all stages in their order."""
        stages: Any = trunk.audio_encoder.layers
        return [block for stage in stages for block in stage.blocks]


FAMILIES: dict[str, type[Family[Any]]] = {"whisper": Whisper, "ast": Ast, "clap": Clap}
