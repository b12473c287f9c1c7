"""What every reader of a data set answers, and what several of them need.

A reader gives `Sample`s whose media are named but not opened. Mistakes of a whole data set (a file
that is not JSON, a shard that was cut off) are `ConfigError`s, found before a run starts; what is
wrong with a single sample (an empty caption, a missing clip) is a `MediaError`, raised when that
sample is asked for, so that the mixture can count it and go on.

Readers of annotation files stand on `annotations`, those of tars on `shards`. Decoding and tokens
are not their business, see `stream`.
"""

from __future__ import annotations

import difflib
import itertools
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import MediaError
from video_llama.common.placeholders import is_placeholder, placeholder_hint
from video_llama.common.types import MediaKind, Sample
from video_llama.datasets.blocks import Blocks

NUM_PROBED = 16
"""Samples looked at where all would take too long."""


class DatasetReader(ABC):
    """A data set that can say how long it is and give any of its samples.

    Args:
        config: an instance of the class's own `Config`.
        name: of the entry in the run file, for messages and randomness.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys that every reader has.

        Attributes:
            max_samples: read only so many from the beginning.
        """

        max_samples: int | None = None

        def __post_init__(self) -> None:
            if self.max_samples is not None and self.max_samples < 1:
                raise ValueError(f"max_samples must be at least 1, found {self.max_samples}")

    where_from: str = ""
    """Where the published data can be had, shown when they are missing."""

    config: Config

    def __init__(self, config: Config, *, name: str) -> None:
        self.config = config
        self.name = name

    @property
    @abstractmethod
    def kinds(self) -> tuple[MediaKind, ...] | None:
        """Kinds of media of every sample in text order, None if samples differ."""

    def kinds_of(self, index: int) -> frozenset[MediaKind] | None:
        """Return the kinds of media of one sample, None if its row does not tell."""
        if self.kinds is not None:
            return frozenset(self.kinds)
        try:
            return frozenset(item.kind for item in self.sample(index).media)
        except MediaError:
            return None

    @property
    def blocks(self) -> Blocks | None:
        """Runs of samples that are read together, None where any order costs the same."""
        return None

    def fingerprint(self) -> str | None:
        """Return what changes when the text or the media of any sample do; None if nobody knows."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, *, seed: int = 0) -> Sample:
        """Return a sample; its media are named, not opened.

        Args:
            index: 0 .. len - 1.
            seed: for choices between several readings of one row.

        Raises:
            MediaError: this one sample cannot be used (empty text, no such file).
            ConfigError: the data set cannot be read.
        """

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the key of a sample, also of one that cannot be used."""

    @abstractmethod
    def missing(self) -> list[str]:
        """Look at everything that must be there before a run starts.

        Returns:
            One sentence per problem, opening with the dotted key it is about; empty if all is
            well. Single media that cannot be used are no problem.
        """


def require_text(value: object, *, what: str, where: str) -> str:
    """Return a text without surrounding whitespace.

    Raises:
        MediaError: it is empty, or not a number as spreadsheets write an empty cell, or no text.
    """
    if not isinstance(value, str) or value.strip().lower() in ("", "nan"):
        raise MediaError(f"{what} is empty", path=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        reason = f"{what} holds half a character ({error.object[error.start]!r})"
        raise MediaError(reason, path=where) from error
    return value.strip()


def unreadable(path: str | Path) -> str | None:
    """Say why nothing can be read at a path: it is not there, or not ours to read; None if it is.

    What is in a file, and whether it is damaged, is not looked at.
    """
    path = Path(path)
    try:
        if text := missing_path(path):
            return text
        if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
            return f"{path}: this user may not read it"
    except OSError as error:
        # A folder above that may not be looked into, a disk that went away.
        return f"{path}: {error.strerror}"
    return None


def missing_path(path: str | Path) -> str | None:
    """Say that a path does not exist and which names come nearest; None if it exists."""
    path = Path(path)
    if path.exists():
        return None
    if is_placeholder(path):
        return f"there is no {path}{placeholder_hint(path)}"
    folder, wanted = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, wanted = folder.parent, folder.name
    names = [entry.name for entry in itertools.islice(folder.iterdir(), 100_000)]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"; nearest in {folder}: {', '.join(near)}" if near else ""
    return f"there is no {path}{hint}"
