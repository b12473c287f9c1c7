"""The text corpus and its drills."""

from __future__ import annotations

import random

import pytest

from video_llama.toy import corpus, drills
from video_llama.toy.scenes import sample_scene


def test_equal_seeds_give_an_equal_corpus():
    scene = sample_scene(3, seed=0, split="train")
    first, second = (corpus.scene_sample(scene, rng=random.Random(7)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("seed", range(30))
def test_a_look_up_has_its_pair_in_the_list(seed):
    drill = drills.recall_list(rng=random.Random(seed))
    pairs = [set(pair.split()) for pair in drill.media[0][1].split(" ; ")]
    for turn in drill.turns:
        assert {turn.question, turn.answer} in pairs


@pytest.mark.parametrize("seed", range(30))
def test_a_thing_drill_answers_from_its_facts(seed):
    drill = drills.thing_drill(rng=random.Random(seed), num_turns=4)
    facts = drill.media[0][1]
    for turn in drill.turns:
        assert turn.answer in facts.replace(",", " ").split()


@pytest.mark.parametrize("seed", range(30))
def test_a_change_drill_answers_what_comes_first_and_what_last(seed):
    drill = drills.change_drill(rng=random.Random(seed), num_turns=4)
    facts = drill.media[0][1].split()
    for turn in drill.turns:
        assert turn.answer in facts
        position = facts.index(turn.answer)
        before = facts[position - 1] if position else ""
        after = facts[position + 1] if position + 1 < len(facts) else ""
        if "first" in turn.question:
            assert before == "from" or after == "then"
        else:
            assert before in ("to", "then")


@pytest.mark.parametrize("seed", range(30))
def test_a_same_drill_says_yes_only_of_equal_words(seed):
    drill = drills.same_drill(rng=random.Random(seed), num_turns=4)
    for turn in drill.turns:
        evidence, verdict = turn.answer.split(": ")
        if " " in evidence:
            seen, heard = evidence.split()
            assert (verdict == "yes") == (seen == heard)
        else:
            assert (verdict == "yes") == (evidence in turn.question.replace("?", " ").split())


def test_questions_are_only_asked_about_media_that_are_there():
    rng = random.Random(0)
    for index in range(200):
        sample = corpus.scene_sample(sample_scene(index, seed=0, split="train"), rng=rng)
        kinds = {kind for kind, _ in sample.media}
        for turn in sample.turns:
            if "pip" in turn.question or "hear" in turn.question:
                assert "audio" in kinds
            if "colour" in turn.question or "shape" in turn.question:
                assert "video" in kinds
