"""Pictures, clips and texts in one batch: what a sample gets does not depend on its neighbours.

The shipped preset with its true numbers of tokens, narrow; see `narrow_video_llava`.
"""

from __future__ import annotations

import pytest
import torch
from narrow_video_llava import config_of, random_model
from released_decoders import TOKENIZER
from torch.nn import functional

from video_llama.common.errors import ConfigError, ContextOverflow
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.encode import encode
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.collate import EncodedSample, RoutedItem, collate
from video_llama.models.branch_shapes import SlotCount

PICTURE_TOKENS, FRAME_TOKENS = 256, 257
ROWS = {
    "text": [],
    "picture": [("image", 1)],
    "short clip": [("video", 3)],
    "picture and clip": [("image", 1), ("video", 8)],
    "clip and pictures": [("video", 2), ("image", 1), ("image", 1)],
}
"""Media of every sample, as kind and number of frames."""


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER.parent)


def encoded(name, tokenizer, *, generation_prompt=False):
    """A sample as a data set would hand it over."""
    generator = torch.Generator().manual_seed(len(name))
    media = [
        MediaItem(kind, name, pixels=torch.randn(frames, 3, 224, 224, generator=generator))
        for kind, frames in ROWS[name]
    ]
    messages = [
        Message("user", [*media, f"What is in the {name}?"]),
        Message("assistant", ["Something that moves."]),
    ]
    slots = SlotCounts(media)
    text = encode(
        Sample(name, messages),
        template=get_template("vicuna_v1"),
        tokenizer=tokenizer,
        num_slots=slots.each,
        max_len=3072,
        generation_prompt=generation_prompt,
    )
    return EncodedSample(
        key=name,
        dataset="",
        input_ids=text.input_ids,
        labels=text.labels,
        slots=text.slots,
        media=tuple(
            RoutedItem(item, item.kind, count)
            for item, count in zip(media, slots.each, strict=True)
        ),
    )


class SlotCounts:
    """Decoder positions of media, from static shapes alone."""

    branches = config_of().branches

    def __init__(self, media):
        self.each = [SlotCount(self.branches[item.kind])(len(item.pixels)) for item in media]


def batch_of(names, model, tokenizer, **choices):
    samples = [encoded(name, tokenizer, generation_prompt=bool(choices)) for name in names]
    return collate(samples, specs=model.branch_specs(), pad_id=0, **choices)


def logits_of(model, batch):
    """Of the real positions of every row."""
    embeds = model.embed(batch, model._run_branches(batch.media))
    logits = model.decoder.logits(model.decoder(embeds, attention_mask=batch.attention_mask))
    return [row[mask] for row, mask in zip(logits, batch.attention_mask, strict=True)]


def test_the_slots_of_a_batch_are_those_of_its_pictures_and_frames(model, tokenizer):
    batch = batch_of(ROWS, model, tokenizer)
    assert [item.num_slots for item in batch.items] == [
        PICTURE_TOKENS,
        3 * FRAME_TOKENS,
        PICTURE_TOKENS,
        8 * FRAME_TOKENS,
        2 * FRAME_TOKENS,
        PICTURE_TOKENS,
        PICTURE_TOKENS,
    ]
    assert {name: rows.num_rows for name, rows in batch.media.items()} == {"image": 4, "video": 3}


@torch.no_grad()
def test_a_mixed_batch_gives_every_row_what_it_gets_alone(model, tokenizer):
    batch = batch_of(ROWS, model, tokenizer)
    together, logits = model(batch), logits_of(model, batch)
    assert together.sample_targets.min() > 3
    for row, name in enumerate(ROWS):
        one = batch_of([name], model, tokenizer)
        (alone,) = logits_of(model, one)
        torch.testing.assert_close(logits[row], alone, atol=1e-5, rtol=0)
        expected = functional.cross_entropy(alone[:-1], one.labels[0, 1:])
        loss = together.sample_loss[row] / together.sample_targets[row]
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_media_make_a_difference_to_what_follows_them(model, tokenizer):
    """Or else the comparison above would say nothing of them."""
    batch = batch_of(["picture and clip"], model, tokenizer)
    before = model(batch).loss_sum
    for name in ("image", "video"):
        raw = batch.media[name].raw
        batch.media[name].raw = raw.flip(-1)
        assert (model(batch).loss_sum - before).abs() > 1e-3
        batch.media[name].raw = raw


def test_answers_of_a_mixed_batch_are_those_one_by_one(model, tokenizer):
    names = ["text", "picture", "short clip"]
    settings = GenerationSettings(max_new_tokens=6)

    def answers(names):
        batch = batch_of(names, model, tokenizer, padding_side="left")
        return model.generate(batch, settings=settings)

    assert answers(names) == [answers([name])[0] for name in names]


@pytest.mark.parametrize(("item", "count"), [(1, 255), (2, 2055)])
def test_places_that_do_not_hold_an_item_are_named_before_anything_is_computed(
    item, count, model, tokenizer
):
    sample = encoded("picture and clip", tokenizer)
    sample.slots[sample.slots.index(item)] = 0
    kind = "image" if item == 1 else "video"
    said = (
        f"picture and clip: its text has {count} places for item {item}, {kind} picture and clip, "
        f"which takes {count + 1} decoder positions in branch '{kind}'"
    )
    with pytest.raises(ConfigError, match=said):
        collate([sample], specs=model.branch_specs(), pad_id=0)


def test_a_branch_that_gives_other_numbers_than_it_states_is_named(model, tokenizer):
    batch = batch_of(["picture", "short clip"], model, tokenizer)
    batch.media["video"].raw_mask[0, 2] = False
    said = r"'short clip': branch 'video' made 514 tokens for an item that has 771 slots"
    with pytest.raises(ValueError, match=said):
        model(batch)


def test_two_clips_are_more_than_the_context_holds(tokenizer):
    clips = [MediaItem("video", "a.mp4", pixels=torch.zeros(8, 3, 1, 1)) for _ in range(2)]
    sample = Sample("two", [Message("user", [*clips, "Which is longer?"])])
    with pytest.raises(ContextOverflow, match="4096"):
        encode(
            sample,
            template=get_template("vicuna_v1"),
            tokenizer=tokenizer,
            num_slots=SlotCounts(clips).each,
            max_len=4096,
            generation_prompt=True,
        )
