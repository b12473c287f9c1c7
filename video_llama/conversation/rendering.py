"""The one renderer of the house: a sample laid out as text, special tokens and media slots.

Every form of every template goes through here, in training and in serving. No token is counted
here; `conversation.encode` turns the pieces into ids and fits them into the context.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from video_llama.common.errors import ConfigError, NothingToLearn
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.jinja_text import RefusedConversation
from video_llama.conversation.layouts import BOS, Layout, Piece, Slot, Template, Text, Turn
from video_llama.conversation.templates import neutralise


def render(
    sample: Sample,
    *,
    template: Template,
    extra_marks: Sequence[str] = (),
    generation_prompt: bool = False,
) -> list[Piece | Slot]:
    """Lay a sample out as pieces; `encode` turns them into ids.

    Args:
        sample: messages and form.
        template: the prompt format.
        extra_marks: strings to make harmless besides the template's own.
        generation_prompt: see `encode`.

    Raises:
        ConfigError: the messages do not suit the form.
        MediaError: the template wants the seconds of frames and they are unknown.
        NothingToLearn: a decoder's own template takes no such conversation to learn from.
    """
    marks = (*template.forgeable, *extra_marks)
    if template.frame_times and not sample.frame_times:
        template = dataclasses.replace(template, frame_times=False)

    def clean(text: str) -> str:
        return neutralise(text, marks=marks)

    roles = [message.role for message in sample.messages]
    if sample.form == "caption" and roles != ["user", "assistant"]:
        pieces = _caption(sample, template, clean, generation_prompt)
    elif template.writer is not None:
        return _written(sample, template, clean, generation_prompt)
    else:
        pieces = _conversation(sample, template, clean, generation_prompt)
    return pieces if pieces and pieces[0] == BOS else [BOS, *pieces]


def _caption(
    sample: Sample, template: Template, clean: Callable[[str], str], generation_prompt: bool
) -> list[Piece | Slot]:
    """Media in text order without marks, then the caption."""
    if [message.role for message in sample.messages] != ["assistant"]:
        raise ConfigError(
            f"{sample.key}: the caption form takes one assistant message, or a prompt and one, "
            f"found {[message.role for message in sample.messages]}"
        )
    pieces: list[Piece | Slot] = [Slot(k + 1) for k in range(len(sample.media))]
    if not generation_prompt:
        caption = clean(sample.messages[0].text)
        pieces += [Text(caption, supervised=True), *template.caption_end]
    return pieces


def _conversation(
    sample: Sample, template: Template, clean: Callable[[str], str], generation_prompt: bool
) -> list[Piece | Slot]:
    """System text and turns."""
    layout = template.chat if sample.form == "chat" else template.instruct
    if sample.form == "caption" and template.prompted_caption is not None:
        layout = template.prompted_caption
        template = dataclasses.replace(template, frame_times=False)
    turns = _turns(sample, generation_prompt)
    system = _system(sample, layout, clean)
    pieces: list[Piece | Slot] = [] if layout.system_in_user else list(system)
    pieces += layout.lead
    num_items = 0
    seen_user = False
    for turn in turns:
        if turn.role == "user":
            pieces += layout.user_before
            pieces += system if layout.system_in_user and not seen_user else ()
            pieces += _question(turn, template, layout, clean, first_item=num_items + 1)
            pieces += layout.user_after
            num_items += len(turn.media)
            seen_user = True
        elif (turn.text and seen_user) or not layout.drops_unpaired_answers:
            answer = Text(clean(turn.text), supervised=True)
            pieces += [*layout.header, *layout.answer_before, answer, *layout.answer_after]
    if generation_prompt:
        pieces += layout.header
    return pieces


def _written(
    sample: Sample, template: Template, clean: Callable[[str], str], generation_prompt: bool
) -> list[Piece | Slot]:
    """A conversation as the template's writer lays it out."""
    assert template.writer is not None
    layout = template.chat if sample.form == "chat" else template.instruct
    turns: list[Turn] = []
    num_items = 0
    for turn in _turns(sample, generation_prompt):
        pieces: list[Piece | Slot] = [Text(clean(turn.text))]
        if turn.role == "user":
            pieces = _question(turn, template, layout, clean, first_item=num_items + 1)
            num_items += len(turn.media)
        turns.append(Turn(turn.role, tuple(pieces)))
    system = _system_text(sample, layout, clean)
    try:
        return template.writer.write(turns, system=system, generation_prompt=generation_prompt)
    except RefusedConversation as error:
        # One row of a data set is at fault then, and no reason to end a training.
        kind = ConfigError if generation_prompt else NothingToLearn
        raise kind(f"{sample.key}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{sample.key}: {error}") from error


