"""A decoder directory's own chat template as one of ours: with exact label spans and media slots.

A chat template is a program that turns messages into text. So answers and media go through it
between marks that no text holds, and where they are is read off the rendered text; nothing is
tokenised to be counted. Special tokens that the template spells out become their ids, while the
same strings in a question were made harmless before. What the program does otherwise - whether it
takes a system text, how it closes an answer, what it writes around turns - is found out by trial,
see `templates.tokenizer`. Jinja itself is the business of `jinja_text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.conversation.jinja_text import render_text
from video_llama.conversation.layouts import EOS, Piece, Slot, Text, Turn, Word
from video_llama.conversation.tokenizer import ChatSource

OPEN, CLOSE, MEDIUM = "\ufdd0", "\ufdd1", "\ufdd2"
"""Around an answer, and in place of a medium: code points that Unicode keeps from all texts."""

_MARKERS = str.maketrans(dict.fromkeys((OPEN, CLOSE, MEDIUM), "\ufffd"))
ANSWER = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


@dataclass(frozen=True)
class ChatTemplateWriter:
    """Lays conversations out as a chat template does; see `layouts.Writer`.

    Answers lose the white space around them, so that where an answer begins is where the model
    begins to speak. Spaces in front of an answer belong to its first token, so they are targets,
    and a generation prompt leaves them out.

    Attributes:
        source: the template.
        special: special tokens as they are spelled, the longest first.
        takes_system: it has a place for a system text; else the text opens the first question.
        default_system: what it says where it is given no system text.
        takes_parts: contents are lists of parts, as templates of multimodal models want them.
        opens_turn: it opens a turn at the end as it does in front of an answer; else, as it does
            nothing there, ends in a space or begins a thought, what stands in front of an answer
            is taken.
        closing: what closes an answer, "" if nothing does; then the end token is added.
    """

    source: ChatSource
    special: tuple[str, ...]
    takes_system: bool = True
    default_system: str = ""
    takes_parts: bool = False
    opens_turn: bool = True
    closing: str = ""

    def write(
        self, turns: Sequence[Turn], *, system: str, generation_prompt: bool
    ) -> list[Piece | Slot]:
        """Return a conversation as pieces; see `layouts.Writer`.

        Raises:
            ConfigError: the template takes no such conversation, or leaves a part of it out.
        """
        text = self.rendered(turns, system=system, generation_prompt=generation_prompt)
        slots = [piece for turn in turns for piece in turn.pieces if isinstance(piece, Slot)]
        num_answers = sum(turn.role == "assistant" for turn in turns)
        found = (len(ANSWER.findall(text)), text.count(MEDIUM))
        if found != (num_answers, len(slots)):
            raise ConfigError(
                f"its chat template left out or repeated a part: {num_answers} answers and "
                f"{len(slots)} media went in, {found[0]} and {found[1]} came out; take a template "
                "of another name",
                where=self.source.folder,
            )
        pieces: list[Piece | Slot] = []
        place = 0
        for answer in ANSWER.finditer(text):
            header = text[place : answer.start()]
            bare = header.rstrip(" ")
            pieces += self._split(bare, supervised=False)
            pieces += self._split(header[len(bare) :] + answer[1], supervised=True)
            place = answer.end()
            pieces += self._split(self.closing, supervised=True) if self.closing else [EOS]
            place += len(self.closing) if text.startswith(self.closing, place) else 0
        pieces += self._split(text[place:], supervised=False)
        numbers = iter(slots)
        return [next(numbers) if isinstance(piece, Slot) else piece for piece in pieces]

    def rendered(self, turns: Sequence[Turn], *, system: str, generation_prompt: bool) -> str:
        """Render a conversation as text with marks."""
        if generation_prompt and not self.opens_turn:
            turns = [*turns, Turn("assistant", ())]
            text = self._render(self._messages(turns, system), generation_prompt=False)
            return text[: text.rindex(OPEN)].rstrip(" ")
        return self._render(self._messages(turns, system), generation_prompt=generation_prompt)

    def _render(self, messages: Sequence[dict[str, Any]], *, generation_prompt: bool) -> str:
        return render_text(
            self.source.text,
            messages,
            names=self.source.names,
            generation_prompt=generation_prompt,
            folder=self.source.folder,
        )

    def _messages(self, turns: Sequence[Turn], system: str) -> list[dict[str, Any]]:
        """Return a conversation as a chat template reads it."""
        system = system.translate(_MARKERS)
        messages: list[dict[str, Any]] = []
        if self.takes_system and (system or self.default_system):
            messages.append({"role": "system", "content": system})
        opening = "" if self.takes_system or not system else f"{system}\n\n"
        for turn in turns:
            content = _content(turn)
            if turn.role == "user":
                content, opening = opening + content, ""
            if messages and messages[-1]["role"] == turn.role == "user":
                # Many templates take no two questions in a row.
                messages[-1]["content"] += f"\n{content}"
            else:
                messages.append({"role": turn.role, "content": content})
        if self.takes_parts:
            for message in messages:
                message["content"] = [{"type": "text", "text": message["content"]}]
        return messages

    def _split(self, text: str, *, supervised: bool) -> list[Piece | Slot]:
        """Cut text into words, special tokens and places of media."""
        parts = re.split("|".join(["(" + MEDIUM, *map(re.escape, self.special)]) + ")", text)
        pieces: list[Piece | Slot] = []
        for index, part in enumerate(parts):
            if part == MEDIUM:
                pieces.append(Slot(0))
            elif index % 2:
                pieces.append(Word(part, supervised))
            else:
                if index and parts[index - 1] in self.source.strips_after:
                    part = part.lstrip()
                if index + 1 < len(parts) and parts[index + 1] in self.source.strips_before:
                    part = part.rstrip()
                pieces += [Text(part, supervised)] if part else []
        return pieces


def _content(turn: Turn) -> str:
    """Return what a chat template is told of a turn."""
    parts = (p.text.translate(_MARKERS) if isinstance(p, Text) else MEDIUM for p in turn.pieces)
    content = "".join(parts)
    return f"{OPEN}{content.strip()}{CLOSE}" if turn.role == "assistant" else content
