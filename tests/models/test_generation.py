"""Sampling and penalties against numbers worked out by hand; where an answer ends."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from video_llama.common.generation import SEEDS, GenerationSettings, finish_reason
from video_llama.models.answers import answer_rows
from video_llama.models.generation import adjust_scores, sample_next


def choose(logits, rows, *, settings, generators):
    scores = adjust_scores(logits, rows, settings=settings, end_ids=())
    return sample_next(scores, settings=settings, generators=generators)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(probabilities, *, rows=((),), num=1, **settings):
    """Draw `num` next ids of one row whose model gives these probabilities."""
    logits = torch.tensor([probabilities]).log()
    generators = seeded(0)
    settings = GenerationSettings(**settings)
    return [choose(logits, rows, settings=settings, generators=generators)[0] for _ in range(num)]


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [
        # .4 alone is less than .5, so .3 comes in; .4 + .3 holds .7 exactly.
        (0.3, {1}),
        (0.5, {1, 3}),
        (0.69, {1, 3}),
        (0.75, {1, 3, 0}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_the_nucleus_is_the_smallest_set_that_holds_the_probability(top_p, nucleus):
    drawn = draw([0.2, 0.4, 0.1, 0.3], num=300, temperature=1.0, top_p=top_p)
    assert set(drawn) == nucleus


def test_within_the_nucleus_probabilities_keep_their_proportions():
    counts = Counter(draw([0.2, 0.4, 0.1, 0.3], num=7000, temperature=1.0, top_p=0.5))
    # 4 to 3; the standard deviation of the share of 7000 draws is .006.
    assert counts[1] / 7000 == pytest.approx(4 / 7, abs=0.025)


def test_temperature_divides_the_logits():
    # Odds of 9 to 1 at temperature 2 are 3 to 1.
    counts = Counter(draw([0.9, 0.1], num=4000, temperature=2.0, top_p=1.0))
    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03)


def test_temperature_zero_takes_the_likeliest():
    assert draw([0.3, 0.4, 0.3], num=5, temperature=0.0) == [1] * 5


def test_the_penalty_divides_positive_and_multiplies_negative_scores_of_ids_seen():
    # CTRL: 2.0 / 1.5 = 1.33 falls below 1.4; -0.2 * 1.5 = -0.3 falls below -0.25.
    settings = GenerationSettings(repetition_penalty=1.5)
    logits = torch.tensor([[2.0, 1.4, 0.0], [-0.2, -0.25, -9.0]])

    def best(rows):
        return choose(logits, rows, settings=settings, generators=[])

    assert best([[], []]) == [0, 0]
    assert best([[0], [0]]) == [1, 1]
    assert best([[0, 0, 0], [2]]) == [1, 0]


def test_the_penalty_of_an_id_does_not_grow_with_its_count():
    settings = GenerationSettings(repetition_penalty=1.5)
    logits = torch.tensor([[2.0, 1.3]])
    chosen = choose(logits, [[0] * 9], settings=settings, generators=[])
    assert chosen == [0]


def test_equal_seeds_draw_equal_ids_and_logits_stay_untouched():
    logits = torch.randn(2, 50)
    kept = logits.clone()
    settings = GenerationSettings(temperature=1.0, repetition_penalty=1.3)
    first, second = (
        choose(logits, [[1], [2]], settings=settings, generators=seeded(7, 8)) for _ in range(2)
    )
    assert first == second
    assert torch.equal(logits, kept)


class Counting:
    """A decoder that says 10, 11, 12, ... in every row and notes what it is fed."""

    end_ids = frozenset({13})
    silent_ids: frozenset[int] = frozenset()
    max_context = 8

    def __init__(self):
        self.lengths = []

    def new_cache(self):
        return []

    def embed(self, ids):
        return ids[..., None].float()

    def step(self, embeds, *, attention_mask, cache):
        cache.append(embeds)
        assert attention_mask is None
        self.lengths.append(embeds.shape[1])
        logits = torch.zeros(len(embeds), 30)
        logits[:, 9 + len(cache)] = 1.0
        return logits


def answer(decoder, *, num_rows=1, length=3, stop=None, **settings):
    return answer_rows(
        decoder,
        torch.zeros(num_rows, length, 1),
        attention_mask=torch.ones(num_rows, length, dtype=torch.bool),
        settings=GenerationSettings(**settings),
        stop=stop,
    )


def test_an_answer_ends_with_the_decoders_end_token():
    assert answer(Counting(), max_new_tokens=9) == [[10, 11, 12, 13]]


def test_an_end_token_is_not_chosen_before_the_shortest_answer():
    scores = torch.tensor([[9.0, 0.0, 1.0]])
    settings = GenerationSettings(min_new_tokens=2)

    def best(ids):
        adjusted = adjust_scores(scores, [ids], settings=settings, end_ids={0})
        return sample_next(adjusted, settings=settings, generators=[])

    assert [best([]), best([2]), best([2, 2])] == [[2], [2], [0]]


def test_a_row_that_stopped_early_does_not_keep_another_from_ending():
    said = answer(Counting(), num_rows=2, stop=lambda row, _ids: row == 0, min_new_tokens=3)
    assert said == [[10], [10, 11, 12, 13]]


def test_an_answer_ends_where_the_context_ends():
    assert answer(Counting(), length=6) == [[10, 11]]
    assert answer(Counting(), length=8) == [[]]


def test_a_finished_row_is_silent_while_another_goes_on():
    said = answer(Counting(), num_rows=2, stop=lambda row, ids: row == 0 and ids[-1] == 11)
    assert said == [[10, 11], [10, 11, 12, 13]]


def test_the_prompt_is_read_once_and_then_one_id_at_a_time():
    decoder = Counting()
    answer(decoder, max_new_tokens=3)
    assert decoder.lengths == [3, 1, 1]


def test_a_probability_of_one_needs_no_luck():
    assert draw([1.0, 0.0], num=3, temperature=100.0) == [0, 0, 0]


def test_the_last_id_of_an_answer_is_not_read():
    decoder = Counting()
    assert answer(decoder, max_new_tokens=1) == [[10]]
    assert decoder.lengths == [3]


@pytest.mark.parametrize("tiny", [1e-38, 1e-45, 1e-300])
def test_a_tiny_temperature_is_as_good_as_none(tiny):
    assert draw([0.3, 0.4, 0.3], num=5, temperature=tiny, top_p=1.0) == [1] * 5


def test_a_tiny_nucleus_holds_the_likeliest():
    assert draw([0.3, 0.4, 0.3], num=5, temperature=1.0, top_p=1e-300) == [1] * 5


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_that_is_taken_can_be_drawn_with(seed):
    assert len(answer(Counting(), max_new_tokens=2, temperature=1.0, seed=seed)[0]) == 2


def test_a_row_draws_as_if_it_were_alone():
    settings = GenerationSettings(temperature=1.0, top_p=1.0)
    scores = torch.randn(3, 50)
    together = sample_next(scores, settings=settings, generators=seeded(4, 4, 4))
    alone = [
        sample_next(score[None], settings=settings, generators=seeded(4))[0] for score in scores
    ]
    assert together == alone


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([5, 13], "stop"), ([5, 7], "stop"), ([5, 6], "length"), ([], "length")],
)
def test_an_answer_that_was_cut_off_can_be_told_from_one_that_ended(ids, reason):
    found = finish_reason(ids, end_ids={13}, stop=lambda _row, said: said[-1] == 7)
    assert found == reason


def test_the_highest_draw_takes_the_last_token_inside_the_nucleus(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.ones(size))
    assert draw([0.2, 0.4, 0.1, 0.3], temperature=1.0, top_p=0.75) == [0]
