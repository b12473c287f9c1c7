"""How an answer is generated, said once for chat, evaluation and the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of one generation; the defaults are greedy, so that answers are reproducible.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 takes the most likely token; above it, tokens are drawn.
        top_p: draw from the smallest set of tokens that holds this probability, in (0, 1].
        repetition_penalty: above 1 makes tokens of the answer so far less likely; 1 is off.
        seed: of the draws.
        min_new_tokens: the decoder's end token is not chosen before; a template's stop mark may be.
        num_beams: answers followed side by side; above 1 needs temperature 0, and the answer is
            shown when it is complete.
        length_penalty: the score of a beam is divided by its length to this power.
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
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0, 1 is off."
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}; it must lie between 0 and "
                f"max_new_tokens, {self.max_new_tokens}."
            )
        if self.num_beams < 1:
            raise ValueError(f"num_beams is {self.num_beams}; it must be at least 1.")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                f"num_beams is {self.num_beams} and temperature {self.temperature}; beams are not "
                "drawn, set temperature to 0 or num_beams to 1."
            )
