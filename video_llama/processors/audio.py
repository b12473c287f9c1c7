"""Sound: from a file to a mono waveform, and from a waveform to ImageBind's log-mel pictures.

Clip starts and mel settings follow ImageBind's `imagebind/data.py` (facebookresearch/ImageBind)
and the clip sampler of pytorchvideo 0.1.5. The mel is Kaldi's fbank; it agrees with
`torchaudio.compliance.kaldi.fbank` but keeps its filter bank between calls. Nothing here knows
what the sound is for.

Shapes: N samples, S clips, F mel bins, W mel frames (10 ms each).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from video_llama.common.types import AudioSpec

MeanRemoval = Literal["copy", "in_place"]

CLIP_POLICIES = {
    "clips": "clip i starts at i * max(duration - clip, 0) / clips; pytorchvideo 0.1.5, the "
    "version Video-LLaMA's environment pins",
    "clips_minus_one": "clip i starts at i * max(duration - clip, 0) / max(clips - 1, 1); the "
    "pytorchvideo commit ImageBind pins",
    "consecutive": "clip i starts at i * clip while the sound lasts, so a short sound gives fewer "
    "clips and the end of a long one is not heard; the toy world",
}
"""Where the clips of a track start, by name, with the source of each rule."""

FRAME_LENGTH_S = Fraction(25, 1000)
FRAME_SHIFT_S = Fraction(10, 1000)
PRE_EMPHASIS = 0.97
LOW_FREQUENCY_HZ = 20.0


def clip_starts(
    duration_s: float, *, num_clips: int, clip_s: float, policy: str = "clips"
) -> tuple[Fraction, ...]:
    """Choose where the clips of a track start.

    For 5 s of sound, 4 clips of 2 s: "clips" 0, 0.75, 1.5, 2.25; "clips_minus_one" 0, 1, 2, 3;
    "consecutive" 0, 2, 4.

    Args:
        duration_s: length of the track in seconds.
        num_clips: clips wanted; only "consecutive" may give fewer, at least one.
        clip_s: length of a clip in seconds.
        policy: a name in `CLIP_POLICIES`.

    Returns:
        Seconds from the start of the track, non-decreasing. Exact fractions, because a start is
        multiplied by the sample rate and cut to an integer.

    Raises:
        ValueError: unknown policy.
    """
    if policy not in CLIP_POLICIES:
        raise ValueError(f"unknown clip policy '{policy}' (known: {', '.join(CLIP_POLICIES)})")
    if policy == "consecutive":
        length = Fraction(clip_s)
        num_heard = min(num_clips, max(1, math.ceil(Fraction(duration_s) / length)))
        return tuple(i * length for i in range(num_heard))
    # Subtracted as floats: so does pytorchvideo, and the last bit decides which sample is first.
    last_start = Fraction(max(duration_s - clip_s, 0.0))
    num_gaps = num_clips if policy == "clips" else max(num_clips - 1, 1)
    return tuple(i * last_start / num_gaps for i in range(num_clips))


def log_mel(
    waveform: Tensor,
    spec: AudioSpec,
    *,
    starts: Sequence[Fraction] | None = None,
    mean_removal: MeanRemoval = "copy",
) -> Tensor:
    """Cut a waveform into clips and turn each into a normalised log-mel picture.

    A clip that ends with the sound has fewer mel frames; the missing ones are zeros put in before
    the normalisation, as published. A clip shorter than one 25 ms window is padded to one.

    Args:
        waveform: float32[N], mono, -1..1, at `spec.sample_rate_hz`; never changed.
        spec: clips, mel shape and normalisation.
        starts: first second of each clip, None for `spec.clip_policy`'s choice.
        mean_removal: "copy" centres every clip by itself. "in_place" centres overlapping clips
            one after the other in shared memory, as ImageBind's loader does; released weights
            were used that way.

    Returns:
        float32[S, 1, F, W].
    """
    if starts is None:
        starts = clip_starts(
            len(waveform) / spec.sample_rate_hz,
            num_clips=spec.num_clips,
            clip_s=spec.clip_s,
            policy=spec.clip_policy,
        )
    waveform = waveform.clone() if mean_removal == "in_place" else waveform
    pictures = []
    for start_s in starts:
        first = int(start_s * spec.sample_rate_hz)
        last = int((start_s + Fraction(spec.clip_s)) * spec.sample_rate_hz)
        clip = waveform[first:last]
        if len(clip) > 0 and mean_removal == "in_place":
            clip -= clip.mean()
        elif len(clip) > 0:
            clip = clip - clip.mean()
        mel = _fbank(clip, sample_rate_hz=spec.sample_rate_hz, num_mel_bins=spec.num_mel_bins)
        mel = mel[: spec.num_mel_frames]
        pictures.append(functional.pad(mel, (0, 0, 0, spec.num_mel_frames - len(mel))))
    return (torch.stack(pictures).transpose(1, 2).unsqueeze(1) - spec.mean) / spec.std


def _fbank(clip: Tensor, *, sample_rate_hz: int, num_mel_bins: int) -> Tensor:
    """Return Kaldi's log filter bank energies, float32[W, F], at ImageBind's settings."""
    window_size = int(FRAME_LENGTH_S * sample_rate_hz)
    shift = int(FRAME_SHIFT_S * sample_rate_hz)
    fft_size = 2 ** math.ceil(math.log2(window_size))
    if len(clip) < window_size:
        clip = functional.pad(clip, (0, window_size - len(clip)))
    frames = clip.unfold(0, window_size, shift)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PRE_EMPHASIS * previous) * torch.hann_window(window_size, periodic=False)
    power = torch.fft.rfft(frames, n=fft_size).abs().pow(2)
    energies = power @ _mel_bank(num_mel_bins, fft_size, sample_rate_hz).T
    return energies.clamp_min(torch.finfo(torch.float32).eps).log()


@lru_cache(maxsize=8)
def _mel_bank(num_mel_bins: int, fft_size: int, sample_rate_hz: int) -> Tensor:
    """Return Kaldi's triangular filters, float32[F, fft_size / 2 + 1]."""
    from torchaudio.compliance.kaldi import get_mel_banks

    bank, _ = get_mel_banks(
        num_mel_bins, fft_size, float(sample_rate_hz), LOW_FREQUENCY_HZ, 0.0, 100.0, -500.0, 1.0
    )
    # Kaldi leaves the Nyquist bin out of every filter.
    return functional.pad(bank, (0, 1))
