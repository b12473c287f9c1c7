"""What is asked of held-out scenes, and which of them become clips."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict

import pytest

from video_llama.toy import held_out, plan, words
from video_llama.toy.held_out import GATED_KINDS, balance, choose_questions
from video_llama.toy.plan import Counts
from video_llama.toy.questions import Question
from video_llama.toy.scenes import sample_scene

FULL = Counts()


@functools.cache
def full_split(seed):
    """The full test split; sampling it takes seconds."""
    return plan.sample_split("test", counts=FULL, seed=seed)


@pytest.fixture(scope="module")
def held_out_split():
    return full_split(0)


def asked_when(bins):
    return [
        (str(number), Question("when", "?", time_bin, words.BINS, ("video",)))
        for number, time_bin in enumerate(bins)
    ]


def test_balancing_keeps_the_first_of_each_verdict_and_equally_many():
    asked = asked_when(["early"] * 3 + ["late"] * 2 + ["midway"] * 4 + ["late"])
    assert [key for key, _ in balance(asked)] == ["0", "1", "2", "3", "4", "5", "6", "7", "9"]
    assert [key for key, _ in balance(asked, limit=6)] == ["0", "1", "3", "4", "5", "6"]


def test_balancing_keeps_nothing_of_a_limit_beyond_the_rarest_verdict():
    asked = asked_when(["early", "late", "early", "midway", "late"])
    kept = balance(asked, limit=300)
    assert Counter(question.answer for _, question in kept) == dict.fromkeys(words.BINS, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_gated_kind_is_asked_eight_hundred_times_of_the_test_split(seed):
    asked = Counter(question.kind for _, question in full_split(seed).asked)
    assert min(asked[kind] for kind in GATED_KINDS) >= 800
    assert max(asked[kind] for kind in GATED_KINDS) <= held_out.GATED_LIMIT
    assert sum(number for kind, number in asked.items() if kind.startswith("mc_")) >= 800


def test_clips_of_the_test_split_are_those_that_are_asked_about(held_out_split):
    assert {clip.scene.key for clip in held_out_split.clips} == {
        key for key, _ in held_out_split.asked
    }
    assert len(held_out_split.clips) < FULL.test


def test_the_first_questions_of_a_kind_are_balanced_like_all_of_them(held_out_split):
    # Of 40 with 8 answers 5 have each, give or take 2.1; with 3 answers 13.3, give or take 3.
    answers = defaultdict(list)
    for _, question in held_out_split.asked:
        answers[question.kind].append(question.verdict)
    assert max(Counter(answers["sound"][:40]).values()) <= 11
    assert max(Counter(answers["count"][:40]).values()) <= 22


def test_questions_about_a_clip_stand_together_in_the_order_of_the_clips(held_out_split):
    assert list(dict.fromkeys(key for key, _ in held_out_split.asked)) == [
        clip.scene.key for clip in held_out_split.clips
    ]


def test_pages_of_the_test_split_are_full_but_for_the_last(held_out_split):
    pages = Counter(clip.page_dir for clip in held_out_split.clips)
    assert set(list(pages.values())[:-1]) == {plan.CHUNK_CLIPS}


def test_validation_clips_nobody_asks_about_are_kept_since_they_have_captions():
    valid = plan.sample_split("valid", counts=Counts(valid=1200), seed=0)
    assert len(valid.clips) == 1200
    assert len({key for key, _ in valid.asked}) < 1200


def test_nothing_is_asked_of_training_clips_here():
    assert plan.sample_split("train", counts=Counts(train=3), seed=0).asked == ()


def test_choosing_again_among_the_scenes_asked_about_changes_nothing():
    scenes = [sample_scene(index, seed=5, split="test", mix=plan.TEST_MIX) for index in range(400)]
    asked = choose_questions(scenes)
    keys = {key for key, _ in asked}
    assert len(keys) < len(scenes)
    assert choose_questions([scene for scene in scenes if scene.key in keys]) == asked
