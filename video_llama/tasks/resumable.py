"""Results on disk: kept piece by piece, found again by a run that was interrupted.

    FOLDER/identity.json       what these results are results of
    FOLDER/parts/rank0.jsonl   one line per finished chunk, while the run lasts
    FINAL                      one line per result, when everything is there

Chunks are numbered by position in the whole, never by rank, so a run may go on with another
number of processes. Does not know what a result is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from video_llama.common import dist
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.whole_files import write_whole

IDENTITY_FILE = "identity.json"

Row = dict[str, Any]
"""A result as plain values."""


class ResumableResults:
    """The results of one run.

    Args:
        folder: made with the first result, so that a run that fails before leaves nothing.
        final: the file with all results.
        identity: plain values that decide every result (checkpoint hash, config, questions).
        key: config key or flag that names the place, for messages.
        run: what such a run is called, likewise.

    Raises:
        ConfigError: the folder holds results with another identity.
    """

    def __init__(
        self, folder: Path, *, final: Path, identity: Mapping[str, Any], key: str, run: str
    ) -> None:
        self.folder = folder
        self.final = final
        self._identity = json.loads(json.dumps(identity))
        self._key, self._run = key, run
        self._check_identity()
        self._parts = folder / "parts"

    def finished(self) -> set[int]:
        """Return the chunks that need not be computed again."""
        return set(self._read_parts())

    def is_complete(self) -> bool:
        """Say whether the final file is there."""
        return self.final.is_file()

    def add(self, chunks: Mapping[int, Sequence[Row]]) -> None:
        """Keep the results of chunks; they survive a kill from here on.

        Raises:
            VideoLlamaError: the disk is full, or the folder cannot be written.
        """
        with _told(self.folder):
            self._claim()
            self._parts.mkdir(exist_ok=True)
        path = self._parts / f"rank{dist.read_world().rank}.jsonl"
        lines = "".join(
            json.dumps({"chunk": chunk, "predictions": list(rows)}) + "\n"
            for chunk, rows in chunks.items()
        )
        # A killed run may have left half a line; a new line keeps the next one readable.
        lines = ("\n" if _is_torn(path) else "") + lines
        with _told(path), path.open("ab") as file:
            file.write(lines.encode())

    def collect(self) -> list[Row]:
        """Wait for all ranks, write the final file once, and return every result.

        The order is that of the chunks, whatever rank computed them.
        """
        dist.barrier()
        if dist.is_main() and not self.is_complete():
            self._claim()
            parts = self._read_parts()
            _write_lines(
                self.final, [json.dumps(row) for chunk in sorted(parts) for row in parts[chunk]]
            )
            for part in self._parts.glob("*.jsonl"):
                part.unlink()
        dist.barrier()
        return self.rows()

    def rows(self) -> list[Row]:
        """Return the results of the final file."""
        return [json.loads(line) for line in self.final.read_text(encoding="utf-8").splitlines()]

    def take_back(self, unwanted: Callable[[Row], bool]) -> int:
        """Forget results of chunks of one, so that they are computed again; for rank zero alone.

        Args:
            unwanted: tells which.

        Returns:
            How many were forgotten.

        Raises:
            VideoLlamaError: the disk is full, or the folder cannot be written.
        """
        parts = self._read_parts()
        if self.is_complete():
            parts = {number: [row] for number, row in enumerate(self.rows())}
        kept = {chunk: rows for chunk, rows in parts.items() if not any(map(unwanted, rows))}
        if len(kept) < len(parts):
            self._parts.mkdir(exist_ok=True)
            others = list(self._parts.glob("*.jsonl"))
            lines = [json.dumps({"chunk": c, "predictions": rows}) for c, rows in kept.items()]
            _write_lines(self._parts / "kept.jsonl", lines)
            for path in (*others, self.final):
                if path.name != "kept.jsonl":
                    path.unlink(missing_ok=True)
        return len(parts) - len(kept)

    def _check_identity(self) -> None:
        """Accept a fresh folder or our own, refuse anybody else's."""
        path = self.folder / IDENTITY_FILE
        if not path.is_file():
            return
        known, wanted = _plain(path.read_bytes()), self._identity
        if not isinstance(known, dict):
            raise ConfigError(
                f"{self._key}: {IDENTITY_FILE} is damaged and does not say what was predicted; "
                f"choose another {self._key} or delete the folder",
                where=str(self.folder),
            )
        differing = [
            f"{key}: {known.get(key)!r} there, {wanted.get(key)!r} now"
            for key in sorted({*known, *wanted})
            if known.get(key) != wanted.get(key)
        ]
        if differing:
            raise ConfigError(
                f"{self._key}: it holds the predictions of another {self._run} ("
                + "; ".join(differing)
                + f"); choose another {self._key} or delete the folder",
                where=str(self.folder),
            )

    def _claim(self) -> None:
        """Say whose folder it is; several ranks may do so at once, with the same words."""
        path = self.folder / IDENTITY_FILE
        if path.is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".rank{dist.read_world().rank}")
        unfinished.write_text(json.dumps(self._identity, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)

    def _read_parts(self) -> dict[int, list[Row]]:
        """Return the results of every finished chunk; half lines are skipped."""
        chunks: dict[int, list[Row]] = {}
        for path in sorted(self._parts.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                match _plain(line):
                    case {"chunk": int(chunk), "predictions": [*rows]} if all(
                        isinstance(row, dict) for row in rows
                    ):
                        chunks[chunk] = rows
        return chunks


def _plain(text: bytes) -> object:
    """Return what JSON holds, None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_torn(path: Path) -> bool:
    """Say whether a file ends in the middle of a line."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines, whole or not at all, and say what to do where that fails."""
    with _told(path):
        write_whole(path, "".join(line + "\n" for line in lines))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what to do where something cannot be written."""
    try:
        yield
    except OSError as error:
        raise VideoLlamaError(
            f"{path}: cannot be written: {error.strerror or error}; make room, or mend the folder, "
            "and start again as before: what was finished is kept"
        ) from error
