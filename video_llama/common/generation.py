"""What is answered and how, said once for chat, evaluation and the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = (-(2**63), 2**63 - 1)
"""Least and most; what a generator takes."""

PENALTIES = (0.01, 100.0)
"""Least and most `repetition_penalty`."""

MAX_BEAMS = 16
"""Each takes its own keys and values."""

LENGTH_PENALTIES = (-10.0, 10.0)
"""Least and most; an answer of many tokens to this power is still a number."""


@dataclass(frozen=True)
class Prompt:
    """One prompt laid out for a decoder: L positions of text and of media.

    Attributes:
        input_ids: L token ids; 0 at media positions.
        slots: 0 for text, k for a token of `media[k - 1]`; L of them. Where a prompt was cut there
            are fewer places than tokens, and the last tokens stand in them.
        media: float[S, H] per item.
        media_keys: identity of each item's tokens, by which a cache knows them again: equal keys
            must mean equal tokens, so a key also tells how the file was sampled. By default the
            tokens' own bytes are compared.
    """

    input_ids: Sequence[int]
    slots: Sequence[int]
    media: Sequence[Tensor] = ()
    media_keys: Sequence[str] | None = None


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of one generation; the defaults are greedy, so that answers are reproducible.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 takes the most likely token; above it, up to 100, tokens are drawn.
        top_p: draw from the smallest set of tokens that holds this probability, in (0, 1].
        repetition_penalty: above 1 makes tokens of the answer so far less likely; 1 is off;
            between 0.01 and 100.
        seed: of the draws; a signed integer of 64 bits.
        min_new_tokens: the decoder's end token is not chosen before; a template's stop mark may be.
        num_beams: answers followed side by side, up to 16; above 1 needs temperature 0, and the
            answer is shown when it is complete.
        length_penalty: the score of a beam is divided by its length to this power, between -10
            and 10.
    """

    max_new_tokens: int = 300
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int = 0
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature is {self.temperature}; it must be between 0 and 100.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not PENALTIES[0] <= self.repetition_penalty <= PENALTIES[1]:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be between "
                f"{PENALTIES[0]:g} and {PENALTIES[1]:g}, 1 is off."
            )
        if not SEEDS[0] <= self.seed <= SEEDS[1]:
            raise ValueError(
                f"seed is {self.seed}; it must be between {SEEDS[0]} and {SEEDS[1]}, the integers "
                "of 64 bits."
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}; it must lie between 0 and "
                f"max_new_tokens, {self.max_new_tokens}."
            )
        if not 1 <= self.num_beams <= MAX_BEAMS:
            raise ValueError(
                f"num_beams is {self.num_beams}; it must be between 1 and {MAX_BEAMS}, 1 is off."
            )
        if not LENGTH_PENALTIES[0] <= self.length_penalty <= LENGTH_PENALTIES[1]:
            raise ValueError(
                f"length_penalty is {self.length_penalty}; it must be between "
                f"{LENGTH_PENALTIES[0]:g} and {LENGTH_PENALTIES[1]:g}."
            )
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                f"num_beams is {self.num_beams} and temperature {self.temperature}; beams are not "
                "drawn, set temperature to 0 or num_beams to 1."
            )


def finish_reason(
    ids: Sequence[int], *, end_ids: Collection[int], stop: Callable[[int, Sequence[int]], bool]
) -> Literal["stop", "length"]:
    """Say why an answer that nobody broke off is over.

    Args:
        ids: of the whole answer, as generated.
        end_ids: ids by which the decoder ends an answer.
        stop: the rule it was generated with; asked as row 0.

    Returns:
        "stop" if the model ended it or a stop mark did, "length" if there was no room for more: in
        `max_new_tokens` or in the decoder's context.
    """
    return "stop" if ids and (ids[-1] in end_ids or stop(0, ids)) else "length"
