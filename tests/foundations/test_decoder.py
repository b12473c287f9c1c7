"""The toy decoder: its texts, its start, its training and the files that ship."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from video_llama.common.types import IGNORE_INDEX
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.foundations import decoder, decoder_start
from video_llama.foundations import text_gate as gates
from video_llama.foundations.text_layout import LaidOut, collate, lay_out
from video_llama.foundations.tokenizer import train_tokenizer
from video_llama.toy import corpus, drills
from video_llama.toy.texts import TextSample, Turn

ONE_FACT_KINDS = (
    *("colour", "shape", "motion", "first_colour", "last_colour", "when", "count"),
    *("first_direction", "last_direction", "sound", "pitch", "pip_when", "in_time"),
)
"""Kinds the decoder must master; those about two things have bars of their own."""

SHIPPED = Path(decoder.__file__).parent / "toy" / "llama"
TINY = decoder_start.DecoderRecipe(
    width=32,
    num_layers=2,
    num_heads=2,
    ffn_width=48,
    recall_steps=2,
    mixed_steps=3,
    order_steps=2,
    batch_size=4,
    num_scenes=20,
    probe_every=2,
    probe_texts=2,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    train_tokenizer(folder, lines=corpus.tokenizer_lines(seed=0, num_scenes=400))
    return load_tokenizer(folder)


def test_every_word_of_the_drills_is_one_piece(tokenizer):
    assert [w for w in drills.DRILL_WORDS if len(tokenizer.encode_run(w).ids) != 1] == []


@pytest.mark.parametrize("text", ["two  spaces", " around ", "tab\tline\n", "na\u00efve \u2713"])
def test_the_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_run(text).ids) == text


def test_the_marks_of_the_template_are_short(tokenizer):
    assert len(tokenizer.encode_run("###Human: <Video>").ids) <= 6
    assert len(tokenizer.encode_run("a###Assistant:").ids) <= 4


def test_facts_stand_where_media_would(tokenizer):
    sample = TextSample(
        "instruct",
        (("video", "circle red"), ("audio", "noise")),
        (Turn("What colour is the circle?", "red"), Turn("What do you hear?", "noise")),
    )
    runs = [
        "###Human: <Video>",
        "circle red",
        "</Video><Audio>",
        "noise",
        "</Audio> What colour is the circle?###Assistant: red###Human: What do you hear?"
        "###Assistant: noise###",
    ]
    expected = [1] + [token for run in runs for token in tokenizer.encode_run(run).ids]
    laid_out = lay_out(sample, tokenizer=tokenizer)
    assert laid_out.ids == expected
    answers = [label for label in laid_out.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(answers) == "red### noise###"


def test_a_caption_follows_its_facts_without_marks(tokenizer):
    sample = TextSample("caption", (("video", "circle red"),), (Turn("", "A red circle."),))
    laid_out = lay_out(sample, tokenizer=tokenizer)
    caption = tokenizer.encode_run("A red circle.###").ids
    assert laid_out.ids == [1, *tokenizer.encode_run("circle red").ids, *caption]
    assert laid_out.labels[-len(caption) :] == caption


def test_only_the_values_of_look_ups_are_learned(tokenizer):
    sample = TextSample("recall", (("video", "cup red"),), (Turn("cup", "red"), Turn("red", "cup")))
    labels = lay_out(sample, tokenizer=tokenizer).labels
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]) == "red cup"


def test_the_answer_loss_is_the_loss_of_transformers(tokenizer):
    torch.manual_seed(0)
    model = decoder_start.build_decoder(TINY, vocab_size=tokenizer.vocab_size)
    rng = random.Random(0)
    batch = [lay_out(drills.recall_list(rng=rng), tokenizer=tokenizer) for _ in range(3)]
    ids, labels = collate(batch)
    reference = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(decoder.answer_loss(model, batch=batch), reference)


def test_padding_changes_no_loss(tokenizer):
    torch.manual_seed(0)
    model = decoder_start.build_decoder(TINY, vocab_size=tokenizer.vocab_size)
    short = LaidOut([1, 300, 301, 302], [IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 302])
    silent = LaidOut([1] * 20, [IGNORE_INDEX] * 20)
    alone = decoder.answer_loss(model, batch=[short])
    torch.testing.assert_close(decoder.answer_loss(model, batch=[short, silent]), alone)


@pytest.mark.parametrize("head", [0, 1])
def test_a_head_starts_by_looking_its_distance_back(head):
    torch.manual_seed(0)
    model = decoder_start.build_decoder(decoder_start.DEFAULT_RECIPE, vocab_size=400)
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 400, (1, 24))
    attention = model.model(ids, output_attentions=True).attentions[0][0, head]
    by_distance = [attention.diagonal(-distance)[10:].mean() for distance in range(6)]
    assert by_distance.index(max(by_distance)) == decoder_start.LOOK_BACK[head]


@pytest.fixture
def few_lines(monkeypatch):
    """Let tokenizers be trained on the lines of 400 scenes instead of thousands."""
    few = functools.partial(corpus.tokenizer_lines, num_scenes=400)
    monkeypatch.setattr(decoder, "tokenizer_lines", few)


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path, few_lines):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        decoder.train_decoder(tmp_path / name, seed=seed, recipe=TINY, curve_path=None)
    one, again, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "again", "two")
    )
    assert one == again
    assert one["model.safetensors"] != two["model.safetensors"]
    assert {"config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"} <= set(
        one
    )


def test_the_curve_says_which_stage_it_is_about(tmp_path, few_lines):
    recipe = replace(TINY, recall_steps=1, mixed_steps=1, order_steps=1)
    path = tmp_path / "curve.jsonl"
    curve = decoder.train_decoder(tmp_path / "llama", seed=0, recipe=recipe, curve_path=path)
    assert [point["stage"] for point in curve] == ["recall", "mixed", "order"]
    assert len(path.read_text().splitlines()) == 3


def test_the_gate_has_as_many_texts_of_each_kind_as_asked_for():
    texts = gates.gate_texts(split="composition", seed=0, per_kind=3)
    assert {len(samples) for samples in texts.values()} == {3}
    assert {"pair_colour", "in_time", "caption_joint", "letter_motion"} <= set(texts)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"), [(50, 100, 0.4038, 0.5962), (10, 10, 0.7225, 1.0)]
)
def test_intervals_are_wilsons(right, total, low, high):
    # Published examples of the score interval (Brown, Cai and DasGupta, 2001, give the formula).
    assert gates.wilson(right, total=total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "composition"])
def test_the_shipped_decoder_answers_from_text_alone(split):
    rows = {row.kind: row for row in gates.text_gate(SHIPPED, split=split, per_kind=800)}
    bars = dict.fromkeys(ONE_FACT_KINDS, 0.97)
    bars |= {"pair_colour": 0.95, "pair_shape": 0.95, "pair_motion": 0.90}
    missed = {kind: rows[kind] for kind, bar in bars.items() if rows[kind].accuracy < bar}
    assert missed == {}
