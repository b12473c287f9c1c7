"""Answers side by side are those one by one, and nothing grows or is converted on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_decoder import CONTEXT, VOCAB, decoder_of, prompt_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from video_llama.common.generation import GenerationSettings
from video_llama.models.answers import answer_prompts, stream_answer
from video_llama.models.prompt_cache import PromptCache

DECODER = decoder_of()
PROMPTS = [
    prompt_of(1, "a", 5, 6),
    prompt_of(1, 7),
    prompt_of(1, "b", 5, "c", 3, 4, 5, 6, 7, 8),
    prompt_of(1, "a", 5, 6),
]


def side_by_side(prompts, *, stop=None, decoder=DECODER, **choices):
    choices = GenerationSettings(**{"max_new_tokens": 8, **choices})
    return answer_prompts(decoder, prompts, settings=choices, stop=stop)


def alone(prompt, *, stop=None, decoder=DECODER, **choices):
    choices = GenerationSettings(**{"max_new_tokens": 8, **choices})
    cache = PromptCache(decoder)
    return list(stream_answer(prompt, cache=cache, settings=choices, stop=stop))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"min_new_tokens": 8},
        {"repetition_penalty": 1.8, "min_new_tokens": 8},
        {"temperature": 3.0, "top_p": 1.0, "seed": 3, "min_new_tokens": 8},
        {"temperature": 3.0, "top_p": 0.6, "seed": 4, "repetition_penalty": 1.3},
        {"num_beams": 3},
    ],
    ids=str,
)
def test_every_row_is_answered_as_if_it_were_alone(choices):
    together = side_by_side(PROMPTS, **choices)
    assert together == [alone(prompt, **choices) for prompt in PROMPTS]
    assert together[0] == together[3]
    assert len({tuple(ids) for ids in together}) > 1


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 4.0]),
)
def test_neighbours_of_any_length_change_nothing(lengths, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    prompts = [
        prompt_of(1, *torch.randint(3, VOCAB, (length,), generator=generator).tolist())
        for length in lengths
    ]
    choices = {"temperature": temperature, "seed": seed, "top_p": 0.9}
    together = side_by_side(prompts, **choices)
    assert together == [alone(prompt, **choices) for prompt in prompts]


def test_different_seeds_give_different_answers():
    drawn = {
        tuple(alone(PROMPTS[0], temperature=4.0, top_p=1.0, seed=seed, min_new_tokens=8))
        for seed in range(4)
    }
    assert len(drawn) == 4


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_stop_rule_is_told_which_prompt_it_is(num_beams):
    answers = side_by_side(
        PROMPTS,
        stop=lambda row, ids: len(ids) == row + 1,
        min_new_tokens=8,
        num_beams=num_beams,
    )
    assert [len(ids) for ids in answers] == [1, 2, 3, 4]


def test_the_room_of_a_row_is_that_of_its_own_prompt():
    lengths = [CONTEXT - 3, CONTEXT, 4, CONTEXT - 1]
    prompts = [prompt_of(*[3] * length) for length in lengths]
    answers = side_by_side(prompts, min_new_tokens=8)
    assert [len(ids) for ids in answers] == [3, 0, 8, 1]
    assert answers == [alone(prompt, min_new_tokens=8) for prompt in prompts]


def test_a_stop_rule_knows_rows_by_number_beside_one_without_room():
    prompts = [prompt_of(*[3] * CONTEXT), prompt_of(1, 5)]
    answers = side_by_side(prompts, stop=lambda row, _ids: row == 1, min_new_tokens=8)
    assert [len(ids) for ids in answers] == [0, 1]


class Reading:
    """Counts the positions that a decoder reads, padding included."""

    def __init__(self, decoder, monkeypatch):
        self.sizes = []
        step = decoder.step

        def counted(embeds, *, attention_mask, cache):
            self.sizes.append(tuple(embeds.shape[:2]))
            return step(embeds, attention_mask=attention_mask, cache=cache)

        monkeypatch.setattr(decoder, "step", counted)


SAME = (1, "a", *[3 + i % 9 for i in range(40)], "b")
BEHIND_THE_SAME = [
    prompt_of(*SAME, 5),
    prompt_of(*SAME, "c", 7, 8),
    prompt_of(*SAME, 5, 9, 9, 9, 9, 9),
]


@pytest.mark.parametrize("choices", [{}, {"temperature": 4.0}, {"num_beams": 2}], ids=str)
def test_what_prompts_begin_with_alike_is_read_once(choices, monkeypatch):
    choices |= {"max_new_tokens": 3, "min_new_tokens": 3}
    expected = [alone(prompt, **choices) for prompt in BEHIND_THE_SAME]
    reading = Reading(DECODER, monkeypatch)
    assert side_by_side(BEHIND_THE_SAME, **choices) == expected
    num_same = len(prompt_of(*SAME).input_ids)
    assert sum(length for _, length in reading.sizes if length > 10) <= num_same + 1
    if choices.get("num_beams") is None:
        assert reading.sizes == [(1, num_same), (3, 6), (3, 1), (3, 1)]


def test_a_beginning_is_shared_beside_a_prompt_without_room():
    prompts = [*BEHIND_THE_SAME, prompt_of(*SAME, *[3] * (CONTEXT - 46)), prompt_of(*SAME, 4)]
    assert len(prompts[3].input_ids) >= CONTEXT
    assert side_by_side(prompts) == [alone(prompt) for prompt in prompts]


def test_in_a_sliding_window_nothing_is_padded_in_the_middle():
    sliding = decoder_of(model_type="mistral", sliding_window=6, num_key_value_heads=1)
    expected = [alone(prompt, decoder=sliding) for prompt in BEHIND_THE_SAME]
    assert side_by_side(BEHIND_THE_SAME, decoder=sliding) == expected


def test_no_prompt_has_no_answer():
    assert side_by_side([]) == []


class Watch(TorchDispatchMode):
    """Counts the numbers of every float32 tensor that comes into being."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.sizes += [
            leaf.numel()
            for leaf in tree_leaves(result)
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32
        ]
        return result


