"""Sound: from a file to a mono waveform, and from a waveform to log-mel pictures.

Clip starts and mel settings follow ImageBind's `imagebind/data.py` (facebookresearch/ImageBind)
and the clip sampler of pytorchvideo 0.1.5. The mel is Kaldi's fbank; it agrees with
`torchaudio.compliance.kaldi.fbank` but keeps its filter bank between calls. Nothing here knows
what the sound is for. Other encoders' ways are in `spectrograms`.

Shapes: C channels, N samples, S clips, F mel bins, W mel frames (10 ms each).
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
from torch.nn.utils.rnn import pad_sequence

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec
from video_llama.processors.containers import Source
from video_llama.processors.media_file import MediaFile, TolerantDecoder, opened, zero_pts_s
from video_llama.processors.spectrograms import MEL_RECIPES, log_mel_by
from video_llama.processors.tracks import Channels, Track

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

MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000
"""Sample rates outside stand only in damaged headers."""

MAX_FILTER_SIZE = 4_000_000
"""Entries of a resampling filter, 16 MB; every rate in common use needs far fewer."""

SEEK_MARGIN_S = 1.0
"""How much is decoded before a span, so that the codec has settled when the span begins."""


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


def read_audio(
    source: Source | MediaFile,
    *,
    sample_rate_hz: int,
    start_s: float | None = None,
    end_s: float | None = None,
    channels: Channels = "mix",
) -> Tensor:
    """Read the sound of a file.

    Second zero is the first picture if the file has pictures, else the first sample; sound that
    sets in later is preceded by silence. The track ends where its container says: the padding of
    the last AAC frame is cut (2.0 s come as 32,000 samples at 16 kHz, not 32,768). WebM and
    MPEG-TS keep no length of a track, so up to one frame of padding may stay.

    Args:
        source: a file, open already or not, or the content of one.
        sample_rate_hz: rate wanted; resampled as `torchaudio.functional.resample` does.
        start_s: first second to use, None for the beginning.
        end_s: last second to use, None for the end.
        channels: "mix" takes the mean of all, "separate" keeps them apart.

    Returns:
        float32[N], separate channels float32[C, N]; N >= 1, -1..1 unless the file is louder.

    Raises:
        MediaError: no audio stream, nothing decodable, or a span behind the end.
    """
    origin_s = Fraction(start_s or 0.0)
    with opened(source) as media:
        track = _read_track(media, origin_s=origin_s, end_s=end_s, channels=channels)
    waveform, rate_hz = track.samples_from(origin_s), track.rate_hz
    if end_s is not None:
        waveform = waveform[..., : max(0, round((Fraction(end_s) - origin_s) * rate_hz))]
    if waveform.shape[-1] == 0:
        where = "" if start_s is None and end_s is None else f" between {start_s} and {end_s} s"
        raise MediaError(f"no sound could be decoded{where}", path=media.name)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise MediaError(f"a sample rate of {rate_hz} Hz, the header is damaged", path=media.name)
    return _resample(waveform, rate_hz=rate_hz, new_rate_hz=sample_rate_hz)


def _read_track(
    media: MediaFile, *, origin_s: Fraction, end_s: float | None, channels: Channels
) -> Track:
    """Decode the blocks of sound from about `origin_s` to `end_s`."""
    stream = media.audio
    if stream is None:
        raise MediaError("no audio stream", path=media.name)
    zero_s, from_pts = zero_pts_s(media), None
    if origin_s > SEEK_MARGIN_S and stream.time_base is not None:
        from_pts = int((zero_s + origin_s - Fraction(SEEK_MARGIN_S)) / stream.time_base)
    track = Track(channels=channels, zero_s=zero_s)
    for frame in TolerantDecoder(media).audio(from_pts=from_pts):
        if not track.begins_before(frame, end_s):
            break
        track.append(frame)
    # Looked at last: reading may have told the demuxer more than the header did.
    stream = media.audio
    if stream is not None and stream.duration is not None and stream.time_base is not None:
        end_pts_s = ((stream.start_time or 0) + stream.duration) * stream.time_base
        track.cut_padding(end_pts_s - zero_s, frame_size=stream.codec_context.frame_size)
    return track


def _resample(waveform: Tensor, *, rate_hz: int, new_rate_hz: int) -> Tensor:
    """Resample by windowed sinc; an odd rate is taken for the round one beside it.

    The filter has rate * new_rate / gcd^2 entries, a gigabyte for 16001 to 16000 Hz; 16000 for
    16001 is a change of pitch nobody hears.
    """
    step = 1
    while rate_hz * new_rate_hz // math.gcd(rate_hz, new_rate_hz) ** 2 > MAX_FILTER_SIZE:
        step *= 10
        rate_hz = round(rate_hz / step) * step
    if rate_hz == new_rate_hz:
        return waveform
    from torchaudio.functional import resample

    resampled: Tensor = resample(waveform, rate_hz, new_rate_hz)
    return resampled


def log_mel(
    waveform: Tensor,
    spec: AudioSpec,
    *,
    starts: Sequence[Fraction] | None = None,
    mean_removal: MeanRemoval = "copy",
) -> Tensor:
    """Cut a waveform into clips and turn each into a normalised log-mel picture.

    A clip that ends with the sound has fewer mel frames; the missing ones are zeros put in before
    the normalisation, as published. A clip shorter than one 25 ms window is padded to one. So it is
    with the recipe "kaldi", for ImageBind and AST; see `spectrograms` for the others.

    Args:
        waveform: float32[N], -1..1, at `spec.sample_rate_hz`; never changed. Of float32[C, N] the
            first channel is heard, after the mean of all was removed, as in ImageBind's loader.
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
            waveform.shape[-1] / spec.sample_rate_hz,
            num_clips=spec.num_clips,
            clip_s=spec.clip_s,
            policy=spec.clip_policy,
        )
    recipe = MEL_RECIPES[spec.recipe]
    if recipe is not None:
        mono = waveform if waveform.ndim == 1 else waveform.mean(dim=0)
        return log_mel_by(recipe, [_cut(mono, start_s, spec) for start_s in starts], spec=spec)
    waveform = waveform.clone() if mean_removal == "in_place" else waveform
    clips = []
    for start_s in starts:
        clip = _cut(waveform, start_s, spec)
        if clip.numel() and mean_removal == "in_place":
            clip -= clip.mean()
        elif clip.numel():
            clip = clip - clip.mean()
        heard = clip if clip.ndim == 1 else clip[0]
        # The next clip's mean will be taken from the same memory.
        clips.append(heard.clone() if mean_removal == "in_place" else heard)
    mels = _fbank(clips, sample_rate_hz=spec.sample_rate_hz, num_mel_bins=spec.num_mel_bins)
    mels_SWF = pad_sequence([mel[: spec.num_mel_frames] for mel in mels], batch_first=True)
    mels_SWF = functional.pad(mels_SWF, (0, 0, 0, spec.num_mel_frames - mels_SWF.shape[1]))
    return (mels_SWF.transpose(1, 2).unsqueeze(1) - spec.mean) / spec.std


