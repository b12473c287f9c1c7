"""Starts that are no better than guessing, and which side of the decoder's door is to blame."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from models.tiny_model import VOCAB, batch_of, build
from torch.nn import functional

from video_llama.common.logger import get_logger
from video_llama.common.types import IGNORE_INDEX, Batch
from video_llama.runners.sanity import NUM_STEPS, StartCheck, text_loss

CHANCE = math.log(VOCAB)


@pytest.fixture
def warnings():
    """The texts of the warnings that were given."""
    handler = logging.Handler(logging.WARNING)
    texts: list[str] = []
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(handler)
    yield texts
    get_logger().removeHandler(handler)


@pytest.fixture
def untrained(tmp_path):
    """A model with a decoder that was loaded from random weights."""
    build().decoder.model.save_pretrained(tmp_path / "llama")
    return build(lambda tree: tree["decoder"].update(weights=str(tmp_path / "llama")))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A model with a decoder that knows the one text of `sentences` by heart."""
    folder = tmp_path_factory.mktemp("taught")
    model = build(lambda tree: tree["decoder"].update(trainable=True))
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=0.01)
    batch = sentences(num_slots=0)
    for _ in range(60):
        embeds = model.decoder.embed(batch.input_ids)
        loss = model.decoder.loss(
            embeds, attention_mask=batch.attention_mask, labels=batch.labels
        ).token_loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.5
    model.decoder.model.save_pretrained(folder)
    return build(lambda tree: tree["decoder"].update(weights=str(folder)))


def sentences(num_slots):
    """Beginnings of one sentence behind the places of a clip, padded on the right."""
    words, lengths = list(range(3, 15)), (12, 8, 5)
    rows = [[1, *[0] * num_slots, *words[:length]] for length in lengths]
    size = max(map(len, rows))
    ids = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (size - len(row)) for row in rows])
    is_word = (torch.arange(size) > num_slots) & mask
    slots = (mask & ~is_word).int() * torch.arange(1, 4, dtype=torch.int32)[:, None]
    slots[:, 0] = 0
    labels = ids.masked_fill(~is_word, IGNORE_INDEX)
    return Batch(ids, mask, labels, slots, items=(), media={}, keys=["a", "b", "c"])


def watch(check, losses, batch):
    for step, loss in enumerate(losses):
        check(step, loss=loss, batch=batch)


def test_a_decoder_that_knows_nothing_is_named_once(untrained, warnings):
    batch = batch_of()
    output = untrained(batch)
    loss = float(output.loss_sum.detach() / output.num_targets)
    watch(StartCheck(untrained), [loss] * 9, batch)
    assert len(warnings) == 1
    assert "no better than guessing among 50 tokens" in warnings[0]
    assert f"{untrained.config.decoder.weights} is a delta that was never merged" in warnings[0]


@pytest.mark.parametrize("loss", [CHANCE * 0.985, CHANCE, CHANCE * 1.5])
def test_a_loss_at_chance_or_worse_is_warned_of(untrained, warnings, loss):
    watch(StartCheck(untrained), [loss] * NUM_STEPS, batch_of())
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "losses",
    [
        [CHANCE * 0.97] * 9,
        [CHANCE, CHANCE * 0.97, CHANCE, CHANCE, CHANCE],
        [CHANCE] * (NUM_STEPS - 1),
    ],
)
def test_one_better_loss_or_too_few_steps_are_no_reason(untrained, warnings, losses):
    watch(StartCheck(untrained), losses, batch_of())
    assert not warnings


def test_a_run_that_goes_on_is_past_its_start(untrained, warnings):
    check = StartCheck(untrained)
    for step in range(NUM_STEPS, 3 * NUM_STEPS):
        check(step, loss=CHANCE, batch=batch_of())
    assert not warnings


def test_a_decoder_that_starts_from_nothing_may_guess(warnings):
    model = build(lambda tree: tree["decoder"].update(trainable=True))
    watch(StartCheck(model), [CHANCE] * 9, batch_of())
    assert not warnings


def test_a_decoder_that_reads_well_alone_is_not_blamed(taught, warnings):
    watch(StartCheck(taught), [CHANCE] * NUM_STEPS, sentences(num_slots=3))
    assert len(warnings) == 1
    assert "its weights are good" in warnings[0]
    assert "delta" not in warnings[0]


def test_the_text_alone_is_read_as_if_no_media_stood_in_it(taught):
    batch, losses = sentences(num_slots=3), []
    for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
        words = torch.cat([ids[:1], ids[labels != IGNORE_INDEX]])[None]
        with torch.no_grad():
            logits = taught.decoder.model(input_ids=words).logits
        # The first word stands behind the media, where nothing that is visible predicts it.
        losses.append(functional.cross_entropy(logits[0, 1:-1], words[0, 2:], reduction="none"))
    assert text_loss(taught, batch) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
