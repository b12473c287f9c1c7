"""Beam search against transformers' own and against trying every answer there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_decoder import END, spread_decoder

from video_llama.common.generation import GenerationSettings
from video_llama.models.answers import answer_rows
from video_llama.models.beams import search_beams


def decoder_of(vocabulary, seed):
    return spread_decoder(vocabulary, seed, context=32)


def answer(decoder, embeds, *, stop=None, **choices):
    cache = decoder.new_cache()
    choices = GenerationSettings(**choices)
    return search_beams(
        decoder,
        logits=decoder.step(embeds, attention_mask=None, cache=cache),
        cache=cache,
        limit=choices.max_new_tokens,
        settings=choices,
        stop=stop,
    )


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), num_beams=st.integers(2, 5), length=st.integers(1, 8))
def test_it_finds_what_transformers_finds(seed, num_beams, length):
    decoder = decoder_of(12, seed)
    embeds = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))
    # Later releases count lengths without the opening token; without a penalty none are counted.
    theirs = decoder.model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, 4, dtype=torch.int64),
        max_new_tokens=length,
        num_beams=num_beams,
        do_sample=False,
        length_penalty=0.0,
    )[0].tolist()
    ours = answer(decoder, embeds, max_new_tokens=length, num_beams=num_beams, length_penalty=0.0)
    assert ours == theirs[: len(ours)]
    assert set(theirs[len(ours) :]) <= {END}


@pytest.mark.parametrize("seed", range(6))
def test_with_a_beam_for_every_answer_the_likeliest_of_all_is_found(seed):
    decoder = decoder_of(3, seed)
    embeds = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(seed))

    def log_prob(ids):
        words = torch.cat([embeds, decoder.embed(torch.tensor([ids]))], dim=1)
        hidden = decoder(words, attention_mask=torch.ones(words.shape[:2], dtype=torch.bool))
        scores = decoder.logits(hidden)[0, 2:-1].log_softmax(dim=-1)
        return float(scores[torch.arange(len(ids)), torch.tensor(ids)].sum())

    others = [i for i in range(3) if i != END]
    answers = [[*ids, END] for n in range(3) for ids in itertools.product(others, repeat=n)]
    answers += [list(ids) for ids in itertools.product(others, repeat=3)]
    likeliest = max(answers, key=log_prob)
    found = answer(decoder, embeds, max_new_tokens=3, num_beams=len(answers), length_penalty=0.0)
    assert found == likeliest


def test_a_stop_rule_ends_the_search_at_the_best_beam():
    decoder = decoder_of(12, 0)
    embeds = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    asked = []

    def stop(row, ids):
        asked.append((row, len(ids)))
        return len(ids) == 2

    said = answer(decoder, embeds, stop=stop, max_new_tokens=9, num_beams=3, min_new_tokens=9)
    assert asked == [(0, 1), (0, 2)]
    assert len(said) == 2


def test_no_beam_ends_before_the_shortest_answer():
    decoder = decoder_of(5, 3)
    embeds = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(3))
    said = answer(decoder, embeds, max_new_tokens=8, num_beams=3, min_new_tokens=6)
    assert END not in said[:6]


def test_one_beam_is_the_greedy_answer():
    decoder = decoder_of(12, 5)
    embeds = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(1, 4, dtype=torch.bool)
    greedy = answer_rows(
        decoder, embeds, attention_mask=mask, settings=GenerationSettings(max_new_tokens=6)
    )
    beams = answer(decoder, embeds, max_new_tokens=6, num_beams=1)
    assert greedy == [beams]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"num_beams": 2, "temperature": 1.0}, "beams are not drawn"),
        ({"num_beams": 0}, "between 1 and 16"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "between 0 and max_new_tokens, 8"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(choices, words):
    with pytest.raises(ValueError, match=words):
        GenerationSettings(**choices)
