"""A conversation and its next question laid out for a model, within its context."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from video_llama.common.errors import ConfigError, ContextOverflow
from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.types import Message, Sample
from video_llama.conversation.encode import Encoded, encode, without_oldest
from video_llama.conversation.layouts import Template
from video_llama.conversation.rounds import Content, Conversation, Round, items_in, keys_in
from video_llama.conversation.tokenizer import Tokenizer

LONGEST_TOKEN = 128
"""Characters of the longest tokens of common vocabularies, which are runs of spaces."""

REFILL = 0.75
"""How full a context is after old rounds went: were it full, every question would have to let
another round go, and nothing read before would stand where it stood."""


@dataclass(frozen=True)
class Laid:
    """A question laid out behind what was said before.

    Attributes:
        rounds: what was said before.
        content: of the question.
        prompt: for the model.
        num_forgotten: rounds that are left out to fit the context, those of earlier prompts
            included.
    """

    rounds: tuple[Round, ...]
    content: Content
    prompt: Prompt
    num_forgotten: int

    def is_for(self, content: Content, *, conversation: Conversation) -> bool:
        """Say whether a question behind a conversation would be laid out just so."""
        return (self.rounds, self.content) == (tuple(conversation.rounds), content)


@dataclass(frozen=True)
class PromptWriter:
    """Lays questions out.

    Attributes:
        template: the prompt format.
        tokenizer: of the decoder.
        max_context: positions of prompt and longest answer together.
        overflow: see `ChatCompat`.
    """

    template: Template
    tokenizer: Tokenizer
    max_context: int
    overflow: Literal["drop_rounds", "cut_left"]

    def write(
        self, content: Content, *, conversation: Conversation, settings: GenerationSettings
    ) -> Laid:
        """Lay a question out behind a conversation, so that its longest answer fits too.

        Raises:
            ConfigError: no room is left for a prompt.
            ContextOverflow: the media and the question alone do not fit.
        """
        room = self.max_context - settings.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"max_new_tokens is {settings.max_new_tokens}, but the decoder's context holds "
                f"{self.max_context} positions in all; lower it"
            )
        asked = Message("user", items_in(content))
        if len(asked.text) > LONGEST_TOKEN * self.max_context:
            # Seconds of work for a megabyte, while others wait.
            raise ContextOverflow(
                f"the question has {len(asked.text)} characters, and all {self.max_context} "
                f"positions of the decoder's context together hold {LONGEST_TOKEN} each at the "
                "very most; shorten it"
            )
        rounds = tuple(conversation.rounds)
        keys = keys_in([*(entry.content for entry in rounds), content])
        media = [conversation.tokens[key] for key in keys]
        forgotten = conversation.num_forgotten if self.overflow == "drop_rounds" else 0
        messages = without_oldest([*conversation.messages(), asked], num_rounds=forgotten)

        def encoded_within(max_len: int) -> Encoded:
            return encode(
                Sample("conversation", messages, form="chat"),
                template=self.template,
                tokenizer=self.tokenizer,
                num_slots=[len(tokens) for tokens in media],
                max_len=max_len,
                generation_prompt=True,
                overflow=self.overflow,
            )

        encoded = encoded_within(room)
        if encoded.dropped_rounds:
            # Where that much would have to go, it is enough that it fits.
            with suppress(ContextOverflow):
                encoded = encoded_within(int(room * REFILL))
        prompt = Prompt(encoded.input_ids, encoded.slots, media=media, media_keys=keys)
        return Laid(rounds, content, prompt, num_forgotten=forgotten + encoded.dropped_rounds)
