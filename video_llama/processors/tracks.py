"""Decoded blocks of sound joined on the time axis of their file.

Shapes: C channels, N samples of a track, n samples of a block.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

Channels = Literal["mix", "separate"]

CLOCK_TOLERANCE_S = 0.05
"""Time stamps this far off are rounding or encoder delay; beyond, sound is missing or doubled."""

MAX_GAP_S = 60.0
"""A jump of the clock beyond this is a fault of the clock, and no silence is put in."""

MAX_SILENCE_S = 3600.0
"""Silence put in between blocks, all in all; more stands only in files made to fill the memory."""

MAX_PLANES = 8
"""From so many channels on PyAV reads past the list of planes (7.1 sound, damaged AAC) and may
crash the process; they are interleaved first."""


class Track:
    """Blocks of sound, laid where their time stamps say.

    Args:
        channels: "mix" takes the mean of all channels, "separate" keeps them apart.
        zero_s: what the file's clock shows at its second zero.

    Attributes:
        rate_hz: of the first block; blocks at another rate, or of another number of channels to
            keep apart, are left out.
    """

    def __init__(self, *, channels: Channels, zero_s: Fraction) -> None:
        self._channels = channels
        self._zero_s = zero_s
        self._blocks: list[NDArray[np.float32]] = []
        self._start = 0
        self._end = 0
        self._num_silent = 0
        self.rate_hz = 0

    def begins_before(self, frame: AudioFrame, end_s: float | None) -> bool:
        """Whether a block begins before a second of the file; one without a time stamp does."""
        if end_s is None or (at := self._ticks_of(frame)) is None:
            return True
        ticks, ticks_per_s = at
        end, parts = end_s.as_integer_ratio()
        return ticks * parts < end * ticks_per_s

    def append(self, frame: AudioFrame) -> None:
        """Add a decoded block; one without a time stamp follows the last."""
        self.rate_hz = self.rate_hz or frame.sample_rate
        if frame.sample_rate != self.rate_hz:
            return
        block = _block_of(frame, self._channels)
        if self._blocks and len(block) != len(self._blocks[0]):
            return
        at = self._place_of(frame)
        ahead = 0 if at is None else at - self._end
        if abs(ahead) <= CLOCK_TOLERANCE_S * self.rate_hz:
            ahead = 0
        if not self._blocks:
            self._start = self._end = ahead
        elif 0 < ahead < MAX_GAP_S * self.rate_hz and self._may_be_silent(ahead):
            self._blocks.append(np.zeros((len(block), ahead), dtype=np.float32))
            self._end += ahead
        elif -MAX_GAP_S * self.rate_hz < ahead < 0:
            block = block[:, -ahead:]
        self._blocks.append(block)
        self._end += block.shape[1]

    def _may_be_silent(self, num_samples: int) -> bool:
        self._num_silent += num_samples
        return self._num_silent <= MAX_SILENCE_S * self.rate_hz

    def _place_of(self, frame: AudioFrame) -> int | None:
        """Return which sample of the file a block begins with, None if nothing tells."""
        if (at := self._ticks_of(frame)) is None:
            return None
        ticks, ticks_per_s = at
        return _rounded(ticks * self.rate_hz, ticks_per_s)

    def _ticks_of(self, frame: AudioFrame) -> tuple[int, int] | None:
        """Return when a block begins, and how many of these units make a second of the file."""
        tick, zero = frame.time_base, self._zero_s
        if frame.pts is None or tick is None:
            return None
        ticks = frame.pts * tick.numerator * zero.denominator - zero.numerator * tick.denominator
        return ticks, tick.denominator * zero.denominator

    def cut_padding(self, end_s: Fraction, *, frame_size: int) -> None:
        """Shorten to the container's length if what is beyond is the codec's padding."""
        excess = self._end - round(end_s * self.rate_hz)
        # Vorbis does not tell the size of its frames, which vary.
        block = max(frame_size, *(block.shape[1] for block in self._blocks[-2:]), 0)
        # More than one frame is an estimated length (mp3), and no reason to cut.
        if 0 < excess <= block:
            self._end -= excess

    def samples_from(self, origin_s: Fraction) -> Tensor:
        """Return float32[N], separate channels float32[C, N], from second `origin_s` on."""
        if not self._blocks:
            return torch.zeros(0)
        samples = np.concatenate(self._blocks, axis=1)[:, : max(0, self._end - self._start)]
        first = round(origin_s * self.rate_hz) - self._start
        if first < 0 and -first < MAX_GAP_S * self.rate_hz:
            silence = np.zeros((len(samples), -first), dtype=np.float32)
            samples = np.concatenate([silence, samples], axis=1)
        track = torch.from_numpy(samples[:, max(0, first) :])
        return track[0] if self._channels == "mix" else track


def _block_of(frame: AudioFrame, channels: Channels) -> NDArray[np.float32]:
    """Return a block's samples as float32[C, n], -1..1; a mix has one channel."""
    num_channels = frame.layout.nb_channels
    if frame.format.name == "fltp" and num_channels == 1:
        # What every common codec gives; the general way costs more than decoding.
        return np.frombuffer(memoryview(frame.planes[0]), np.float32, frame.samples)[np.newaxis]
    many_planes = frame.format.is_planar and num_channels >= MAX_PLANES
    if many_planes or frame.format.name.startswith("s64"):
        # Neither is to be had as an array.
        packer = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
        (frame,) = packer.resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, num_channels).T
    floats = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        floats = (floats - 128.0) / 128.0
    elif np.issubdtype(samples.dtype, np.signedinteger):
        floats = floats / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return np.ascontiguousarray(floats.mean(axis=0, keepdims=True) if channels == "mix" else floats)


def _rounded(numerator: int, denominator: int) -> int:
    """Return `round(Fraction(numerator, denominator))`, for less."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))
