"""What a client asks of `/v1/chat/completions`, checked and typed before anything is decoded.

OpenAI's names, and a few of our own for what their API has no word for (`frames`, `fps`, `start`,
`end`, `sound`, `num_beams`, `repetition_penalty`). What cannot be honoured is refused by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from video_llama.apps.serve_errors import ApiError, in_their_words
from video_llama.apps.serve_fields import Fields, check_text, shown
from video_llama.apps.serve_parts import (
    Medium,
    Parts,
    Sampling,
    read_content,
    read_sampling,
    read_words,
)
from video_llama.common.generation import MAX_BEAMS, PENALTIES, SEEDS, GenerationSettings

MAX_STOP_STRINGS = 4

_NO_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options",
)  # fmt: skip
"""Keys about accounts and caches of OpenAI's own service; they ask nothing of an answer."""

_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "n": ((1,), "one answer a request; send the request again with another seed"),
    "frequency_penalty": ((0,), "use repetition_penalty"),
    "presence_penalty": ((0,), "use repetition_penalty"),
    "logit_bias": (({},), "tokens cannot be favoured"),
    "logprobs": ((False,), "probabilities are not reported"),
    "top_logprobs": ((0,), "probabilities are not reported"),
    "tools": (([],), "the model was not trained to call tools"),
    "tool_choice": (("none", "auto"), "the model was not trained to call tools"),
    "parallel_tool_calls": ((True, False), "the model was not trained to call tools"),
    "functions": (([],), "the model was not trained to call functions"),
    "function_call": (("none", "auto"), "the model was not trained to call functions"),
    "response_format": (({"type": "text"},), "answers are free text"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "prediction": ((), "answers are not predicted"),
    "reasoning_effort": (("none",), "the model has no reasoning phase"),
    "verbosity": (("medium",), "use max_tokens"),
    "web_search_options": ((), "nothing is searched"),
    "moderation": ((), "nothing is moderated"),
}


@dataclass(frozen=True)
class Round:
    """A question and its answer."""

    question: Parts
    answer: str


@dataclass(frozen=True)
class ChatRequest:
    """A checked request.

    Attributes:
        model: the name it was asked for.
        system: system text, "" for the model's own.
        rounds: what was said before.
        question: what is to be answered.
        changes: fields of `GenerationSettings` that differ from the server's.
        stop: strings that end the answer, besides the model's own.
        stream: whether pieces are sent as they come.
        include_usage: whether a stream ends with its usage.
    """

    model: str
    system: str
    rounds: tuple[Round, ...]
    question: Parts
    changes: dict[str, Any]
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False

    @property
    def media(self) -> list[Medium]:
        """All media in text order."""
        return [part for part in self._parts() if isinstance(part, Medium)]

    @property
    def num_chars(self) -> int:
        """Characters of all texts together."""
        texts = [part for part in self._parts() if isinstance(part, str)]
        answers = [said.answer for said in self.rounds]
        return sum(map(len, (self.system, *texts, *answers)))

    def settings(self, base: GenerationSettings) -> GenerationSettings:
        """Return the server's settings with the client's changes.

        Raises:
            ApiError: a value makes no sense, or two do not go together.
        """
        try:
            return dataclasses.replace(base, **self.changes)
        except ValueError as error:
            raise ApiError(in_their_words(str(error)), code="invalid_value") from error

    def _parts(self) -> list[str | Medium]:
        questions = [*(said.question for said in self.rounds), self.question]
        return [part for question in questions for part in question]


def parse_request(body: object) -> ChatRequest:
    """Check a request.

    Args:
        body: the parsed JSON.

    Raises:
        ApiError: names the field that is wrong, what was found and what is expected.
    """
    fields = Fields(body)
    model = fields.required_text("model")
    sampling = read_sampling(fields, default=Sampling())
    system, rounds, question = _conversation(fields.raw("messages"), sampling)
    for key, (unless, why) in _REFUSED.items():
        fields.refuse(key, unless=unless, why=why)
    for key in _NO_EFFECT:
        fields.raw(key)
    stream = bool(fields.flag("stream"))
    options = Fields(fields.raw("stream_options") or {}, where="stream_options")
    include_usage = bool(options.flag("include_usage"))
    options.flag("include_obfuscation")
    options.finish()
    if fields.raw("stream_options") is not None and not stream:
        raise ApiError("stream_options is for stream: true only", param="stream_options")
    request = ChatRequest(
        model=model,
        system=system,
        rounds=rounds,
        question=question,
        changes=_changes(fields),
        stop=_stop(fields),
        stream=stream,
        include_usage=include_usage,
    )
    fields.finish()
    return request


