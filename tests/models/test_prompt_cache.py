"""Reading on from a cache is reading everything again, whatever was read before."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_decoder import CONTEXT, WIDTH, clip, decoder_of, prompt_of

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.models import prompt_cache
from video_llama.models.answers import stream_answer
from video_llama.models.prompt_cache import PromptCache, common_prefix, places_of

DECODER = decoder_of()
SLIDING = decoder_of(model_type="mistral", sliding_window=6, num_key_value_heads=1)
GREEDY = GenerationSettings(max_new_tokens=5)


def answer(prompt, cache, *, stop=None, **choices):
    choices = GenerationSettings(**{"max_new_tokens": 5, **choices})
    return list(stream_answer(prompt, cache=cache, settings=choices, stop=stop))


def fresh(prompt, *, decoder=DECODER, **choices):
    return answer(prompt, PromptCache(decoder), **choices)


def followed_by(prompt, *ids):
    return replace(
        prompt, input_ids=[*prompt.input_ids, *ids], slots=[*prompt.slots, *[0] * len(ids)]
    )


PARTS = st.lists(st.one_of(st.integers(3, 8), st.sampled_from("abc")), min_size=1, max_size=12)
"""Few ids and media, so that prompts often begin alike."""


@pytest.mark.parametrize("decoder", [DECODER, SLIDING], ids=["llama", "sliding window"])
@settings(max_examples=25, deadline=None)
@given(first=PARTS, turns=st.lists(st.tuples(st.integers(0, 14), PARTS), min_size=1, max_size=4))
def test_any_row_of_prompts_gives_the_logits_and_ids_of_a_full_reading(decoder, first, turns):
    cache, parts = PromptCache(decoder), [1, *first]
    for keep, new in [(0, []), *turns]:
        parts = [*parts[: max(keep, 1)], *new] if new else parts
        prompt = prompt_of(*parts)
        whole = PromptCache(decoder)
        difference = cache.read_prompt(prompt) - whole.read_prompt(prompt)
        assert difference.abs().max() <= 1e-4
        assert len(cache) == len(prompt.input_ids)
        assert answer(prompt, cache) == fresh(prompt, decoder=decoder)


def test_turns_after_each_other_read_only_what_is_new():
    cache, prompt = PromptCache(DECODER), prompt_of(1, "a", 5, 6)
    reused = []
    for turn in range(4):
        said = answer(prompt, cache, min_new_tokens=5)
        assert said == fresh(prompt, min_new_tokens=5)
        reused.append(len(prompt.input_ids) - cache.num_reused)
        prompt = followed_by(prompt, *said, 7 + turn, 8)
    # The last id of an answer was never read; two more make the next question.
    assert reused == [len(prompt_of(1, "a", 5, 6).input_ids), 3, 3, 3]


def test_the_cache_holds_the_prompt_and_all_ids_of_the_answer_but_the_last():
    cache, prompt = PromptCache(DECODER), prompt_of(1, "a", 5)
    said = answer(prompt, cache, min_new_tokens=4, max_new_tokens=4)
    assert cache._places == places_of(followed_by(prompt, *said[:-1]))


def test_a_prompt_asked_again_reads_its_last_position_alone():
    cache, prompt = PromptCache(DECODER), prompt_of(1, 5, "b", 6)
    first = answer(prompt, cache)
    assert answer(prompt, cache) == first
    assert cache.num_reused == len(prompt.input_ids) - 1


def test_an_undone_turn_is_forgotten():
    cache = PromptCache(DECODER)
    answer(prompt_of(1, "a", 5, 6, 7, 8, 9), cache)
    shorter = prompt_of(1, "a", 5, 6)
    assert answer(shorter, cache) == fresh(shorter)


def test_another_conversation_in_between_only_costs_time():
    cache = PromptCache(DECODER)
    mine, yours = prompt_of(1, "a", 5, 6), prompt_of(1, "b", 5, 6)
    expected = answer(mine, cache)
    assert answer(yours, cache) == fresh(yours)
    assert cache.num_reused == 1
    assert answer(mine, cache) == expected


def test_media_in_several_turns_are_kept_apart():
    cache = PromptCache(DECODER)
    answer(prompt_of(1, "a", 5, "b", 6), cache)
    other = prompt_of(1, "a", 5, "c", 6)
    assert answer(other, cache) == fresh(other)
    assert cache.num_reused == 2 + len(other.media[0])


def test_without_keys_media_are_told_apart_by_their_tokens():
    cache = PromptCache(DECODER)
    one, same, two = (
        Prompt([1, 0, 0, 0, 5], [0, 1, 1, 1, 0], [clip(number)]) for number in (1, 1, 2)
    )
    answer(one, cache)
    answer(same, cache)
    assert cache.num_reused == 4
    assert answer(two, cache) == fresh(two)
    assert cache.num_reused == 1


def test_where_a_medium_was_cut_its_last_tokens_are_read_and_known():
    cut = Prompt([1, 0, 0, 5], [0, 1, 1, 0], [clip(1, size=4)], ["x"])
    last = Prompt([1, 0, 0, 5], [0, 1, 1, 0], [clip(1, size=4)[2:]], ["y"])
    assert places_of(cut)[1:3] == [("x", 2), ("x", 3)]
    assert fresh(cut) == fresh(last)


def test_more_places_than_tokens_are_refused():
    with pytest.raises(ValueError, match="medium 1 of the prompt has 2 tokens and 3 positions"):
        places_of(Prompt([0, 0, 0], [1, 1, 1], [clip(1, size=2)], ["x"]))


@pytest.mark.parametrize("num_heard", [1, 3])
def test_an_answer_closed_early_leaves_what_was_read(num_heard):
    cache, prompt = PromptCache(DECODER), prompt_of(1, "a", 5)
    stream = stream_answer(
        prompt, cache=cache, settings=GenerationSettings(max_new_tokens=9, min_new_tokens=9)
    )
    said = list(itertools.islice(stream, num_heard))
    stream.close()
    assert cache._places == places_of(followed_by(prompt, *said[:-1]))
    following = followed_by(prompt, *said, 7)
    assert answer(following, cache) == fresh(following)
    assert cache.num_reused == len(following.input_ids) - 2


def test_a_stop_rule_that_fails_leaves_what_was_read():
    cache, prompt = PromptCache(DECODER), prompt_of(1, "a", 5)

    def stop(_row, ids):
        if len(ids) == 3:
            raise RuntimeError("no tokenizer")
        return False

    with pytest.raises(RuntimeError, match="no tokenizer"):
        answer(prompt, cache, stop=stop, min_new_tokens=5)
    said = fresh(prompt, min_new_tokens=5)
    assert cache._places == places_of(followed_by(prompt, *said[:2]))
    assert answer(prompt, cache) == fresh(prompt)


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_decoder_that_fails_between_two_layers_leaves_nothing_half_written(fails_at):
    decoder = decoder_of()
    cache, prompt = PromptCache(decoder), prompt_of(1, "a", 5)
    calls = itertools.count(1)

    def fail(*_):
        if next(calls) == fails_at:
            raise torch.cuda.OutOfMemoryError("full")

    hook = decoder.model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        answer(prompt, cache, min_new_tokens=5)
    hook.remove()
    assert (len(cache), cache.nbytes) == (0, 0)
    assert answer(prompt, cache) == fresh(prompt, decoder=decoder)


@pytest.mark.parametrize("decoder", [DECODER, SLIDING], ids=["llama", "sliding window"])
def test_beams_leave_the_prompt_alone_in_the_cache(decoder):
    cache, prompt = PromptCache(decoder), prompt_of(1, "a", 5)
    expected = fresh(prompt, decoder=decoder, num_beams=3)
    assert answer(prompt, cache, num_beams=3) == expected
    assert cache._places == places_of(prompt)
    following = followed_by(prompt, *expected, 7)
    assert answer(following, cache, num_beams=3) == fresh(following, decoder=decoder, num_beams=3)
    assert cache.num_reused == len(prompt.input_ids)
    assert answer(following, cache) == fresh(following, decoder=decoder)


def test_a_window_that_has_moved_on_is_read_from_its_start_and_said_once(caplog):
    prompt_cache._say_that_it_cannot_be_cut.cache_clear()
    cache = PromptCache(SLIDING)
    long, other = prompt_of(1, 3, 4, 5, 6, 7, 8, 9), prompt_of(1, 3, 4, 5, 6, 7, 8, 3)
    with caplog.at_level(logging.INFO, logger="video_llama"):
        for prompt in (long, other, long, other):
            assert answer(prompt, cache) == fresh(prompt, decoder=SLIDING)
            assert cache.num_reused == 0
    assert [record.message.count("CausalLM") for record in caplog.records] == [1]


def test_a_window_that_has_moved_on_reads_on_without_a_cut():
    cache, prompt = PromptCache(SLIDING), prompt_of(1, 3, 4, 5, 6, 7, 8, 9)
    said = answer(prompt, cache, min_new_tokens=5)
    following = followed_by(prompt, *said, 7)
    assert answer(following, cache) == fresh(following, decoder=SLIDING)
    assert cache.num_reused == len(following.input_ids) - 2


def test_its_bytes_are_those_of_keys_and_values():
    cache, prompt = PromptCache(DECODER), prompt_of(1, "a", 5, 6)
    assert cache.nbytes == 0
    cache.read_prompt(prompt)
    # Two layers, keys and values, of the decoder's width, four bytes a number.
    assert cache.nbytes == 2 * 2 * len(prompt.input_ids) * WIDTH * 4
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    assert answer(prompt, cache) == fresh(prompt)


def test_a_prompt_that_leaves_no_room_is_not_read():
    cache = PromptCache(DECODER)
    assert answer(prompt_of(*[3] * CONTEXT), cache) == []
    assert len(cache) == 0
    assert len(answer(prompt_of(*[3] * (CONTEXT - 2)), cache, min_new_tokens=5)) == 2


def test_the_common_prefix_ends_at_the_first_difference():
    assert common_prefix([(None, 1), ("a", 0)], [(None, 1), ("a", 0), (None, 3)]) == 2
    # The same number is another thing in text and in a medium.
    assert common_prefix([(None, 1), (None, 0)], [(None, 1), ("a", 0)]) == 1
    assert common_prefix([], [(None, 1)]) == 0


def test_an_answer_does_not_go_on_behind_the_prompt_of_another():
    cache, mine, yours = PromptCache(DECODER), prompt_of(1, "a", 5), prompt_of(1, "b", 6, 7)
    stream = stream_answer(mine, cache=cache, settings=GenerationSettings(min_new_tokens=9))
    next(stream)
    assert answer(yours, cache) == fresh(yours)
    with pytest.raises(RuntimeError, match="another prompt before this answer was over"):
        next(stream)
    assert answer(mine, cache) == fresh(mine)


def test_every_medium_has_a_key():
    with pytest.raises(ValueError, match="0 media_keys for 1 media"):
        places_of(Prompt([0], [1], [clip(1)], []))