@pytest.mark.parametrize("num_beams", [1, 2])
def test_weights_in_bfloat16_are_never_converted(num_beams):
    decoder = decoder_of(dtype="bfloat16", hidden_size=64, intermediate_size=256, vocab_size=512)
    prompts = [prompt_of(1, 5), prompt_of(1, 5, 6)]
    with Watch() as watch:
        side_by_side(prompts, decoder=decoder, num_beams=num_beams)
    # float32 are the scores, four rows of 512 at most, and inside norms and rotations.
    smallest_matrix = min(weight.numel() for weight in decoder.parameters() if weight.ndim == 2)
    assert 0 < max(watch.sizes) <= 4 * 512 < smallest_matrix
    cache = PromptCache(decoder)
    cache.read_prompt(prompts[0])
    assert {layer.keys.dtype for layer in cache._states.layers} == {torch.bfloat16}


@pytest.mark.parametrize("num_beams", [1, 2])
def test_nothing_is_kept_for_a_backward_pass(num_beams):
    decoder = decoder_of()
    assert all(weight.requires_grad for weight in decoder.parameters())

    def refuse(tensor):
        raise AssertionError(f"{tuple(tensor.shape)} was kept")

    cache = PromptCache(decoder)
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        # Its consumer may compute gradients of its own between two ids.
        for _ in stream_answer(
            PROMPTS[0], cache=cache, settings=GenerationSettings(num_beams=num_beams)
        ):
            assert torch.is_grad_enabled()
        side_by_side(PROMPTS, decoder=decoder, num_beams=num_beams)
    assert not any(layer.keys.requires_grad for layer in cache._states.layers)
