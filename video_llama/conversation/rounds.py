"""What a conversation consists of: uploads, rounds of question and answer, and what is waiting.

Plain data; nothing is read, encoded or generated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from video_llama.common.errors import ConfigError
from video_llama.common.types import BranchSpec, MediaItem, Message

if TYPE_CHECKING:
    from torch import Tensor

    from video_llama.processors.uploads import UploadRequest

FinishReason = Literal["stop", "length", "stopped"]


@dataclass(frozen=True, eq=False)
class Upload:
    """What became of an uploaded file.

    Attributes:
        items: as the model sees and hears them, with pixels or mel and their seconds.
        specs: of the branch of each item, with the steps that were really asked for.
        notes: what the person should know, in full sentences.
        name: of the file, without its folder.
        keys: identity of each item's tokens.
        request: what was asked for.
        number: tells this upload from every other one.
    """

    items: tuple[MediaItem, ...]
    specs: tuple[BranchSpec, ...]
    notes: tuple[str, ...]
    name: str
    keys: tuple[str, ...]
    request: UploadRequest
    number: str = field(default_factory=lambda: uuid4().hex)

    def without_pixels(self) -> Upload:
        """Return what a conversation remembers of it."""
        items = tuple(replace(item, pixels=None, mel=None) for item in self.items)
        return replace(self, items=items)


Content = tuple["str | Upload", ...]
"""Words and uploads of a question in the order in which they are read."""

Question = str | Sequence[str | Upload]
"""Words alone, or words and uploads in text order; uploads not named stand in front."""


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: decoder positions of the prompt, media included.
        cached_tokens: of these, positions that did not have to be read again.
        completion_tokens: tokens generated, those of the stop mark included.
        finish_reason: "stop" where the model ended its answer, "length" at the longest answer
            or the end of the decoder's context, "stopped" where the person ended it.
        waited_s: until the model was free.
        first_token_s: from then to the first token; 0 if there was none.
        total_s: from then to the end.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    waited_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class Round:
    """A question and its answer.

    Attributes:
        content: of the question.
        answer: what was said.
        num_forgotten: rounds that the model had to forget to read it; they stay forgotten.
    """

    content: Content
    answer: str
    num_forgotten: int = 0

    @property
    def question(self) -> str:
        """The words of the question, without its uploads."""
        words = ""
        for part in self.content:
            if isinstance(part, str):
                is_apart = not words or words[-1].isspace() or part[:1].isspace()
                words += part if is_apart else f" {part}"
        return words

    @property
    def uploads(self) -> list[Upload]:
        """The uploads of the question, each once, in text order."""
        found = {part.number: part for part in self.content if isinstance(part, Upload)}
        return list(found.values())


@dataclass(eq=False)
class Conversation:
    """What has been said and shown so far.

    Attributes:
        rounds: from the first to the last.
        waiting: uploads that belong to the next question.
        tokens: of all media in it, by key.
        notes: what the person has not been told yet.
    """

    rounds: list[Round] = field(default_factory=list)
    waiting: list[Upload] = field(default_factory=list)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def num_forgotten(self) -> int:
        """Rounds that no prompt holds any more."""
        return min(self.rounds[-1].num_forgotten, len(self.rounds)) if self.rounds else 0

    def enter(self, entry: Round) -> None:
        """Add a finished round; its uploads wait no longer."""
        shown = {upload.number for upload in entry.uploads}
        self.rounds.append(entry)
        self.waiting = [upload for upload in self.waiting if upload.number not in shown]

    def take_back(self) -> Round | None:
        """Remove the last round; its uploads wait for the next question, before all others."""
        if not self.rounds:
            return None
        last = self.rounds.pop()
        kept = {upload.number for entry in self.rounds for upload in entry.uploads}
        kept |= {upload.number for upload in self.waiting}
        again = [upload for upload in last.uploads if upload.number not in kept]
        self.waiting = [*again, *self.waiting]
        return last

    def messages(self) -> list[Message]:
        """Return the rounds as turns."""
        return [
            message
            for entry in self.rounds
            for message in (
                Message("user", items_in(entry.content)),
                Message("assistant", [entry.answer]),
            )
        ]


def compose(question: Question, *, waiting: Sequence[Upload]) -> Content:
    """Put a question and the uploads that wait for it in text order.

    Raises:
        ConfigError: there are no words in it, or something that is neither words nor an upload.
    """
    parts = [question] if isinstance(question, str) else list(question)
    for part in parts:
        if not isinstance(part, str | Upload):
            raise ConfigError(
                f"a question holds {type(part).__name__}; it takes text and what `upload` returned"
            )
    if not any(isinstance(part, str) and part.strip() for part in parts):
        raise ConfigError("the question is empty; type one, or upload a file first")
    shown = [
        part.without_pixels() if isinstance(part, Upload) else spellable(part) for part in parts
    ]
    if isinstance(shown[0], str):
        shown[0] = shown[0].lstrip()
    if isinstance(shown[-1], str):
        shown[-1] = shown[-1].rstrip()
    named = {part.number for part in shown if isinstance(part, Upload)}
    in_front = [upload for upload in waiting if upload.number not in named]
    return (*in_front, *(part for part in shown if part != ""))


def spellable(text: str) -> str:
    """Return a text whose halves of surrogate pairs, which no file can hold, are question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def items_in(content: Content) -> list[str | MediaItem]:
    """Return what a message holds."""
    parts: list[str | MediaItem] = []
    for part in content:
        parts += [part] if isinstance(part, str) else list(part.items)
    return parts


def keys_in(contents: Sequence[Content]) -> list[str]:
    """Return the identity of the tokens of every item in text order."""
    return [
        key
        for content in contents
        for part in content
        if isinstance(part, Upload)
        for key in part.keys
    ]
