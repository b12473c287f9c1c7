"""Seeded damage to media files: what disks, networks and broken tools do to them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable


def flip_bits(content: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 4, 16, 64, 256))):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def cut_off(content: bytearray, generator: random.Random) -> None:
    del content[generator.randrange(len(content)) :]


def zero_block(content: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(content))
    end = min(len(content), start + generator.choice((16, 128, 1024, 8192)))
    content[start:end] = bytes(end - start)


def swap_blocks(content: bytearray, generator: random.Random) -> None:
    """Exchange two pieces of a file; of mp4, two of its boxes."""
    pieces = boxes(content)
    if len(pieces) < 3 or generator.random() < 0.3:
        edges = sorted(generator.sample(range(1, len(content)), 3))
        pieces = [bytes(content[a:b]) for a, b in zip([0, *edges], [*edges, None], strict=True)]
    one, other = generator.sample(range(len(pieces)), 2)
    pieces[one], pieces[other] = pieces[other], pieces[one]
    content[:] = b"".join(pieces)


def damage_header(content: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 3, 12))):
        content[generator.randrange(min(400, len(content)))] = generator.randrange(256)


def damage_index(content: bytearray, generator: random.Random) -> None:
    """Write extreme numbers where a container keeps sizes, counts and rates."""
    names = (
        b"stsz",
        b"stco",
        b"stts",
        b"ctts",
        b"stsd",
        b"tkhd",
        b"mvhd",
        b"mdhd",
        b"elst",
        b"fmt ",
    )
    places = [at for name in names if (at := content.find(name)) >= 0]
    start = generator.choice(places) if places else generator.randrange(len(content))
    for _ in range(generator.choice((1, 2, 6))):
        at = min(len(content) - 4, start + generator.randrange(120))
        number = generator.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000))
        content[at : at + 4] = struct.pack(">I", number)


def insert_garbage(content: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 5))):
        at = generator.randrange(len(content))
        content[at:at] = generator.randbytes(generator.choice((1, 7, 100, 2000)))


def repeat_block(content: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(content))
    block = content[start : start + generator.choice((50, 500, 5000))]
    content[start:start] = block * generator.choice((1, 3))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    cut_off,
    zero_block,
    swap_blocks,
    damage_header,
    damage_index,
    insert_garbage,
    repeat_block,
)


def damaged(content: bytes, *, seed: int) -> tuple[bytes, str]:
    """Return a damaged copy, and what was done to it; a function of the seed."""
    generator = random.Random(seed)
    done = [DAMAGES[seed % len(DAMAGES)]]
    if generator.random() < 0.3:
        done.append(generator.choice(DAMAGES))
    copy = bytearray(content)
    for damage in done:
        if len(copy) > 4:
            damage(copy, generator)
    return bytes(copy), "+".join(damage.__name__ for damage in done)


def boxes(content: bytearray) -> list[bytes]:
    """Cut an mp4 file into its outermost boxes; nothing if it is none."""
    pieces, at = [], 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        if size < 8 or at + size > len(content):
            return []
        pieces.append(bytes(content[at : at + size]))
        at += size
    return pieces
