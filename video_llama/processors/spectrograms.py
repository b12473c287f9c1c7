"""Log-mel pictures in the way of Whisper and CLAP, beside the Kaldi way of `audio`.

Equal to what `WhisperFeatureExtractor` and `ClapFeatureExtractor` of transformers make of a sound
of one clip's length or less. AST's is Kaldi's, as ImageBind's is.

Shapes: S clips, N samples of a clip, F mel bins, W mel frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from video_llama.common.types import AudioSpec

SMALLEST_POWER = 1e-10


@dataclass(frozen=True)
class Recipe:
    """How a clip becomes a log-mel picture.

    Attributes:
        source: whose way it is.
        window_size: of the Fourier transform, in samples.
        shift: samples from one window to the next.
        min_hz: where the lowest filter begins.
        max_hz: where the highest filter ends.
        short_clip: what stands behind a sound shorter than the clip.
        scale: "log10_clamped" keeps the loudest eight powers of ten of a clip, "db" is ten times
            the logarithm.
        is_exact: computed in float64, as published.
        drops_last: the last window, which is centred behind the sound, is left out.
    """

    source: str
    window_size: int
    shift: int
    min_hz: float
    max_hz: float
    short_clip: Literal["silence", "repeats"]
    scale: Literal["log10_clamped", "db"]
    is_exact: bool
    drops_last: bool


MEL_RECIPES: dict[str, Recipe | None] = {
    "kaldi": None,
    "whisper": Recipe(
        "openai/whisper, whisper/audio.py, at 16 kHz",
        window_size=400,
        shift=160,
        min_hz=0.0,
        max_hz=8000.0,
        short_clip="silence",
        scale="log10_clamped",
        is_exact=False,
        drops_last=True,
    ),
    "clap": Recipe(
        "LAION-AI/CLAP without fusion, at 48 kHz; preprocessor_config.json of "
        "laion/clap-htsat-unfused",
        window_size=1024,
        shift=480,
        min_hz=50.0,
        max_hz=14000.0,
        short_clip="repeats",
        scale="db",
        is_exact=True,
        drops_last=False,
    ),
}
"""By name; "kaldi" is `audio.log_mel`'s own."""


def log_mel_by(recipe: Recipe, clips: Sequence[Tensor], *, spec: AudioSpec) -> Tensor:
    """Turn clips into log-mel pictures.

    Args:
        recipe: of `MEL_RECIPES`.
        clips: float32[N] each, at `spec.sample_rate_hz`, of the clip's length or less.
        spec: length, mel shape and normalisation.

    Returns:
        float32[S, 1, F, W].
    """
    size = round(spec.clip_s * spec.sample_rate_hz)
    waves_SN = torch.stack([_filled(clip, size, how=recipe.short_clip) for clip in clips])
    dtype = torch.float64 if recipe.is_exact else torch.float32
    spectrum = torch.stft(
        waves_SN.to(dtype),
        recipe.window_size,
        recipe.shift,
        window=torch.hann_window(recipe.window_size, dtype=dtype),
        return_complex=True,
    )
    power = (spectrum[..., :-1] if recipe.drops_last else spectrum).abs().square()
    bank = _bank(recipe, spec.num_mel_bins, spec.sample_rate_hz).to(dtype)
    mels_SFW = _scaled((bank @ power).clamp_min(SMALLEST_POWER), recipe).float()
    missing = spec.num_mel_frames - mels_SFW.shape[-1]
    mels_SFW = functional.pad(mels_SFW[..., : spec.num_mel_frames], (0, max(0, missing)))
    return (mels_SFW.unsqueeze(1) - spec.mean) / spec.std


def _filled(clip: Tensor, size: int, *, how: str) -> Tensor:
    """Bring a clip to its full length."""
    if how == "repeats" and len(clip):
        clip = clip[:size].repeat(max(1, size // len(clip)))
    return functional.pad(clip[:size], (0, max(0, size - len(clip))))


def _scaled(power: Tensor, recipe: Recipe) -> Tensor:
    """Take the logarithm of float[S, F, W] powers."""
    if recipe.scale == "db":
        return 10 * power.log10()
    logs = power.log10()
    return torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8.0)


@lru_cache(maxsize=8)
def _bank(recipe: Recipe, num_mel_bins: int, sample_rate_hz: int) -> Tensor:
    """Return Slaney's triangular filters, float64[F, window_size / 2 + 1]."""
    from torchaudio.functional import melscale_fbanks

    bank: Tensor = melscale_fbanks(
        recipe.window_size // 2 + 1,
        f_min=recipe.min_hz,
        f_max=recipe.max_hz,
        n_mels=num_mel_bins,
        sample_rate=sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )
    return bank.T.double()
