"""`template: tokenizer`: the chat template that lies in the decoder's own directory.

How it is to be used is found out by rendering a few conversations of known words: what is around
them shows what the template does. What it does with real conversations is read off every text anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.conversation.chat_template import ANSWER, CLOSE, OPEN, ChatTemplateWriter
from video_llama.conversation.jinja_text import RefusedConversation
from video_llama.conversation.layouts import EOS, Layout, Template, Text, Turn, Word
from video_llama.conversation.templates.marks import BARE_MEDIA, PLACEHOLDERS
from video_llama.conversation.tokenizer import Tokenizer

_SYSTEM, _QUESTIONS = "Sasa", ("Qaqa", "Qbqb")
_TURNS = (
    Turn("user", (Text(_QUESTIONS[0]),)),
    Turn("assistant", (Text("Abab"),)),
    Turn("user", (Text(_QUESTIONS[1]),)),
    Turn("assistant", (Text("Acac"),)),
)
_TAGS = re.compile(r"<[\w|/]+>")
_WORDS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|[^\s<\[]+")


@registry.register_template("tokenizer")
def read_chat_template(tokenizer: Tokenizer) -> Template:
    """Return the chat template of a tokenizer's directory as a prompt format.

    Raises:
        ConfigError: there is none, or it renders no conversation of questions and answers.
    """
    source = tokenizer.chat
    if source is None:
        raise ConfigError(
            "model.template: tokenizer: the tokenizer's directory has no chat template, neither a "
            "chat_template.jinja nor a key chat_template in its tokenizer_config.json; name one of "
            f"the others: {', '.join(n for n in registry.names('template') if n != 'tokenizer')}"
        )
    known = (text for text in tokenizer.special_texts if tokenizer.id_of(text) is not None)
    special = tuple(sorted(known, key=len, reverse=True))
    writer = _with_closing(_with_system(_with_contents(ChatTemplateWriter(source, special))))
    eos = source.names.get("eos_token", "")
    layout = Layout((), (), (), (), (), (), system=writer.default_system, join="\n")
    return Template(
        name="tokenizer",
        source=f"the chat template in {source.folder}",
        instruct=layout,
        chat=layout,
        differs=tuple(_differences(writer)),
        media_marks=BARE_MEDIA,
        caption_end=(EOS,),
        stop=tuple(dict.fromkeys(mark for mark in (writer.closing.strip(), eos) if mark)),
        forgeable=(*_marks(writer), *PLACEHOLDERS),
        writer=writer,
    )


def _text(writer: ChatTemplateWriter, num_turns: int, *, prompt: bool = False) -> str:
    """Render the first turns of the trial conversation."""
    turns = _TURNS[:num_turns]
    return writer.rendered(turns, system=writer.default_system, generation_prompt=prompt)


def _with_contents(writer: ChatTemplateWriter) -> ChatTemplateWriter:
    """Find out whether contents are texts or lists of parts, and how a turn is opened.

    Raises:
        ConfigError: neither comes out whole.
    """
    refusal: RefusedConversation | None = None
    for takes_parts in (False, True):
        fitted = replace(writer, takes_parts=takes_parts)
        try:
            text = _text(fitted, 4)
            answered, prompt = _text(fitted, 2), _text(fitted, 1, prompt=True)
        except RefusedConversation as error:
            refusal = refusal or error
            continue
        if len(ANSWER.findall(text)) == 2 and all(word in text for word in _QUESTIONS):
            return replace(fitted, opens_turn=answered.split(OPEN)[0].rstrip(" ") == prompt)
    raise refusal or ConfigError(
        "its chat template leaves questions or answers out of a conversation of two rounds; take "
        "a template of another name",
        where=writer.source.folder,
    )


def _with_system(writer: ChatTemplateWriter) -> ChatTemplateWriter:
    """Find out whether there is a place for a system text, and what stands there otherwise."""
    try:
        told = writer.rendered(_TURNS, system=_SYSTEM, generation_prompt=False)
    except RefusedConversation:
        return replace(writer, takes_system=False)
    if told.count(_SYSTEM) != 1 or len(ANSWER.findall(told)) != 2:
        return replace(writer, takes_system=False)
    before, after = told.split(_SYSTEM)
    untold = _text(writer, 4)
    default = untold[len(before) : len(untold) - len(after)]
    if default and before + default + after == untold:
        return replace(writer, default_system=default)
    return writer


def _with_closing(writer: ChatTemplateWriter) -> ChatTemplateWriter:
    """Find out what closes an answer: text up to a special token, or else all there is."""
    text = _text(writer, 4)
    last = text[text.rindex(CLOSE) + 1 :]
    found = re.search("|".join(map(re.escape, writer.special)), last) if writer.special else None
    closing = last[: found.end()] if found else last.rstrip()
    if not closing:
        # Perhaps only answers that are followed by something are closed.
        first = text[text.index(CLOSE) + 1 : text.index(_QUESTIONS[1])]
        opening = text[: text.index(_QUESTIONS[0])]
        closing = first.removesuffix(os.path.commonprefix([first[::-1], opening[::-1]])[::-1])
    return replace(writer, closing=closing.rstrip())


def _marks(writer: ChatTemplateWriter) -> Iterator[str]:
    """Yield the marks around turns that are no special tokens and no mere words either."""
    text = _text(writer, 4)
    first, second = (text.index(word) + len(word) for word in _QUESTIONS)
    around = [
        text[first : text.index(OPEN)],
        text[text.index(CLOSE) + 1 : second - len(_QUESTIONS[1])],
        text[second : text.rindex(OPEN)],
    ]
    words = set(_WORDS.findall(_without_special(writer, " ".join(around))))
    # What a template looks for in contents, say the end of a thought, stands in its source only.
    words |= set(_TAGS.findall(writer.source.text))
    if writer.takes_system:
        told = writer.rendered(_TURNS, system=_SYSTEM, generation_prompt=False)
        told_marks = _WORDS.findall(_without_special(writer, told))
        words |= {mark for mark in told_marks if mark[0] in "<["}
    yield from sorted(word for word in words if len(word) > 1 and not word.isalnum())


def _without_special(writer: ChatTemplateWriter, text: str) -> str:
    for mark in writer.special:
        text = text.replace(mark, " ")
    return text


def _differences(writer: ChatTemplateWriter) -> Iterator[str]:
    """Say of which questions the prompt is not the beginning of the training text."""
    trained = _spelled(writer, _TURNS)
    for asked in (1, 3):
        if not trained.startswith(_spelled(writer, _TURNS[:asked], prompt=True)):
            yield (
                f"the prompt of question {(asked + 1) // 2} of 2 is not the beginning of the "
                "training text: the chat template writes something else in front of an answer "
                "that is there than where one is to come"
            )


def _spelled(writer: ChatTemplateWriter, turns: Sequence[Turn], *, prompt: bool = False) -> str:
    pieces = writer.write(turns, system=writer.default_system, generation_prompt=prompt)
    return "".join(p.text if isinstance(p, Text | Word) else CLOSE for p in pieces)
