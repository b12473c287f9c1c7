"""What all conversations with one model have in common: its turnstile and what it has read before.

Tokens of media and key-values are kept in the order of use and bounded, so that memory does not
grow with the number of people. Nothing here knows what a conversation is about.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from video_llama.conversation.turnstile import Turnstile

if TYPE_CHECKING:
    from torch import Tensor

MEDIA_GIB = 0.5
"""Tokens of about two thousand clips of a 7B decoder."""

NUM_CACHES = 4
"""A full context of a 7B decoder takes one GiB in half precision."""


class MediaTokens:
    """Decoder tokens of media by the identity of what was encoded.

    What a conversation holds on to can be found by others as long as it does; besides, what was
    used last is kept.

    Args:
        max_bytes: of the tokens that are kept for nobody in particular.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Media that are kept for nobody in particular."""
        return len(self._recent)

    @property
    def num_bytes(self) -> int:
        """Memory of the tokens that are kept for nobody in particular."""
        with self._lock:
            return sum(tokens.nbytes for tokens in self._recent.values())

    def get(self, key: str) -> Tensor | None:
        """Return tokens that were put here, None if nobody has them any more."""
        with self._lock:
            tokens = self._held.get(key)
            if key in self._recent:
                self._recent.move_to_end(key)
            return tokens

    def put(self, key: str, tokens: Tensor) -> None:
        """Keep tokens; those used longest ago make room."""
        with self._lock:
            self._held[key] = tokens
            self._recent[key] = tokens
            self._recent.move_to_end(key)
            while self._recent and self.num_bytes > self._max_bytes:
                self._recent.popitem(last=False)


@dataclass(eq=False)
class CacheSlot:
    """Where a conversation's key-values are, if they are kept.

    Attributes:
        cache: a model's own, None while there is none.
    """

    cache: Any = None


class CacheShelf:
    """Says which conversations keep their key-values: those that were asked last.

    Args:
        num_caches: conversations at most; 0 keeps nothing.
    """

    def __init__(self, *, num_caches: int) -> None:
        self._num_caches = num_caches
        self._slots: list[weakref.ref[CacheSlot]] = []
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Conversations that keep key-values now."""
        with self._lock:
            slots = [ref() for ref in self._slots]
        return sum(slot is not None and slot.cache is not None for slot in slots)

    def take(self, slot: CacheSlot, *, make: Callable[[], Any]) -> Any:
        """Return the cache of a slot, made if need be, and take away the one used longest ago.

        Returns:
            None where nothing is kept.
        """
        if self._num_caches == 0:
            return None
        with self._lock:
            others = [ref for ref in self._slots if ref() not in (None, slot)]
            self._slots = [*others, weakref.ref(slot)]
            while len(self._slots) > self._num_caches:
                oldest = self._slots.pop(0)()
                if oldest is not None:
                    oldest.cache = None
            if slot.cache is None:
                slot.cache = make()
            return slot.cache


class Shared:
    """One per model: the line of those who wait for it, and what it remembers for them.

    Args:
        media_gib: of media tokens that are kept beside those of running conversations.
        num_caches: conversations whose key-values are kept; others are read again when asked.
        patience_s: how long an answer that nobody reads on holds up the next one.
    """

    def __init__(
        self,
        *,
        media_gib: float = MEDIA_GIB,
        num_caches: int = NUM_CACHES,
        patience_s: float = 2.0,
    ) -> None:
        if media_gib < 0 or num_caches < 0:
            raise ValueError(
                f"media_gib is {media_gib} and num_caches {num_caches}; neither may be negative."
            )
        self.line = Turnstile(patience_s=patience_s)
        self.tokens = MediaTokens(max_bytes=int(media_gib * 2**30))
        self.caches = CacheShelf(num_caches=num_caches)
