"""Text samples as the decoder reads them: `conversation.encode`, slots filled with facts.

A clip's soft tokens stand between two runs of text; here the tokens of the facts, encoded as a
run of their own, stand in the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from video_llama.common.types import (
    IGNORE_INDEX,
    Form,
    MediaItem,
    MediaKind,
    Message,
    Role,
    Sample,
)
from video_llama.conversation.encode import encode
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.toy.texts import TextSample

TEMPLATE_NAME = "vicuna_v0"
MAX_LEN = 512


@dataclass(frozen=True)
class LaidOut:
    """Token ids of a text, and its labels: the id in answers, `IGNORE_INDEX` elsewhere."""

    ids: list[int]
    labels: list[int]


def lay_out(text: TextSample, *, tokenizer: Tokenizer) -> LaidOut:
    """Turn a text sample into token ids and labels.

    Args:
        text: what is known and said.
        tokenizer: of the decoder.
    """
    facts = [tokenizer.encode_run(words).ids for _, words in text.media]
    if text.form == "recall":
        return _lay_out_recall(text, facts=facts[0], tokenizer=tokenizer)
    encoded = encode(
        _as_sample(text),
        template=get_template(TEMPLATE_NAME),
        tokenizer=tokenizer,
        num_slots=[len(ids) for ids in facts],
        max_len=MAX_LEN,
        overflow="raise",
    )
    supplies = [iter(ids) for ids in facts]
    ids = [
        next(supplies[slot - 1]) if slot else token_id
        for token_id, slot in zip(encoded.input_ids, encoded.slots, strict=True)
    ]
    return LaidOut(ids, encoded.labels)


def collate(batch: list[LaidOut]) -> tuple[Tensor, Tensor]:
    """Pad texts on the right; causal attention then needs no mask.

    Returns:
        int64[B, L] ids and int64[B, L] labels: the id where an answer is, `IGNORE_INDEX` elsewhere.
    """
    length = max(len(text.ids) for text in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.int64)
    labels = torch.full((len(batch), length), IGNORE_INDEX)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        labels[row, : len(text.labels)] = torch.tensor(text.labels)
    return ids, labels


def _lay_out_recall(text: TextSample, *, facts: list[int], tokenizer: Tokenizer) -> LaidOut:
    """Put "key : value ;" one after the other behind the list; only values are answers."""
    assert tokenizer.bos_id is not None
    ids = [tokenizer.bos_id, *facts]
    labels = [IGNORE_INDEX] * len(ids)
    for turn in text.turns:
        key, value, end = (
            tokenizer.encode_run(words).ids for words in (f"{turn.question} :", turn.answer, ";")
        )
        ids += key + value + end
        labels += [IGNORE_INDEX] * len(key) + value + [IGNORE_INDEX] * len(end)
    return LaidOut(ids, labels)


def _as_sample(text: TextSample) -> Sample:
    """Wrap a text into messages; the media are labels only."""
    media = [MediaItem(cast(MediaKind, kind), path="") for kind, _ in text.media]
    if text.form == "caption":
        messages = [Message("assistant", [*media, text.turns[0].answer])]
        return Sample("", messages, form="caption")
    turns: list[tuple[Role, str]] = []
    for turn in text.turns:
        turns += [("user", turn.question), ("assistant", turn.answer)]
    messages = [Message(role, [words]) for role, words in turns]
    messages[0].content[:0] = media
    form: Form = "instruct"
    return Sample("", messages, form=form)