def _cut(waveform: Tensor, start_s: Fraction, spec: AudioSpec) -> Tensor:
    """Return the part of a waveform that a clip is; no copy."""
    # In whole numbers: arithmetic of fractions costs more than the rest.
    start, parts = start_s.as_integer_ratio()
    length, clip_parts = spec.clip_s.as_integer_ratio()
    first = start * spec.sample_rate_hz // parts
    end = start * clip_parts + length * parts
    return waveform[..., first : end * spec.sample_rate_hz // (parts * clip_parts)]


def _fbank(clips: Sequence[Tensor], *, sample_rate_hz: int, num_mel_bins: int) -> list[Tensor]:
    """Return Kaldi's log filter bank energies of clips, float32[W, F], at ImageBind's settings."""
    window_size = int(FRAME_LENGTH_S * sample_rate_hz)
    shift = int(FRAME_SHIFT_S * sample_rate_hz)
    fft_size = 2 ** math.ceil(math.log2(window_size))
    windows = [
        functional.pad(clip, (0, max(0, window_size - len(clip)))).unfold(0, window_size, shift)
        for clip in clips
    ]
    # Joined is copied; from here on in place, as fresh memory costs more than the arithmetic.
    frames = torch.cat(windows)
    frames.sub_(frames.mean(dim=1, keepdim=True))
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames.sub_(previous.mul_(PRE_EMPHASIS)).mul_(_window(window_size))
    power = torch.fft.rfft(frames, n=fft_size).abs().square_()
    bank = _mel_bank(num_mel_bins, fft_size, sample_rate_hz).T
    # Clip by clip: a product's last bits may depend on its number of rows.
    num_frames = [len(rows) for rows in windows]
    energies = torch.cat([rows @ bank for rows in torch.split(power, num_frames)])
    floor = torch.finfo(torch.float32).eps
    return list(torch.split(energies.clamp_min_(floor).log_(), num_frames))


@lru_cache(maxsize=8)
def _window(size: int) -> Tensor:
    return torch.hann_window(size, periodic=False)


@lru_cache(maxsize=8)
def _mel_bank(num_mel_bins: int, fft_size: int, sample_rate_hz: int) -> Tensor:
    """Return Kaldi's triangular filters, float32[F, fft_size / 2 + 1]."""
    from torchaudio.compliance.kaldi import get_mel_banks

    bank, _ = get_mel_banks(
        num_mel_bins, fft_size, float(sample_rate_hz), LOW_FREQUENCY_HZ, 0.0, 100.0, -500.0, 1.0
    )
    # Kaldi leaves the Nyquist bin out of every filter.
    return functional.pad(bank, (0, 1))
