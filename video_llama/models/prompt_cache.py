"""What a decoder has read, kept so that the next prompt costs only what is new in it.

A cache belongs to one conversation. It knows each position it holds, a token of text or one of a
medium, and is cut to where the next prompt departs from that; undone turns, other questions and
other conversations need no special care. It reads nothing of its own accord and never samples.

Shapes: L new positions, H decoder width, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from video_llama.common.generation import Prompt
from video_llama.common.logger import get_logger
from video_llama.models.decoders.base import Decoder

Place = tuple[str | None, int]
"""What stands at a position: (None, id) of text, or (identity of a medium, place within it)."""


class PromptCache:
    """Keys and values of the positions a decoder has read last, with what stands at each.

    Equal to reading everything again, up to the rounding of matrix kernels. Not safe from several
    threads at once.

    Args:
        decoder: in eval mode; its weights must not change while the cache holds anything.

    Attributes:
        num_reused: positions of the last prompt that did not have to be read.
        num_prompts: prompts it has read; who reads on behind one can tell whether it is the last.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.num_reused = 0
        self.num_prompts = 0
        self._places: list[Place] = []
        self._states: Cache | None = None

    def __len__(self) -> int:
        """Count the positions held."""
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return sum(
            value.nbytes
            for layer in ([] if self._states is None else self._states.layers)
            for value in vars(layer).values()
            if isinstance(value, Tensor)
        )

    def clear(self) -> None:
        """Forget everything and free its memory."""
        self._places, self._states = [], None

    @torch.no_grad()
    def read_prompt(self, prompt: Prompt) -> Tensor:
        """Read what is new in a prompt, at least its last position.

        Worked example: held is `A B C D`, the answer D included.
            prompt A B C D E    reads E
            prompt A B X        forgets C D, reads X
            prompt A B          forgets B C D, reads B, because logits behind it are needed

        Args:
            prompt: of at least one position.

        Returns:
            float32[1, V], logits behind its last position.
        """
        places = places_of(prompt)
        self.num_prompts += 1
        self.num_reused = self._cut(common_prefix(self._places, places[:-1]))
        embeds = embed_prompt(self.decoder, prompt, start=self.num_reused)
        return self._read(embeds, places[self.num_reused :])

    @torch.no_grad()
    def read_ids(self, ids: Sequence[int]) -> Tensor:
        """Read text on; return float32[1, V], logits behind it."""
        embeds = self.decoder.embed(torch.tensor([ids]))
        return self._read(embeds, [(None, token_id) for token_id in ids])

    def lend(self) -> Cache:
        """Return the states for a search that reads on and reorders them.

        Whoever borrows them changes a copy that shares its tensors with the cache. Where such a
        copy would not be independent the cache is empty afterwards.
        """
        assert self._states is not None, "nothing has been read"
        states = self._states
        if not all(type(layer) in _GROWING for layer in states.layers):
            self.clear()
            return states
        lent = copy.copy(states)
        lent.layers = [copy.copy(layer) for layer in states.layers]
        return lent

    def _cut(self, length: int) -> int:
        """Forget all behind `length` positions; return how many are left."""
        num_extra = len(self._places) - length
        if self._states is None or num_extra == 0:
            return length
        if not length or not _can_be_cut(self._states):
            if length:
                _say_that_it_cannot_be_cut(type(self.decoder).__name__)
            self.clear()
            return 0
        self._states.crop(-num_extra)
        del self._places[length:]
        return length

    def _read(self, embeds: Tensor, places: Sequence[Place]) -> Tensor:
        """Let the decoder read float[1, L, H]."""
        states, known = self._states, self._places
        if states is None:
            states = self.decoder.new_cache()
        # Empty while the decoder writes: if it fails in the middle, nothing half-written is used.
        self.clear()
        logits = self.decoder.step(embeds, attention_mask=None, cache=states)
        known.extend(places)
        self._states, self._places = states, known
        return logits


def places_of(prompt: Prompt) -> list[Place]:
    """Say of each position what stands there.

    Where a prompt was cut there are fewer places than a medium has tokens, and its last ones stand
    in them.

    Raises:
        ValueError: a medium has more places than tokens, or there is not one key for each.
    """
    keys = prompt.media_keys
    if keys is None:
        keys = [content_key(tokens) for tokens in prompt.media]
    if len(keys) != len(prompt.media):
        raise ValueError(f"{len(keys)} media_keys for {len(prompt.media)} media; give one for each")
    counts = [0] * (len(keys) + 1)
    for slot in prompt.slots:
        counts[slot] += 1
    offsets = [0]
    for number, tokens in enumerate(prompt.media, start=1):
        if counts[number] > len(tokens):
            raise ValueError(
                f"medium {number} of the prompt has {len(tokens)} tokens and {counts[number]} "
                "positions; encode the prompt with the number of tokens of every medium"
            )
        offsets.append(len(tokens) - counts[number])
    places: list[Place] = []
    for token_id, slot in zip(prompt.input_ids, prompt.slots, strict=True):
        if slot == 0:
            places.append((None, token_id))
        else:
            places.append((keys[slot - 1], offsets[slot]))
            offsets[slot] += 1
    return places


def embed_prompt(decoder: Decoder, prompt: Prompt, *, start: int = 0) -> Tensor:
    """Embed the text of a prompt and write the tokens of its media into their places.

    Args:
        decoder: looks up the text.
        prompt: of P positions.
        start: the first position wanted.

    Returns:
        float[1, P - start, H].
    """
    embeds = decoder.embed(torch.tensor([prompt.input_ids[start:]]))
    slots = torch.tensor(prompt.slots)
    for number, tokens in enumerate(prompt.media, start=1):
        positions = (slots == number).nonzero()[:, 0]
        # The last tokens, where there are more of them than places.
        sources = torch.arange(len(positions)) + (len(tokens) - len(positions))
        is_wanted = positions >= start
        if bool(is_wanted.any()):
            where = (positions[is_wanted] - start).to(embeds.device)
            embeds[0, where] = tokens[sources[is_wanted].to(tokens.device)].to(embeds)
    return embeds


def content_key(tokens: Tensor) -> str:
    """Return the identity of a medium's tokens, float[S, H], by their very bytes."""
    digest = hashlib.blake2b(f"{tokens.dtype} {tuple(tokens.shape)}".encode(), digest_size=16)
    flat = tokens.detach().cpu().contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def common_prefix(first: Sequence[Place], second: Sequence[Place]) -> int:
    """Return how many places two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


_GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of states that are tensors by position and are replaced, never written into."""


def _can_be_cut(states: Cache) -> bool:
    """Tell whether positions at the end can be forgotten as if they had never been read."""
    return all(
        type(layer) is DynamicLayer
        # A window that has moved on has lost what stood in front of it.
        or (
            type(layer) is DynamicSlidingWindowLayer
            and layer.get_seq_length() < layer.sliding_window
        )
        for layer in states.layers
    )


@functools.cache
def _say_that_it_cannot_be_cut(decoder: str) -> None:
    """Log it, once a process."""
    get_logger().info(
        "decoder %s: what it has read cannot be taken back one by one (a sliding window or a "
        "running state), so a prompt that departs from it is read from its start",
        decoder,
    )
