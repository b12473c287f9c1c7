"""Ids that belong to no word are never said; transformers' suppress_tokens is the twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_decoder import END, spread_decoder

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.answers import answer_prompts, stream_answer
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.prompt_cache import PromptCache

NUM_ROWS, NUM_WORDS = 24, 12
SILENT = frozenset(range(NUM_WORDS, NUM_ROWS))
SEEDS = st.integers(0, 10_000)


def decoder_of(seed: int, *, silent_ids: frozenset[int] = SILENT) -> CausalLM:
    """A decoder of random weights that says most often what is no word."""
    decoder = spread_decoder(NUM_ROWS, seed, context=64)
    decoder.model.get_output_embeddings().weight.data[NUM_WORDS:] *= 3
    decoder.silent_ids = silent_ids
    return decoder


def prompts_of(seed: int, *, num: int = 3) -> list[Prompt]:
    """Prompts of 3, 5, 7, ... words."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, NUM_WORDS, (3 + 2 * i,), generator=draw).tolist() for i in range(num)]
    return [Prompt(row, [0] * len(row), [], []) for row in rows]


def theirs(decoder: CausalLM, prompt: Prompt, **choices: object) -> list[int]:
    """What transformers says with these ids suppressed."""
    ids = torch.tensor([prompt.input_ids])
    said = decoder.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        suppress_tokens=sorted(SILENT),
        **choices,
    )
    return said[0, ids.shape[1] :].tolist()


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, num_beams=st.sampled_from([1, 3]))
def test_greedy_answers_and_beams_are_those_of_transformers(seed: int, num_beams: int) -> None:
    decoder = decoder_of(seed)
    choices = GenerationSettings(max_new_tokens=8, num_beams=num_beams, length_penalty=0.0)
    for prompt in prompts_of(seed, num=2):
        said = list(stream_answer(prompt, cache=PromptCache(decoder), settings=choices))
        expected = theirs(
            decoder, prompt, max_new_tokens=8, num_beams=num_beams, length_penalty=0.0
        )
        # Beams of theirs are filled up with the end token.
        assert said == expected[: len(said)]
        assert set(expected[len(said) :]) <= {END}


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, temperature=st.sampled_from([0.0, 1.0, 50.0]))
def test_side_by_side_only_words_are_said_however_hot(seed: int, temperature: float) -> None:
    decoder = decoder_of(seed)
    choices = GenerationSettings(max_new_tokens=12, temperature=temperature, top_p=1.0, seed=seed)
    for said in answer_prompts(decoder, prompts_of(seed), settings=choices):
        assert not SILENT & set(said)


def test_without_silent_ids_this_decoder_says_what_is_no_word() -> None:
    said = answer_prompts(
        decoder_of(0, silent_ids=frozenset()),
        prompts_of(0),
        settings=GenerationSettings(max_new_tokens=12),
    )
    assert SILENT & {token_id for row in said for token_id in row}


@pytest.mark.parametrize("num_beams", [2, 9])
def test_more_beams_than_words_never_reach_for_a_silent_id(num_beams: int) -> None:
    decoder = decoder_of(1, silent_ids=frozenset(range(4, NUM_ROWS)))
    choices = GenerationSettings(max_new_tokens=6, num_beams=num_beams)
    said = list(stream_answer(prompts_of(1)[0], cache=PromptCache(decoder), settings=choices))
    assert said
    assert max(said) < 4


def test_losses_and_so_the_scores_of_candidates_do_not_change() -> None:
    ids = torch.tensor([[5, 6, 7, 20, 21]])
    labels = torch.where(ids > 5, ids, IGNORE_INDEX)
    losses = []
    for silent_ids in (SILENT, frozenset()):
        decoder = decoder_of(3, silent_ids=silent_ids)
        mask = torch.ones_like(ids, dtype=torch.bool)
        loss = decoder.loss(decoder.embed(ids), attention_mask=mask, labels=labels)
        losses.append(loss.token_loss)
    assert torch.equal(*losses)
    assert losses[0].isfinite().all()
