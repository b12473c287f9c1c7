"""One answer on its way: what has been said of it, and what its generation takes.

It streams from a model whose turn it is; who gets a turn, and what becomes of a finished answer,
is the chat's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from video_llama.common.generation import GenerationSettings, Prompt, finish_reason
from video_llama.conversation.prompts import Laid
from video_llama.conversation.rounds import (
    Content,
    Conversation,
    FinishReason,
    Question,
    Round,
    Usage,
)
from video_llama.conversation.stopping import AnswerStream, StopRule
from video_llama.conversation.tokenizer import Tokenizer

if TYPE_CHECKING:
    from video_llama.conversation.chat_model import ChatModel


@dataclass(eq=False)
class Answer:
    """An answer on its way.

    Attributes:
        conversation: the one it belongs to, whatever the person talks about meanwhile.
        question: None for the last one again.
        settings: of its generation.
        stopped: set when the person has heard enough.
        said: what was shown of it.
        is_over: it has become part of the conversation, or was withdrawn.
        content: of its question with the uploads, empty before it has begun.
        laid: the question as it was laid out last.
        replaced: the round that it answers again.
        num_forgotten: rounds that its prompt leaves out.
        usage: what it took so far.
    """

    conversation: Conversation
    question: Question | None
    settings: GenerationSettings
    stopped: threading.Event = field(default_factory=threading.Event)
    said: str = ""
    is_over: bool = False
    content: Content = ()
    laid: Laid | None = None
    replaced: Round | None = None
    num_forgotten: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0, "stopped"))


def generate(
    answer: Answer,
    *,
    model: ChatModel,
    prompt: Prompt,
    cache: Any,
    tokenizer: Tokenizer,
    stop: Sequence[str],
) -> Iterator[str]:
    """Yield the pieces of an answer and keep its books.

    Args:
        answer: grows; once it is over nothing more is yielded.
        model: whose turn it is.
        prompt: what it reads.
        cache: what it read last, None where nothing is kept.
        tokenizer: of the decoder.
        stop: the template's stop strings.
    """
    books = _Books(answer, num_prompt=len(prompt.input_ids), cache=cache)
    stream, rule = AnswerStream(tokenizer=tokenizer, stop=stop), StopRule(tokenizer, stop)
    ids: list[int] = []
    coming = model.stream_prompt(
        input_ids=prompt.input_ids,
        slots=prompt.slots,
        media=prompt.media,
        settings=answer.settings,
        stop=_Enough(rule, answer.stopped),
        media_keys=prompt.media_keys or (),
        cache=cache,
    )
    for token_id in coming:
        ids.append(token_id)
        piece = "" if answer.is_over else stream.push(token_id)
        books.count_token()
        if piece:
            answer.said += piece
            yield piece
        # Before the model goes on: while nobody took the piece it may have read something else.
        if answer.is_over:
            return
        if stream.finished or answer.stopped.is_set():
            break
    reason = finish_reason(ids, end_ids=model.end_ids, stop=rule)
    books.close("stopped" if reason == "length" and answer.stopped.is_set() else reason)
    rest = stream.close()
    if rest:
        answer.said += rest
        yield rest


@dataclass(frozen=True)
class _Enough:
    """Ends an answer where its stop rule does, and where the person has heard enough.

    The model asks, because pieces of a search for beams come only at its end.
    """

    rule: StopRule
    stopped: threading.Event

    def __call__(self, row: int, ids: Sequence[int]) -> bool:
        """Look at the ids generated so far; see `StopRule`."""
        return self.stopped.is_set() or self.rule(row, ids)


class _Books:
    """Writes into an answer what it takes."""

    def __init__(self, answer: Answer, *, num_prompt: int, cache: Any) -> None:
        self._answer = answer
        self._cache = cache
        self._began = time.monotonic()
        answer.usage = replace(answer.usage, prompt_tokens=num_prompt)

    def count_token(self) -> None:
        """Note that there is one more."""
        usage, passed_s = self._answer.usage, time.monotonic() - self._began
        self._answer.usage = replace(
            usage,
            cached_tokens=0 if self._cache is None else self._cache.num_reused,
            completion_tokens=usage.completion_tokens + 1,
            first_token_s=usage.first_token_s or passed_s,
            total_s=passed_s,
        )

    def close(self, reason: FinishReason) -> None:
        """Note how it ended."""
        passed_s = time.monotonic() - self._began
        self._answer.usage = replace(self._answer.usage, finish_reason=reason, total_s=passed_s)
