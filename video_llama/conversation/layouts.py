"""What a prompt template consists of: pieces of text, layouts of turns, and the template itself.

Data only; the templates that ship stand in `conversation.templates`, the code that renders them in
`conversation.encode`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaItem, MediaKind, Role


@dataclass(frozen=True)
class Text:
    """Literal text; a token whose first character lies in supervised text is a target."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Token:
    """A real special token, never spelled out."""

    name: Literal["bos", "eos"]
    supervised: bool = False


@dataclass(frozen=True)
class Cut:
    """Text on its two sides is tokenised apart, as some published code does."""


@dataclass(frozen=True)
class Word:
    """A mark that some vocabularies have as one added token; spelled out where they have not."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Slot:
    """Where the tokens of a media item go.

    Attributes:
        item: the item's place in text order, counted from 1.
    """

    item: int


Piece = Text | Token | Word | Cut
BOS = Token("bos")
EOS = Token("eos", supervised=True)


@dataclass(frozen=True)
class Layout:
    """What surrounds the turns of a conversation; every text opens with the bos token besides.

    Attributes:
        lead: after the system text, before the first turn.
        user_before: opens a user turn.
        user_after: closes a user turn.
        header: opens an assistant turn; a generation prompt ends with it.
        answer_before: between header and answer.
        answer_after: closes an answer.
        system: system text if the sample has none of its own; "" gives nothing.
        systems: the same by the kind of the sample's first media item.
        system_marks: around a system text.
        system_in_user: the system text stands in the first user turn instead of before the lead.
        keeps_empty_system: the system marks stand even around nothing.
        join: between a media item and the words after it, unless those open with white space.
        joint: a whole sentence for one sound with one video; "{audio}" and "{video}" are the
            media, in the order in which they are read.
        drops_unpaired_answers: an empty answer, or one before any question, leaves no text.
        drops_words: a question leaves its media and no words.
    """

    lead: tuple[Piece, ...]
    user_before: tuple[Piece, ...]
    user_after: tuple[Piece, ...]
    header: tuple[Piece, ...]
    answer_before: tuple[Piece, ...]
    answer_after: tuple[Piece, ...]
    system: str = ""
    systems: Mapping[MediaKind, str] = field(default_factory=dict)
    system_marks: tuple[str, str] = ("", "")
    system_in_user: bool = False
    keeps_empty_system: bool = False
    join: str = " "
    joint: str | None = None
    drops_unpaired_answers: bool = False
    drops_words: bool = False

    def only_answers(self) -> Layout:
        """Return the layout with nothing supervised but answers and what closes them."""
        return replace(
            self,
            lead=_unsupervised(self.lead),
            user_before=_unsupervised(self.user_before),
            user_after=_unsupervised(self.user_after),
            header=_unsupervised(self.header),
        )


def _unsupervised(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Return the same text without targets."""
    return tuple(
        replace(piece, supervised=False) if isinstance(piece, Text | Token) else piece
        for piece in pieces
    )


@dataclass(frozen=True)
class Turn:
    """A message of a conversation, its words harmless and its media numbered."""

    role: Role
    pieces: tuple[Piece | Slot, ...]


class Writer(Protocol):
    """Lays whole conversations out, where no layout can tell how."""

    def write(
        self, turns: Sequence[Turn], *, system: str, generation_prompt: bool
    ) -> list[Piece | Slot]:
        """Return a conversation as pieces, the opening token included if there is to be one."""


@dataclass(frozen=True)
class Template:
    """A prompt format in all its forms.

    Attributes:
        name: registry name.
        source: where the text comes from.
        instruct: layout of training conversations.
        chat: layout of served conversations.
        prompted_caption: layout of a caption that answers a prompt, without seconds; None takes
            `instruct`.
        differs: where chat is not the beginning of instruct; empty for a corrected template.
        media_marks: text before and after a media item, by kind.
        caption_end: closes a caption; the caption form is media, caption, this.
        cuts_caption_end: a caption that is too long loses this end too, as published.
        stop: strings that end an answer, besides the eos token.
        forgeable: strings without white space that text from outside must not contain.
        frame_times: whether a video is followed by the seconds of its frames.
        frame_times_text: that sentence; "{count}" and "{times}" are filled in.
        writer: lays conversations out in place of the layouts, of which only the system text and
            `join` count then.
    """

    name: str
    source: str
    instruct: Layout
    chat: Layout
    differs: tuple[str, ...]
    media_marks: Mapping[MediaKind, tuple[str, str]]
    caption_end: tuple[Piece, ...]
    stop: tuple[str, ...]
    forgeable: tuple[str, ...]
    prompted_caption: Layout | None = None
    cuts_caption_end: bool = False
    frame_times: bool = False
    frame_times_text: str = "The video contains {count} frames sampled at {times} seconds."
    writer: Writer | None = None

    def __post_init__(self) -> None:
        if bad := [mark for mark in self.forgeable if not mark or set(mark) & set(" \t\r\n")]:
            raise ValueError(f"template '{self.name}': forgeable {bad} hold white space or nothing")

    def seconds_of(self, item: MediaItem) -> str:
        """Say when the frames of a video were taken; "" for other media or if switched off.

        Raises:
            MediaError: the sentence is switched on and nobody noted the seconds.
        """
        if not self.frame_times or item.kind != "video":
            return ""
        if not item.times_s:
            reason = "the seconds of its frames are unknown, but template.frame_times wants them"
            raise MediaError(reason, path=item.path)
        times = ", ".join(str(round(float(t), 1)) for t in item.times_s)
        return self.frame_times_text.format(count=len(item.times_s), times=times)
