"""Votes on answers, one JSON object a line, for whoever serves the page.

A vote holds the question, the answer and how it was made; of the media only their hashes, so a
log can be kept and passed on without anybody's pictures in it. A visitor may change a vote: lines
are only ever added, and the last one of a conversation and round counts.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from video_llama.common.errors import ConfigError
from video_llama.common.generation import GenerationSettings

Verdict = Literal["up", "down", "withdrawn"]


@dataclass(frozen=True)
class VotedMedia:
    """What a vote tells of one picture, clip or sound: "video" and the hash of its content."""

    kind: str
    content_hash: str | None


@dataclass(frozen=True)
class Vote:
    """What somebody thought of an answer.

    Attributes:
        verdict: thumb up or down, or taken back.
        conversation: random id; tells no person.
        round: number of the answer in its conversation, from 0.
        question: as it was typed.
        answer: as it was shown.
        media: everything the model had seen by then, in order.
        settings: how the answer was generated.
        model: name of the model.
        template: name of its prompt format.
    """

    verdict: Verdict
    conversation: str
    round: int
    question: str
    answer: str
    media: Sequence[VotedMedia]
    settings: GenerationSettings
    model: str
    template: str


class VoteLog:
    """A file that votes are added to; several processes may share it.

    Args:
        path: created if it is not there.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise ConfigError(
                f"--votes {path}: cannot be written ({error.strerror}); name another file"
            ) from error

    def add(self, vote: Vote) -> None:
        """Add one line.

        Raises:
            OSError: the disk is full or gone.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": now, **asdict(vote)}, ensure_ascii=False)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A writer that died in the middle of a line spoils that line only.
            end = file.seek(0, 2)
            if end:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")
