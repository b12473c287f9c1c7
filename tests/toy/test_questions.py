"""Questions, captions and facts of toy scenes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.toy import captions, questions
from video_llama.toy.questions import ask, question_forms
from video_llama.toy.scenes import Event, Scene, Sound, Thing, sample_scene


def thing(shape, colour, motion):
    return Thing(shape, colour, motion, 32.0, 32.0, 8.0, 0.0)


def scene(kind, *things, event=None, sound=None):
    return Scene("key", kind, "test", 0, things, event, sound or Sound("silence"), 0)


RED_CIRCLE = thing("circle", "red", "left")
BLUE_STAR = thing("star", "blue", "up")
PAIR = scene("pair", BLUE_STAR, RED_CIRCLE)
ORDER = scene("order", BLUE_STAR, RED_CIRCLE)
CHANGE = scene(
    "change",
    thing("square", "green", "still"),
    event=Event("colour_change", "midway", 0.9, "white"),
    sound=Sound("pip", "low", 300.0, "late", 1.4),
)
BOUNCE = scene("bounce", RED_CIRCLE, event=Event("bounce", "early", 0.3))


def answers(of, kind):
    return {form.question.answer for forms in question_forms(of, kind=kind) for form in forms}


@pytest.mark.parametrize(
    ("of", "kind", "expected"),
    [
        (CHANGE, "first_colour", {"green"}),
        (CHANGE, "last_colour", {"white"}),
        (CHANGE, "when", {"midway"}),
        (CHANGE, "in_time", {"midway late: no"}),
        (CHANGE, "pitch", {"low"}),
        (CHANGE, "sound", {"pip"}),
        (BOUNCE, "first_direction", {"left"}),
        (BOUNCE, "last_direction", {"right"}),
        (ORDER, "who_first", {"star"}),
        (PAIR, "pair_motion", {"left", "up"}),
        (PAIR, "count", {"two"}),
        (scene("empty"), "count", {"none"}),
    ],
)
def test_answers_say_what_the_scene_holds(of, kind, expected):
    assert answers(of, kind) == expected


def test_a_question_about_one_of_two_things_names_the_other_attribute():
    asked = {
        form.question.question: form.question.answer
        for forms in question_forms(PAIR, kind="pair_colour")
        for form in forms
    }
    assert asked["What colour is the circle?"] == "red"
    assert asked["What colour is the star?"] == "blue"


def test_yes_and_no_are_equally_likely_and_follow_the_evidence():
    (forms,) = question_forms(CHANGE, kind="yn_first")
    shares = Counter()
    for form in forms:
        shares[form.question.answer] += form.probability
    assert shares == {"green: yes": pytest.approx(0.5), "green: no": pytest.approx(0.5)}


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10**6), kind=st.sampled_from(questions.KINDS))
def test_the_forms_of_a_question_have_probabilities_that_add_up_to_one(index, kind):
    for forms in question_forms(sample_scene(index, seed=0, split="valid"), kind=kind):
        assert sum(form.probability for form in forms) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10**6))
def test_every_verdict_is_among_the_candidates(index):
    for question in ask(sample_scene(index, seed=0, split="valid")):
        assert question.verdict in question.candidates


def test_equal_scenes_are_asked_equally():
    drawn = sample_scene(5, seed=0, split="test")
    assert ask(drawn) == ask(sample_scene(5, seed=0, split="test"))


def test_sound_is_needed_exactly_where_the_question_is_about_it():
    needs = {question.kind: question.needs for question in ask(CHANGE)}
    assert needs["when"] == ("video",)
    assert needs["pip_when"] == ("audio",)
    assert needs["in_time"] == ("video", "audio")


@pytest.mark.parametrize(
    ("reply", "right"),
    [("midway late: no", True), ("No.", True), ("early early: yes", False), ("", False)],
)
def test_a_comparison_is_scored_by_its_verdict(reply, right):
    (forms,) = question_forms(CHANGE, kind="in_time")
    assert questions.is_correct(forms[0].question, reply=reply) is right


def test_four_options_hold_the_answer_once():
    (forms,) = question_forms(CHANGE, kind="first_colour")
    choice = questions.multiple_choice(forms[0].question, rng=random.Random(0))
    assert choice.kind == "mc_first_colour"
    assert len(set(choice.candidates)) == 4
    assert "green" in choice.candidates


def test_a_lettered_answer_names_the_option_and_then_its_letter():
    (forms,) = question_forms(CHANGE, kind="first_colour")
    choice = questions.letter_choice(forms[0].question, rng=random.Random(0))
    assert f"({choice.verdict}) green" in choice.question
    assert choice.answer.startswith("green: ")


@pytest.mark.parametrize(
    ("of", "caption"),
    [
        (scene("empty"), "Nothing to see. Silence."),
        (scene("single", RED_CIRCLE), "A red circle moves left. Silence."),
        (PAIR, "A red circle moves left and a blue star moves up. Silence."),
        (ORDER, "A red circle moves left second and a blue star moves up first. Silence."),
        (CHANGE, "A square turns from green to white midway. A low pip late."),
        (BOUNCE, "A red circle moves left then right, bounce early. Silence."),
    ],
)
def test_captions_are_canonical(of, caption):
    assert captions.joint_caption(of) == caption


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 99))
def test_facts_hold_every_word_a_question_may_ask_for(index, seed):
    drawn = sample_scene(index, seed=0, split="valid")
    rng = random.Random(seed)
    told = captions.visual_facts(drawn, rng=rng) + " " + captions.sound_facts(drawn, rng=rng)
    told = told.lower()
    for each in drawn.things:
        assert each.shape in told
        assert each.colour in told
        assert drawn.kind == "change" or each.motion in told
    if drawn.event is not None:
        assert drawn.event.bin in told
    assert drawn.sound.kind in told
    assert (drawn.sound.pip_bin or "") in told
