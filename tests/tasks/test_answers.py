"""What counts as the same answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.tasks.answers import is_correct, matching_candidate, mentions, normalise, verdict

OPTIONS = ["red", "blue", "dark green", "green"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Red.", "red"),
        ("a  red\tCircle.###Human: more", "red circle"),
        ("The end", "end"),
        ("A", "a"),
        ("don't", "don't"),
        ("###", ""),
        ("  ?! ", ""),
    ],
)
def test_case_edges_articles_and_what_follows_the_mark_do_not_count(text, expected):
    assert normalise(text) == expected


@given(st.text(alphabet="aAbB tThHeE.,!#"))
def test_case_and_surroundings_never_matter(text):
    assert normalise(f" {text.upper()}") == normalise(text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("midway late: no", "no"),
        ("moves right: first: yes.###", "yes"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("at 12:30: late", "late"),
        ("late:", "late"),
        ("late: ###", "late"),
    ],
)
def test_the_verdict_stands_after_the_last_colon(text, expected):
    assert verdict(text) == expected


def test_wrong_evidence_with_the_right_verdict_is_correct():
    assert is_correct("early late: no###", "midway late: no")


def test_the_right_evidence_with_the_wrong_verdict_is_wrong():
    assert not is_correct("midway late: yes", "midway late: no")


@pytest.mark.parametrize("prediction", ["", "###", ":", ")", " . "])
def test_an_empty_answer_is_never_right(prediction):
    assert not is_correct(prediction, "red")
    assert not is_correct(prediction, "")


@pytest.mark.parametrize(
    ("prediction", "index"),
    [
        ("Blue.", 1),
        ("(B) whatever", 1),
        ("C.", 2),
        ("the ball is red", 0),
        ("dark green", 2),
        ("red or blue", None),
        ("reddish", None),
        ("", None),
        ("z.", None),
        ("a ball", None),
    ],
)
def test_a_free_answer_names_one_candidate_or_none(prediction, index):
    assert matching_candidate(prediction, OPTIONS) == index


def test_candidates_of_which_one_contains_the_other_are_ambiguous_inside_a_sentence():
    assert matching_candidate("it is dark green", OPTIONS) is None


# In Chinese: "red", "blue", "dark green"; "the ball is red."; a full-width colon in between.
CHINESE = ["\u7ea2\u8272", "\u84dd\u8272", "\u6df1\u7eff\u8272"]


def test_punctuation_of_other_scripts_does_not_count_either():
    assert is_correct("\u300c\u7ea2\u8272\u300d\u3002", "\u7ea2\u8272")
    assert is_correct("\u7b54\u6848\uff1a\u7ea2\u8272\u3002", "\u7ea2\u8272")


def test_a_candidate_stands_inside_a_sentence_without_spaces():
    sentence = "\u7403\u662f{}\u7684\u3002"
    found = [matching_candidate(sentence.format(option), CHINESE) for option in CHINESE]
    assert found == [0, 1, 2]
    assert matching_candidate("\u7ea2\u8272\u6216\u84dd\u8272", CHINESE) is None


def test_words_of_scripts_with_spaces_are_not_found_inside_other_words():
    assert matching_candidate("it is coloured", OPTIONS) is None
    assert (
        matching_candidate(
            "\u044d\u0442\u043e \u043a\u0440\u0430\u0441\u043d\u044b\u0439",
            ["\u043a\u0440\u0430\u0441\u043d"],
        )
        is None
    )


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The man is playing a guitar.", "guitar", True),
        ("guitar", "Guitar", True),
        ("The man plays guitars.", "guitar", False),
        ("A red car drives by.", "red car", True),
        ("A red and a blue car.", "red car", False),
        ("Yes, he is.", "yes", True),
        ("No, he is not.", "no", True),
        ("I know nothing.", "no", False),
        ("Yes and no.", "no", False),
        ("There are 2 of them.", "2", True),
        ("There are 12 of them.", "2", False),
        ("", "guitar", False),
        ("guitar", "", False),
    ],
)
def test_an_answer_is_mentioned_as_whole_words_and_alone_where_it_is_yes_or_no(
    prediction, answer, expected
):
    assert mentions(prediction, answer) is expected
