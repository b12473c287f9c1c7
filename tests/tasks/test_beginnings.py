"""Where prompts about one clip part."""

from __future__ import annotations

from dataclasses import replace

from video_llama.common.types import IGNORE_INDEX, MediaItem
from video_llama.datasets.collate import EncodedSample, RoutedItem
from video_llama.tasks.beginnings import shared_length, split_prompts

CLIP, OTHER = (MediaItem("video", f"{name}.mp4") for name in ("a", "b"))


def a_prompt(text, *media):
    """Encode "1vv56": digits are tokens, v is a place of the one clip."""
    return EncodedSample(
        key=text,
        dataset="",
        input_ids=[0 if c == "v" else int(c) for c in text],
        labels=[IGNORE_INDEX] * len(text),
        slots=[int(c == "v") for c in text],
        media=tuple(RoutedItem(item, "video", 2) for item in media),
    )


def texts(samples):
    return [
        "".join("v" if slot else str(i) for i, slot in zip(s.input_ids, s.slots, strict=True))
        for s in samples
    ]


def test_prompts_part_behind_what_those_with_the_same_clip_begin_with():
    prompts = [a_prompt("1vv569", CLIP), a_prompt("1vv59", OTHER), a_prompt("1vv79", CLIP)]
    split = split_prompts(prompts)
    assert texts(split.beginnings) == ["1vv", "1vv"]
    assert texts(split.endings) == ["569", "59", "79"]
    assert split.rows == [0, 1, 0]
    assert [s.media[0].item.path for s in split.beginnings] == ["a.mp4", "b.mp4"]
    assert not any(s.media for s in split.endings)


def test_the_last_token_of_a_prompt_is_left_to_it():
    split = split_prompts([a_prompt("12"), a_prompt("12"), a_prompt("123")])
    assert (texts(split.beginnings), texts(split.endings)) == (["1"], ["2", "2", "23"])


def test_prompts_about_different_clips_share_nothing():
    assert split_prompts([a_prompt("1vv569", CLIP), a_prompt("1vv59", OTHER)]) is None


def test_media_behind_the_words_that_differ_are_read_with_every_prompt():
    assert split_prompts([a_prompt("15vv9", CLIP), a_prompt("16vv9", CLIP)]) is None
    assert split_prompts([a_prompt("5"), a_prompt("6")]) is None


def test_what_is_supervised_is_not_shared():
    prompt = a_prompt("1vv56")
    answered = replace(prompt, labels=[*prompt.labels[:4], 6])
    assert shared_length([prompt, prompt]) == 5
    assert shared_length([answered, answered]) == shared_length([prompt, answered]) == 4


def test_a_place_of_media_and_a_token_of_text_differ():
    assert shared_length([a_prompt("1v5"), a_prompt("105")]) == 1
