"""Reading questions off samples, and the order in which they are asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.tasks.questions import chunks, fair_shares, first_of_each_kind, read_question


def a_question(key="q", *, clip="a.mp4", **meta):
    messages = [Message("user", [MediaItem("video", clip), "what?"])]
    return read_question(Sample(key, messages, form="chat", meta={"kind": "colour", **meta}))


@pytest.mark.parametrize(
    ("meta", "form"),
    [
        ({"answer": "red"}, "open"),
        ({"answer": "midway late: no"}, "yes_no"),
        ({"answer": "Yes", "candidates": ["Yes", "No"]}, "yes_no"),
        ({"answer": "red", "candidates": ["red", "blue"]}, "multiple_choice"),
        ({"answer": "no", "candidates": ["no", "one", "two"]}, "multiple_choice"),
    ],
)
def test_the_form_follows_from_answer_and_candidates(meta, form):
    assert a_question(**meta).form == form


def test_the_task_of_a_row_is_its_kind_if_it_names_none():
    sample = Sample("q", [Message("user", ["?"])], meta={"task": "object_count", "answer": "two"})
    assert read_question(sample).kind == "object_count"


def test_a_data_set_without_answers_is_refused():
    with pytest.raises(ConfigError, match="no answer"):
        read_question(Sample("q", [Message("user", ["?"])], dataset="captions"))


def test_an_answered_question_is_rendered_as_in_training():
    question = a_question(answer="red")
    answered = question.answered_with("blue")
    assert answered.form == "instruct"
    assert [message.role for message in answered.messages] == ["user", "assistant"]
    assert len(question.sample.messages) == 1


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(2, 5))
def test_chunks_keep_every_question_once_and_share_no_clip(clips, clips_per_chunk):
    questions = [a_question(str(i), clip=f"{c}.mp4", answer="x") for i, c in enumerate(clips)]
    pieces = chunks(questions, clips_per_chunk=clips_per_chunk)
    keys = [question.sample.key for piece in pieces for question in piece]
    assert sorted(keys) == sorted(str(i) for i in range(len(clips)))
    seen = [{question.shown for question in piece} for piece in pieces]
    assert sum(map(len, seen)) == len(set(clips))
    assert len(pieces) < 2 or all(len(part) > 1 for part in seen)


def test_a_limit_takes_the_first_of_every_kind():
    questions = [a_question(f"c{i}", answer="x") for i in range(3)]
    questions += [a_question(f"s{i}", answer="x", kind="shape") for i in range(3)]
    assert first_of_each_kind(questions, limit=2) == {"c0", "c1", "s0", "s1"}
    assert len(first_of_each_kind(questions, limit=None)) == 6


def test_the_longest_work_goes_first_and_each_piece_to_who_has_least():
    # 9 to the first; 5, then 4 to the second (5 < 9); of 9 and 9 the first takes 3, the second 2.
    assert fair_shares({0: 3, 1: 9, 2: 5, 3: 2, 4: 4}, num_shares=2) == [[0, 1], [2, 3, 4]]


@given(
    st.dictionaries(st.integers(0, 50), st.floats(0.1, 10), max_size=30),
    st.integers(1, 5),
)
def test_shares_hold_all_work_once_and_differ_by_one_piece_at_most(costs, num_shares):
    shares = fair_shares(costs, num_shares=num_shares)
    assert sorted(index for share in shares for index in share) == sorted(costs)
    sums = [sum(costs[index] for index in share) for share in shares]
    assert max(sums) - min(sums) <= max(costs.values(), default=0) + 1e-6