def _changes(fields: Fields) -> dict[str, Any]:
    """Read what decides how the answer is generated."""
    longest = fields.integer("max_completion_tokens", least=1, most=10**6)
    older = fields.integer("max_tokens", least=1, most=10**6)
    if longest is not None and older is not None and longest != older:
        raise ApiError(
            f"max_tokens is {older} and max_completion_tokens {longest}; give one of them",
            param="max_tokens",
        )
    read = {
        "max_new_tokens": older if longest is None else longest,
        "temperature": fields.number("temperature", least=0, most=2),
        "top_p": fields.number("top_p", least=1e-6, most=1),
        "seed": fields.integer("seed", least=SEEDS[0], most=SEEDS[1]),
        "repetition_penalty": fields.number(
            "repetition_penalty", least=PENALTIES[0], most=PENALTIES[1]
        ),
        "num_beams": fields.integer("num_beams", least=1, most=MAX_BEAMS),
    }
    return {name: value for name, value in read.items() if value is not None}


def _stop(fields: Fields) -> tuple[str, ...]:
    """Read one stop string or several."""
    value = fields.raw("stop")
    marks = [value] if isinstance(value, str) else value
    if marks is None:
        return ()
    good = isinstance(marks, list) and len(marks) <= MAX_STOP_STRINGS
    if not good or not all(isinstance(mark, str) and 0 < len(mark) <= 200 for mark in marks):
        raise fields.wrong(
            "stop", f"a string, or up to {MAX_STOP_STRINGS} of at most 200 characters"
        )
    for mark in marks:
        check_text(mark, where="stop")
    return tuple(marks)


def _conversation(messages: object, sampling: Sampling) -> tuple[str, tuple[Round, ...], Parts]:
    """Cut messages into system text, rounds and the question."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(
            f"messages is {shown(messages)}; expected a list with at least one question",
            param="messages",
        )
    system: list[str] = []
    rounds: list[Round] = []
    question: list[str | Medium] = []
    asked_at = ""
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        fields = Fields(message, where=where)
        role = fields.text("role", one_of=("system", "developer", "user", "assistant"))
        fields.refuse("name", unless=(), why="speakers have no names here")
        if role == "user":
            asked_at = where
            if question:
                question.append("\n")
            question += read_content(fields, sampling=sampling)
        elif role == "assistant":
            if not question:
                raise ApiError(f"{where} answers no question; put one before it", param=where)
            rounds.append(Round(_asked(question, where=asked_at), _answer(fields)))
            question = []
        elif role is None:
            raise ApiError(f"{where}.role is missing", param=f"{where}.role")
        else:
            if rounds or question:
                raise ApiError(f"{where}: a system text comes first", param=where)
            system.append(read_words(fields))
        fields.finish()
    if not question:
        raise ApiError("the last message is no question; end with role user", param="messages")
    return "\n".join(system), tuple(rounds), _asked(question, where=asked_at)


def _asked(question: list[str | Medium], *, where: str) -> Parts:
    """Return a question, in which there must be words."""
    if not any(isinstance(part, str) and part.strip() for part in question):
        raise ApiError(f"{where}: there are no words in it; ask something", param=where)
    return tuple(question)


def _answer(fields: Fields) -> str:
    """Read what the model said earlier, as OpenAI's client hands it back."""
    for key in ("tool_calls", "function_call", "audio", "refusal"):
        fields.refuse(key, unless=([],), why="answers are plain text")
    fields.refuse("annotations", unless=([],), why="answers are plain text")
    return "" if fields.raw("content") is None else read_words(fields)
