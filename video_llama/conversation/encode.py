"""A sample to token ids, labels and slots, for training and serving alike.

The rendered text between two media slots or special tokens is one run and is encoded once; a
token is a target iff its first character lies in supervised text. Nothing is tokenised a second
time to count it. This module reads no media and knows no batch: padding and the meaning of slots
across a batch belong to collate.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Literal

from video_llama.common.errors import ContextOverflow, NothingToLearn
from video_llama.common.types import IGNORE_INDEX, Message, Sample
from video_llama.conversation.engines import Run
from video_llama.conversation.layouts import Cut, Piece, Slot, Template, Text, Token, Word
from video_llama.conversation.rendering import render
from video_llama.conversation.tokenizer import Tokenizer


@dataclass
class Encoded:
    """One sample as the decoder will read it; three lists of equal length.

    Attributes:
        input_ids: token ids; 0 at media positions.
        labels: `input_ids` where supervised, `IGNORE_INDEX` elsewhere.
        slots: 0 for text, k for the k-th media item of the sample in text order.
        dropped_rounds: questions (with their answers) left out to fit the context.
    """

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    dropped_rounds: int = 0

    def __len__(self) -> int:
        """Decoder positions."""
        return len(self.input_ids)


def encode(
    sample: Sample,
    *,
    template: Template,
    tokenizer: Tokenizer,
    num_slots: Sequence[int],
    max_len: int,
    generation_prompt: bool = False,
    overflow: Literal["drop_rounds", "cut_left", "raise"] = "drop_rounds",
) -> Encoded:
    """Encode a sample in the form it asks for.

    With the template "vicuna_v0" and a video of two slots the form `instruct` reads (targets in
    capitals, one run per line):

        <s>
        ###Human: <Video>
        [slot 1] [slot 1]
        </Video> what is it?###Assistant: A BOAT.###

    All text of the messages is made harmless by `neutralise` first.

    Args:
        sample: messages and form; see `Sample`.
        template: the prompt format.
        tokenizer: of the decoder.
        num_slots: decoder positions of each media item, in text order.
        max_len: positions there are.
        generation_prompt: end where the model is to speak; the text of a last assistant message,
            if there is one, is left out.
        overflow: what to do when `max_len` is exceeded. "drop_rounds" leaves out whole rounds (a
            question and its answer): the last ones in training, the oldest ones before a
            generation prompt, whose media then open the next question. A caption loses its last
            words; its end mark stays, unless the template lets it go, as published. Media and the
            bos token are never cut. "cut_left" cuts the beginning off wherever that is, media
            too, as the published chat does.

    Returns:
        Ids, labels and slots.

    Raises:
        ContextOverflow: the sample does not fit and no round may go.
        NothingToLearn: it is no prompt, and no token that is predicted is a target.
        ConfigError: the messages do not suit the form.
        MediaError: the template wants the seconds of frames and they are unknown.
    """
    if len(num_slots) != len(sample.media):
        raise ValueError(
            f"{sample.key}: {len(sample.media)} media items but {len(num_slots)} slot counts"
        )

    def encoded_without(num_rounds: int) -> Encoded:
        messages = shorten(sample.messages, num_rounds=num_rounds)
        pieces = render(
            dataclasses.replace(sample, messages=messages) if num_rounds else sample,
            template=template,
            extra_marks=tokenizer.special_texts,
            generation_prompt=generation_prompt,
        )
        encoded = _assemble(pieces, tokenizer=tokenizer, num_slots=num_slots)
        if sample.form == "caption" and overflow == "drop_rounds" and len(encoded) > max_len:
            num_kept = 0 if template.cuts_caption_end else _end_mark_len(pieces, tokenizer)
            encoded = _cut_caption(encoded, num_kept=num_kept, max_len=max_len)
        encoded.dropped_rounds = num_rounds
        return encoded

    shorten = without_oldest if generation_prompt else _without_last
    most = _num_droppable(sample.messages, oldest=generation_prompt)
    encoded = _longest_fitting(
        encoded_without, most=most if overflow == "drop_rounds" else 0, max_len=max_len
    )
    if overflow == "cut_left":
        return Encoded(
            encoded.input_ids[-max_len:], encoded.labels[-max_len:], encoded.slots[-max_len:]
        )
    if len(encoded) > max_len:
        raise ContextOverflow(
            f"{sample.key or 'sample'}: {len(encoded)} positions ({sum(num_slots)} for media, "
            f"{len(encoded) - sum(num_slots)} for text), but there are {max_len}; "
            "shorten the text or take fewer media"
        )
    if not generation_prompt:
        _check_targets(encoded, sample, template)
    return encoded


def _check_targets(encoded: Encoded, sample: Sample, template: Template) -> None:
    """Refuse a sample to learn from in which nothing is to be learned."""
    if any(label != IGNORE_INDEX for label in encoded.labels[1:]):
        return
    raise NothingToLearn(
        f"{sample.key or 'sample'}: none of its {len(encoded)} positions is to be learned "
        f"(roles: {', '.join(m.role for m in sample.messages) or 'none'}); it needs an answer "
        f"or a caption that is not empty (template '{template.name}')"
    )


def _assemble(
    pieces: Sequence[Piece | Slot], *, tokenizer: Tokenizer, num_slots: Sequence[int]
) -> Encoded:
    """Encode each run once and put ids, labels and slots side by side."""
    encoded = Encoded()

    def put(ids: list[int], labels: list[int], *, slot: int = 0) -> None:
        encoded.input_ids += ids
        encoded.labels += labels
        encoded.slots += [slot] * len(ids)

    def put_special(token_id: int, *, supervised: bool) -> None:
        put([token_id], [token_id if supervised else IGNORE_INDEX])

    def put_run(texts: list[Text]) -> None:
        texts = [text for text in texts if text.text]
        run = tokenizer.encode_run("".join(text.text for text in texts))
        put(run.ids, _labels(run, texts))

    run: list[Text] = []
    for given in pieces:
        piece: Piece | Slot = given
        if isinstance(given, Word) and not tokenizer.must_be_told(given.text):
            piece = Text(given.text, given.supervised)
        if isinstance(piece, Text):
            run.append(piece)
            continue
        put_run(run)
        run = []
        if isinstance(piece, Token):
            token_id = tokenizer.bos_id if piece.name == "bos" else tokenizer.eos_id
            if token_id is not None:
                put_special(token_id, supervised=piece.supervised)
        elif isinstance(piece, Word):
            token_id = tokenizer.id_of(piece.text)
            assert token_id is not None
            put_special(token_id, supervised=piece.supervised)
        elif not isinstance(piece, Cut):
            num = num_slots[piece.item - 1]
            put([0] * num, [IGNORE_INDEX] * num, slot=piece.item)
    put_run(run)
    return encoded


def _labels(run: Run, texts: Sequence[Text]) -> list[int]:
    """Return a label per token of a run, which is these texts, none of them empty."""
    supervised = [text.supervised for text in texts]
    if all(supervised):
        return run.ids
    if not any(supervised):
        return [IGNORE_INDEX] * len(run.ids)
    ends = list(accumulate(len(text.text) for text in texts))
    # A token that starts behind the end of them all belongs to the last one.
    supervised.append(supervised[-1])
    return [
        token_id if supervised[bisect.bisect_right(ends, start)] else IGNORE_INDEX
        for token_id, (start, _) in zip(run.ids, run.offsets, strict=True)
    ]


def _end_mark_len(pieces: Sequence[Piece | Slot], tokenizer: Tokenizer) -> int:
    """Count the tokens of the mark that closes a caption."""
    if not isinstance(pieces[-1], Text):
        return 1
    last_run = takewhile(lambda piece: isinstance(piece, Text), reversed(pieces))
    texts = [piece.text for piece in last_run if isinstance(piece, Text)][::-1]
    if len(texts) == 1:
        return 0
    # The end mark is the last text of the run; only its own offsets tell its tokens apart.
    start = sum(map(len, texts[:-1]))
    return sum(first >= start for first, _ in tokenizer.encode_run("".join(texts)).offsets)


def _cut_caption(encoded: Encoded, *, num_kept: int, max_len: int) -> Encoded:
    """Leave out a caption's last tokens before the `num_kept` that stay; one word stays too."""
    excess = len(encoded) - max_len
    num_words = sum(label != IGNORE_INDEX for label in encoded.labels) - num_kept
    if not 0 < excess < num_words:
        return encoded
    stop = len(encoded) - num_kept

    def cut(values: list[int]) -> list[int]:
        return values[: stop - excess] + values[stop:]

    return Encoded(cut(encoded.input_ids), cut(encoded.labels), cut(encoded.slots))


