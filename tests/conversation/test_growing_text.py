"""Text that grows id by id is the text of all ids, at a cost that does not grow with it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.conversation.growing_text import CONTEXT, MOST_OPEN, GrowingText, last_text
from video_llama.conversation.stopping import AnswerStream, StopRule
from video_llama.conversation.tokenizer import Tokenizer

KINDS = ["tokenizer", "fast_tokenizer", "chinese_tokenizer"]
BYTES = range(3, 259)
"""Single bytes in the vocabulary of LLaMA."""


class Counting:
    """A tokenizer that notes how many ids it was asked to decode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end_ids = tokenizer.end_ids
        self.asked: list[int] = []

    def decode(self, ids: list[int]) -> str:
        """Decode ids."""
        self.asked.append(len(ids))
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_one_by_one_read_as_all_of_them(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    # Pieces, single bytes, and ids that say nothing or a space.
    sources = [range(tokenizer.vocab_size), BYTES, (0, 1, 13)]

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), length=st.integers(MOST_OPEN, 3 * MOST_OPEN))
    def check(seed: int, length: int) -> None:
        draw = random.Random(seed)
        ids = [draw.choice(draw.choice(sources)) for _ in range(length)]
        growing = GrowingText(tokenizer)
        for count, token_id in enumerate(ids, start=1):
            assert growing.push(token_id) == tokenizer.decode(ids[:count])
        assert growing.ids == ids

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_mark_is_found_where_it_is_completed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = st.one_of(st.integers(0, tokenizer.vocab_size - 1), st.sampled_from([0, 1]))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(ids, max_size=50), st.text("#\n:ab", max_size=4), st.integers(0, 40))
    def check(ids: list[int], mark: str, num_silent: int) -> None:
        # Ids that say nothing stand inside the mark.
        first, *rest = tokenizer.encode_run("##").ids
        ids = [*ids, first, *[tokenizer.bos_id] * num_silent, *rest]
        for piece in tokenizer.encode_run("#" + mark).ids:
            ids.append(piece)
            expected = "###" in tokenizer.decode(ids)
            assert StopRule(tokenizer, ("###",))(0, ids) == expected
            if expected:
                return

    check()


def test_the_cost_of_an_id_does_not_grow_with_the_text(tokenizer: Tokenizer) -> None:
    counting = Counting(tokenizer)
    ids = tokenizer.encode_run("a small red boat and a bird. " * 40).ids
    stream = AnswerStream(tokenizer=counting, stop=("###", "</s>"))  # type: ignore[arg-type]
    rule = StopRule(counting, ("###", "</s>"))  # type: ignore[arg-type]
    for count, token_id in enumerate(ids, start=1):
        stream.push(token_id)
        rule(0, ids[:count])
    assert len(ids) > 10 * MOST_OPEN
    assert max(counting.asked) <= MOST_OPEN


def test_a_tokenizer_that_takes_back_what_it_said_is_asked_about_everything() -> None:
    class Tidy:
        """Puts a full stop behind a text and takes it away when more comes."""

        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids)) + "."

    growing = GrowingText(Tidy())  # type: ignore[arg-type]
    for token_id in range(3 * MOST_OPEN):
        growing.push(token_id)
    assert growing.text == " ".join(map(str, range(3 * MOST_OPEN))) + "."


def test_the_end_of_a_text_has_enough_in_front_of_its_last_id(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_run("a small red boat and a bird. " * 20).ids
    end = last_text(ids, tokenizer=tokenizer, num_chars=4)
    assert tokenizer.decode(ids).endswith(end)
    assert 4 + CONTEXT <= len(end) < len(tokenizer.decode(ids))
    assert last_text(ids[:3], tokenizer=tokenizer, num_chars=4) == tokenizer.decode(ids[:3])
    assert last_text([], tokenizer=tokenizer, num_chars=4) == ""
