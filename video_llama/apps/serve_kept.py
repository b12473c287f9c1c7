"""Conversations that were answered, kept so that the next request of each need not begin anew.

A client sends the whole conversation every time. One that begins like it is looked for by the
identity of its rounds; what a conversation is about is not looked at. Bounded by number and bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from video_llama.conversation.chat import Chat


@dataclass(frozen=True)
class Identity:
    """What is equal for equal media."""

    digest: str


@dataclass(frozen=True)
class Mark:
    """The identity of a round, or of what stands before the first.

    Attributes:
        key: of it and all that stands before it.
        media: of its media, in text order.
    """

    key: str
    media: tuple[Identity, ...] = ()


@dataclass(frozen=True)
class Found:
    """A conversation that begins like a request.

    Attributes:
        chat: nobody else uses it now.
        num_rounds: rounds it has in common with the request.
        num_bytes: that it keeps of media.
        shows_next: the media of the request's next round wait in it already.
    """

    chat: Chat
    num_rounds: int = 0
    num_bytes: int = 0
    shows_next: bool = False


@dataclass(frozen=True)
class _Entry:
    chat: Chat
    marks: tuple[Mark, ...]
    num_bytes: int


class KeptChats:
    """Conversations by what was said in them; used from many threads.

    Args:
        max_chats: how many are kept; those used longest ago go first.
        max_bytes: of the media that they keep, together.
    """

    def __init__(self, *, max_chats: int, max_bytes: int) -> None:
        self._max_chats = max_chats
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Conversations kept now."""
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of media that they keep."""
        with self._lock:
            return sum(entry.num_bytes for entry in self._entries.values())

    def take(self, marks: Sequence[Mark], *, next_media: Sequence[Identity]) -> Found | None:
        """Take out the conversation that has most rounds in common with a request.

        One that went on for exactly one round more will do if that round showed the same media as
        the request's question: its last round is taken back, as when an answer is asked for again.

        Args:
            marks: of the request: its beginning and its rounds.
            next_media: identities of the media of its question.
        """
        with self._lock:
            best: tuple[int, int, str] | None = None
            for age, (key, entry) in enumerate(self._entries.items()):
                common = _num_common(entry.marks, marks)
                excess = len(entry.marks) - common
                following = marks[common].media if common < len(marks) else tuple(next_media)
                goes_back = excess == 1 and entry.marks[-1].media == following
                # Somebody's conversation is not taken for nothing.
                if (common > 1 and (excess == 0 or goes_back)) or (goes_back and following):
                    best = max(best or (-1, -1, ""), (2 * common - excess, age, key))
            if best is None:
                return None
            entry = self._entries.pop(best[2])
        return _opened(entry, _num_common(entry.marks, marks))

    def put(self, chat: Chat, *, marks: Sequence[Mark], num_bytes: int) -> None:
        """Keep a conversation until it is taken or others need its place."""
        with self._lock:
            key = marks[-1].key
            self._entries.pop(key, None)
            self._entries[key] = _Entry(chat, tuple(marks), num_bytes)
            while len(self._entries) > self._max_chats or self.num_bytes > self._max_bytes:
                self._entries.popitem(last=False)


def media_of(parts: Sequence[str | Identity]) -> tuple[Identity, ...]:
    """Return the identities of the media among words."""
    return tuple(part for part in parts if isinstance(part, Identity))


def first_mark(system: str) -> Mark:
    """Return the identity of what stands before the first round."""
    return Mark(hashlib.blake2b(system.encode(), digest_size=20).hexdigest())


def next_mark(before: Mark, *, question: Sequence[str | Identity], answer: str) -> Mark:
    """Return the identity of a round.

    Args:
        before: of all that stands before it.
        question: its words, and the identities of its media, in text order.
        answer: what was said; white space around it does not count.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in (before.key, *question, answer.strip()):
        kind, text = ("m", part.digest) if isinstance(part, Identity) else ("t", part)
        content = text.encode()
        # The length in front, or ("ab", "c") and ("a", "bc") would be the same.
        digest.update(f"{kind}{len(content)}:".encode() + content)
    return Mark(digest.hexdigest(), media=media_of(question))


def _num_common(one: Sequence[Mark], other: Sequence[Mark]) -> int:
    """Count what is equal at the beginning; a key tells of all before it."""
    num = 0
    while num < min(len(one), len(other)) and one[num].key == other[num].key:
        num += 1
    return num


def _opened(entry: _Entry, num_common: int) -> Found:
    """Bring a conversation to the end of what it has in common with a request."""
    goes_back = len(entry.marks) > num_common
    if goes_back:
        entry.chat.undo()
    return Found(
        chat=entry.chat,
        num_rounds=num_common - 1,
        num_bytes=entry.num_bytes,
        shows_next=goes_back,
    )