def _longest_fitting(
    encoded_without: Callable[[int], Encoded], *, most: int, max_len: int
) -> Encoded:
    """Leave out as few rounds as will do; what is left without `most` of them may be too long."""
    whole = encoded_without(0)
    if len(whole) <= max_len or most == 0:
        return whole
    longest = encoded_without(most)
    if len(longest) > max_len:
        return longest
    # More and more is kept, so that it is never much more than fits, however long it all is.
    fits, too_many = 0, most
    step = 1
    while too_many - fits > 1:
        kept = min(fits + step, (fits + too_many) // 2)
        encoded = encoded_without(most - kept)
        if len(encoded) <= max_len:
            fits, longest, step = kept, encoded, 2 * step
        else:
            too_many = kept
    return longest


def _questions(messages: Sequence[Message]) -> list[int]:
    """Return where questions stand."""
    return [i for i, message in enumerate(messages) if message.role == "user"]


def _num_droppable(messages: Sequence[Message], *, oldest: bool) -> int:
    """Count the rounds that may go: all but one; from the end, those behind the last medium."""
    questions = _questions(messages)
    if oldest:
        return max(len(questions) - 1, 0)
    media = [i for i, message in enumerate(messages) if message.media]
    last = media[-1] if media else -1
    return sum(i > last for i in questions[1:])


def _without_last(messages: Sequence[Message], *, num_rounds: int) -> list[Message]:
    """Leave out the last questions and what follows."""
    return list(messages[: _questions(messages)[-num_rounds]] if num_rounds else messages)


def without_oldest(messages: Sequence[Message], *, num_rounds: int) -> list[Message]:
    """Leave out the first questions and their answers; their media open the next question.

    Args:
        messages: of more questions than are left out.
        num_rounds: questions to leave out.
    """
    if num_rounds == 0:
        return list(messages)
    questions = _questions(messages)
    first, heir = questions[0], questions[num_rounds]
    media = [item for message in messages[first:heir] for item in message.media]
    opened = Message(messages[heir].role, [*media, *messages[heir].content])
    return [*messages[:first], opened, *messages[heir + 1 :]]
