from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.conversation.stopping import AnswerStream, StopRule, answer_text
from video_llama.conversation.templates import neutralise
from video_llama.conversation.tokenizer import Tokenizer

STOP = ("###", "</s>")
# Ids of a small LLaMA vocabulary, as published: one piece, two pieces, three single characters.
SPELLINGS = [[835], [265, 955], [955, 955, 955]]


def shown(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = AnswerStream(tokenizer=tokenizer, stop=STOP)
    return [*(stream.push(token_id) for token_id in ids), stream.close()]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_stop_string_is_found_however_it_is_spelled(
    tokenizer: Tokenizer, spelling: list[int]
) -> None:
    ids = tokenizer.encode_run("a boat").ids
    rule = StopRule(tokenizer, STOP)
    assert [rule(0, [*ids, *spelling[:n]]) for n in range(len(spelling) + 1)] == [
        *[False] * len(spelling),
        True,
    ]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_part_of_a_stop_string_is_shown(tokenizer: Tokenizer, spelling: list[int]) -> None:
    ids = [*tokenizer.encode_run("a boat").ids, *spelling]
    assert "".join(shown(tokenizer, ids)) == "a boat"
    assert not any("#" in piece for piece in shown(tokenizer, ids))


def test_what_only_looked_like_a_stop_string_is_shown_after_all(tokenizer: Tokenizer) -> None:
    assert "".join(shown(tokenizer, tokenizer.encode_run("C# and ##").ids)) == "C# and ##"


def test_half_a_character_is_never_shown(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_run("a\u65e5").ids
    # "a", then three bytes: nothing is shown before the third.
    assert shown(tokenizer, ids) == ["a", "", "", "\u65e5", ""]
    assert "".join(shown(tokenizer, ids[:-1])) == "a"


def test_the_end_token_ends_an_answer(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode_run("yes").ids, tokenizer.eos_id, *tokenizer.encode_run("no").ids]
    stream = AnswerStream(tokenizer=tokenizer, stop=STOP)
    assert "".join(stream.push(i) for i in ids) == "yes"
    assert stream.finished


def test_rows_are_judged_one_by_one(tokenizer: Tokenizer) -> None:
    rule = StopRule(tokenizer, STOP)
    assert [rule(0, [300]), rule(1, [300, 835]), rule(2, [300, tokenizer.eos_id])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("kind", ["tokenizer", "fast_tokenizer"])
def test_a_streamed_answer_is_the_whole_answer(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    # Bytes, marks and their halves: ids 3..258 of the LLaMA vocabulary are single bytes.
    ids = st.one_of(st.integers(0, 399), st.sampled_from([835, 265, 955, 13, 937, 2]))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(ids.filter(lambda i: i < tokenizer.vocab_size), max_size=12))
    def check(ids: list[int]) -> None:
        pieces = shown(tokenizer, ids)
        assert "".join(pieces) == answer_text(ids, tokenizer=tokenizer, stop=STOP)
        assert not any(mark in "".join(pieces) for mark in STOP)

    check()


@pytest.mark.parametrize("kind", ["tokenizer", "fast_tokenizer"])
def test_an_answer_comes_back_as_it_was_encoded(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\ufffd"))

    @settings(max_examples=100, deadline=None)
    @given(text)
    def check(text: str) -> None:
        text = neutralise(text, marks=STOP)
        ids = tokenizer.encode_run(f" {text}###Human: more").ids
        assert "".join(shown(tokenizer, ids)) == text.strip()

    check()
