"""The lengths of samples on disk, so that they are counted once.

    FOLDER/NAME-0123456789abcdef.lengths

A line of JSON (identity, number, checksum of what follows), then the positions as little-endian
int32 and the pools as int8, of all samples. The identity is made of the rows, and of what template,
tokenizer and branches make of a few conversations: a change of any is another file. A file that is
damaged, or not what it is called, is said to be so and counted anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.common.types import MEDIA_KINDS, Form, MediaItem, Message, Sample
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.length_order import POOLS, SampleLengths
from video_llama.datasets.lengths import Counting, count_lengths, full_steps, measure
from video_llama.datasets.sample_encoder import SampleEncoder

VERSION = 1
"""Raised when samples are counted otherwise."""

PROBE_TEXTS = (
    "What does the person in the clip do, and where?",
    'She opens a window; it\'s 12:30.\nThen\tshe sits down -- "slowly" (3 s) & reads e-mails...',
    "\u00dcber 42 na\u00efve caf\u00e9s \u2014 \u4f60\u597d\uff0c\u4e16\u754c \u0414\u0430 "
    "\u0645\u0631\u062d \U0001f600 def f(x): return x**2 </s> ### USER: [INST]",
)
"""Texts that tokenizers take apart differently."""


def lengths_of(reader: DatasetReader, *, counting: Counting, folder: Path) -> SampleLengths:
    """Return the lengths of a data set: read, or counted and kept.

    Args:
        reader: of the data set; its rows may have no identity, and then nothing is kept.
        counting: how samples are counted.
        folder: of the files; made if it is not there.

    Raises:
        VideoLlamaError: something is wrong with the data set as a whole.
    """
    rows = reader.fingerprint()
    if rows is None:
        return count_lengths(reader, counting=counting)
    identity = _digest(VERSION, rows, encoding_identity(counting.encoder))
    path = folder / f"{reader.name}-{identity[:16]}.lengths"
    found = read_lengths(path, identity=identity, num=len(reader)) if path.exists() else None
    if found is not None:
        return found
    lengths = count_lengths(reader, counting=counting)
    try:
        write_lengths(path, lengths, identity=identity)
    except OSError as error:
        get_logger().warning(
            "%s: lengths cannot be kept (%s) and are counted anew at the next start", path, error
        )
    return lengths


def write_lengths(path: Path, lengths: SampleLengths, *, identity: str) -> None:
    """Write a file of lengths, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    body = lengths.positions.astype("<i4").tobytes() + lengths.pools.astype("i1").tobytes()
    num = len(lengths.positions)
    head = {"identity": identity, "num": num, "checksum": _checksum(identity, num, body)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(json.dumps(head).encode() + b"\n" + body)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def read_lengths(path: Path, *, identity: str, num: int) -> SampleLengths | None:
    """Read a file of lengths; None, and a warning, if it is not what it is called.

    Args:
        path: of the file.
        identity: of rows and settings.
        num: samples of the data set.
    """
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        is_whole = head["checksum"] == _checksum(head["identity"], head["num"], body)
        is_ours = (head["identity"], head["num"]) == (identity, num)
    except (OSError, ValueError, KeyError, TypeError) as error:
        get_logger().warning("%s: not a file of lengths (%s), counted anew", path, error)
        return None
    if not is_whole or not is_ours or len(body) != 5 * num:
        reason = "of other data or another model" if is_whole else "damaged"
        get_logger().warning("%s: the file is %s, lengths are counted anew", path, reason)
        return None
    positions = np.frombuffer(body[: 4 * num], "<i4").astype(np.int32)
    pools = np.frombuffer(body[4 * num :], np.int8)
    return SampleLengths(positions, pools)


def encoding_identity(encoder: SampleEncoder) -> str:
    """Return what changes when template, tokenizer or branches make other tokens of samples."""
    slots = {}
    for kind in MEDIA_KINDS:
        if kind in encoder.routes:
            branch, num_steps = full_steps(kind, encoder=encoder, dataset="")
            slots[kind] = encoder.specs[branch].slots(num_steps)
    tokenizer = encoder.text.tokenizer
    ids = [tokenizer.encode_run(text).ids for text in PROBE_TEXTS]
    probes = [_measured(sample, encoder) for sample in _probes(tuple(slots))]
    return _digest(
        list(POOLS),
        slots,
        encoder.text.max_len,
        tokenizer.vocab_size,
        [*tokenizer.added],
        ids,
        probes,
    )


def _probes(kinds: tuple[str, ...]) -> Iterator[Sample]:
    """Yield a few conversations, with and without every kind of media."""
    question, answer, other = PROBE_TEXTS
    forms: tuple[Form, ...] = ("instruct", "caption")
    for kind in (None, *(kind for kind in MEDIA_KINDS if kind in kinds)):
        media = [] if kind is None else [MediaItem(kind, "")]
        for form in forms:
            first = [Message("user", [*media, question]), Message("assistant", [answer])]
            more = [Message("user", [other]), Message("assistant", [question])]
            messages = [*first, *more] if form == "instruct" else first
            yield Sample("", messages=messages, form=form)
        yield Sample("", messages=[Message("system", [other]), *first])
        yield Sample("", messages=[Message("assistant", [*media, answer])], form="caption")


def _measured(sample: Sample, encoder: SampleEncoder) -> int | str:
    """Return the length of a sample, or why it has none."""
    try:
        return measure(sample, encoder=encoder)
    except VideoLlamaError as error:
        return type(error).__name__


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _checksum(identity: str, num: int, body: bytes) -> str:
    return hashlib.blake2b(f"{identity} {num} ".encode() + body, digest_size=16).hexdigest()
