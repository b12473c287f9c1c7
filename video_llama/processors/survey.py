"""What one reading of a file from end to end tells, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import av

StreamKind = Literal["video", "audio"]

KEPT_BYTES = 32 << 20
"""Packets of a stream that are kept; one with more is read from the file again."""

PACKET_BYTES = 512
"""What a packet takes beside its content; that of a silent sound has a few bytes."""


FORMATS_WITHOUT_STAMPS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
"""Demuxers that make time stamps up, wrong for reordered frames; these are counted instead."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the container says of a picture before it is decoded."""

    pts: int | None
    is_keyframe: bool


@dataclass
class Survey:
    """One reading of a file from end to end.

    Attributes:
        marks: of the pictures to be shown, in file order.
        kept: packets by stream, of streams that are short enough.
        sound_s: how long the packets of sound last, all in all.
        last_pts: when the last picture goes, as far as packets tell; in its stream's time base.
    """

    marks: list[Mark] = field(default_factory=list)
    kept: dict[StreamKind, list[av.Packet[Any]]] = field(default_factory=dict)
    sound_s: float = 0.0
    last_pts: int | None = None

    def __post_init__(self) -> None:
        self._num_bytes = dict.fromkeys(self.kept, 0)

    def add(self, packet: av.Packet[Any], *, kind: StreamKind) -> None:
        """Take the next packet of the file into account."""
        if kind == "video" and packet.size and not packet.is_discard:
            self.marks.append(Mark(packet.pts, packet.is_keyframe))
            if packet.pts is not None:
                self.last_pts = max(self.last_pts or 0, packet.pts + (packet.duration or 0))
        elif kind == "audio" and packet.duration and (tick := packet.time_base) is not None:
            # The product as a fraction, rounded, is the same number and costs more than reading.
            self.sound_s += packet.duration * tick.numerator / tick.denominator
        self._num_bytes[kind] += packet.size + PACKET_BYTES
        if self._num_bytes[kind] > KEPT_BYTES:
            self.kept.pop(kind, None)
        if kind in self.kept:
            self.kept[kind].append(packet)


def key_before(packets: Sequence[av.Packet[Any]], pts: int | None) -> int:
    """Return the index of the last key frame that is shown at `pts` or before; 0 if none is."""
    if pts is None:
        return 0
    for i in range(len(packets) - 1, -1, -1):
        at = packets[i].pts
        if packets[i].is_keyframe and at is not None and at <= pts:
            return i
    return 0
