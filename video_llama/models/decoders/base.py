"""What every decoder answers.

A decoder reads embeddings, of words and of media alike, and predicts the next token. It has no
tokenizer and decides nothing about sampling or stopping.

Shapes: B batch, L text, S supervised positions of a batch, H width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import Cache


@dataclass(frozen=True)
class TokenLosses:
    """Losses at the supervised positions of a batch, row by row.

    Attributes:
        token_loss: float32[S], cross entropy; carries the graph.
        sample_index: int64[S], the row each belongs to, ascending.
    """

    token_loss: Tensor
    sample_index: Tensor


class Decoder(Protocol):
    """A causal language model that is fed with embeddings; built from its `PartConfig`.

    A class that says `takes_placement = True` is also given `low_resource` and `placement` where a
    run asks for them, and has a model of transformers in `model`; others refuse both. One that says
    `skips_padding` computes its losses without padding, but for attention.

    Attributes:
        width: H.
        max_context: most positions it can read and write together.
        vocab_size: V.
        end_ids: token ids that end an answer.
        silent_ids: token ids that are never generated; none, until whoever knows the vocabulary
            says which rows of the embedding no answer consists of. Losses do not change by it.
    """

    width: int
    max_context: int
    vocab_size: int
    end_ids: frozenset[int]
    silent_ids: frozenset[int]

    def embed(self, ids: Tensor) -> Tensor:
        """Look up int64[B, L] on any device, giving float[B, L, H] on the decoder's own."""

    def loss(
        self,
        inputs_embeds: Tensor,
        *,
        attention_mask: Tensor,
        labels: Tensor,
        cache: Cache | None = None,
    ) -> TokenLosses:
        """Compute the loss where labels are not `IGNORE_INDEX`, behind what the cache holds."""

    def new_cache(self) -> Cache:
        """Return an empty cache for `step`."""

    def step(self, inputs_embeds: Tensor, *, attention_mask: Tensor | None, cache: Cache) -> Tensor:
        """Read float[B, L, H] behind what the cache holds; return next-token logits.

        There is a mask, bool[B, P + L] over all positions, only where something is padded.
        """


class Adapted(Protocol):
    """A decoder whose `Config` may ask for adapters (`lora`).

    Attributes:
        config: as built, without the adapters that were merged since.
    """

    config: Any

    def merge_adapters(self) -> list[str]:
        """Make the adapters part of the weights; return the names of those that changed."""
