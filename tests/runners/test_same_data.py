"""Two ledgers side by side: what must be equal, what may differ, and what is said of it."""

from __future__ import annotations

import pytest
from ledger_files import a_sample, a_step, two_steps, write_ledger

from video_llama.runners.ledger import read_entries
from video_llama.runners.same_data import compare_ledgers


def compare(tmp_path, first, second):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, entries in zip(folders, (first, second), strict=True):
        write_ledger(folder, entries)
    return compare_ledgers(*folders)


def test_all_entries_come_back_in_the_order_of_their_steps(tmp_path):
    entries = two_steps()
    write_ledger(tmp_path, [entries[1], entries[0], entries[1]])
    assert list(read_entries(tmp_path)) == entries


def test_equal_ledgers_prove_the_same_data(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(loss=9.0))
    assert found.is_same
    assert (found.num_steps, found.num_samples, found.frames) == (2, 4, "")
    assert found.notes == ()


def test_another_sample_is_named_with_its_step_and_place(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(key="x"))
    assert not found.is_same
    assert found.problem == "step 2, position 3: 'd' and 'x'"
    assert found.num_steps == 1


def test_a_sample_in_the_place_of_a_broken_one_is_named_with_the_reason(tmp_path):
    filled = two_steps(key="x", filled_for=(("d", "no video stream"),))
    found = compare(tmp_path, two_steps(), filled)
    assert found.problem == "step 2, position 3: 'd' and 'x' in place of 'd' (no video stream)"


def test_places_filled_alike_are_the_same_data_and_counted(tmp_path):
    # Each run words the reason as its own reader does.
    one = two_steps(filled_for=(("x", "no video stream"),))
    other = two_steps(filled_for=(("x", "broken"),))
    found = compare(tmp_path, one, other)
    assert found.is_same
    assert found.num_filled == 1


def test_other_frames_of_the_same_clips_are_told_and_may_be(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(times_s=(0.0, 0.25, 0.5, 0.75)))
    assert found.is_same
    assert found.frames == (
        "first at step 2, position 3, 'd': 2 at 0, 0.5 s and 4 at 0, 0.25, 0.5, 0.75 s"
    )


def test_cached_features_do_not_tell_their_frames(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(times_s=(), is_cached=True))
    assert found.is_same
    assert found.frames == ""


def test_another_part_of_the_same_file_is_other_data(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(span_s=(1.0, 2.5)))
    assert (
        found.problem
        == "step 2, position 3, 'd': media video d.mp4 and video d.mp4 from 1 s to 2.5 s"
    )


def test_the_same_files_in_another_folder_are_the_same_data(tmp_path):
    found = compare(tmp_path, two_steps(), two_steps(folder="elsewhere"))
    assert found.is_same
    assert found.notes == ("media lie in other folders",)


def test_a_step_may_be_divided_among_processes_in_any_order(tmp_path):
    first = [a_step(1, a_sample("a", 0), a_sample("b", 1))]
    second = [a_step(1, a_sample("b", 1), a_sample("a", 0), num_ranks=2)]
    found = compare(tmp_path, first, second)
    assert found.is_same
    assert found.notes == ("steps were divided into 1 x 1 and 2 x 1 (processes x iterations)",)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (two_steps()[:1], "the first has more steps than the 1 that both have"),
        ([a_step(1, a_sample("a", 0))], "step 1: 2 samples and 1"),
        (
            [a_step(1, a_sample("a", 0), a_sample("b", 1), dataset="llava")],
            "step 1: drawn from 'webvid' and from 'llava'",
        ),
        (
            [a_step(1, a_sample("b", 0), a_sample("a", 1))],
            "step 1, position 0: 'a' and 'b'",
        ),
        (
            [*two_steps(), a_step(3, a_sample("e", 4))],
            "the second has more steps than the 2 that both have",
        ),
        (two_steps()[1:], "the ledgers go on with steps 1 and 2 after 0"),
    ],
)
def test_other_steps_are_told(tmp_path, second, problem):
    assert compare(tmp_path, two_steps(), second).problem == problem


def test_without_a_ledger_nothing_is_proved(tmp_path):
    write_ledger(tmp_path / "first", two_steps())
    found = compare_ledgers(tmp_path / "first", tmp_path / "second")
    assert not found.is_same
    assert not found.is_known
    assert "the second has no ledger" in found.problem
    assert "neither has a ledger" in compare_ledgers(tmp_path, tmp_path).problem