def _turns(sample: Sample, generation_prompt: bool) -> list[Message]:
    """Return the turns to lay out; refuse those that no template can place."""
    turns = [message for message in sample.messages if message.role != "system"]
    if generation_prompt and turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if any(turn.media for turn in turns if turn.role == "assistant"):
        raise ConfigError(f"{sample.key}: media in an answer; only questions can hold media")
    if generation_prompt and (not turns or turns[-1].role != "user"):
        raise ConfigError(f"{sample.key}: nothing to answer, the last turn is not a question")
    return turns


def _system(sample: Sample, layout: Layout, clean: Callable[[str], str]) -> tuple[Piece, ...]:
    """The system text with its marks."""
    text = _system_text(sample, layout, clean)
    if not text and not layout.keeps_empty_system:
        return ()
    before, after = layout.system_marks
    return (Text(before + text + after),)


def _system_text(sample: Sample, layout: Layout, clean: Callable[[str], str]) -> str:
    """The sample's own system text, or the template's."""
    own = [message.text for message in sample.messages if message.role == "system"]
    kinds = [item.kind for item in sample.media]
    default = layout.systems.get(kinds[0], layout.system) if kinds else layout.system
    return clean("".join(own)) if own else default


def _question(
    turn: Message,
    template: Template,
    layout: Layout,
    clean: Callable[[str], str],
    *,
    first_item: int,
) -> list[Piece | Slot]:
    """Words and media of a user turn in text order."""
    kinds = [part.kind for part in turn.content[:2] if isinstance(part, MediaItem)]
    if layout.joint and sorted(kinds) == ["audio", "video"] and len(turn.media) == 2:
        return _joint_question(turn, layout.joint, clean, first_item=first_item)
    pieces: list[Piece | Slot] = []
    number = first_item
    before: Literal["", "text", "media", "sentence"] = ""
    for part in turn.media if layout.drops_words else _merged(turn.content):
        if isinstance(part, MediaItem):
            opening, closing = template.media_marks[part.kind]
            seconds = template.seconds_of(part)
            if before == "sentence" or (before == "text" and not _ends_white(pieces)):
                opening = " " + opening
            pieces += [Text(opening), Slot(number), Text(closing)]
            pieces += [Text(" " + seconds)] if seconds else []
            number += 1
            before = "sentence" if seconds else "media"
        elif text := clean(part):
            join = layout.join if before in ("media", "sentence") and not text[0].isspace() else ""
            pieces.append(Text(join + text))
            before = "text"
    return pieces


def _joint_question(
    turn: Message, sentence: str, clean: Callable[[str], str], *, first_item: int
) -> list[Piece | Slot]:
    """A sound and a video told in one sentence, then the words."""
    numbers = {item.kind: first_item + k for k, item in enumerate(turn.media)}
    slots = {"{audio}": Slot(numbers["audio"]), "{video}": Slot(numbers["video"])}
    parts = re.split(r"(\{audio\}|\{video\})", sentence)
    pieces: list[Piece | Slot] = [slots.get(part) or Text(part) for part in parts]
    if text := clean(turn.text):
        pieces.append(Text(text if text[0].isspace() else " " + text))
    return pieces


def _merged(content: Sequence[str | MediaItem]) -> list[str | MediaItem]:
    """Join neighbouring strings, so that no mark can be put together from two of them."""
    merged: list[str | MediaItem] = []
    for part in content:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _ends_white(pieces: Sequence[Piece | Slot]) -> bool:
    """Whether the last piece ends in white space."""
    return bool(pieces) and isinstance(pieces[-1], Text) and pieces[-1].text[-1:].isspace()
