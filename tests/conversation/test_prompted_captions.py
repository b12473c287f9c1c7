"""A caption that answers a prompt reads, under released templates, as the published code has it."""

from __future__ import annotations

import pytest

from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import encode
from video_llama.conversation.templates import get_template

PROMPT = "Describe this image in detail."
PUBLISHED = {
    "vicuna_v0_released": ("###Human: <Image>", f"</Image> {PROMPT} ###Assistant: ", "###"),
    "llama_2_released": (
        "[INST] <<SYS>>\n \n<</SYS>>\n\n<Image>",
        f"</Image> {PROMPT} [/INST] ",
        "</s>",
    ),
}
"""`prompt_template` and `end_sym` of the published stage-2 run files, the prompt filled in and
split at `<ImageHere>` as `prompt_wrap` does."""


def prompted(caption: str) -> Sample:
    question = Message("user", [MediaItem("image", "i"), PROMPT])
    return Sample("key", [question, Message("assistant", [caption])], form="caption")


def published_ids(tokenizer, name, caption):
    """Ids of what stands before the slots, behind them, and of the caption with its end mark."""
    before, after, end = PUBLISHED[name]
    ids = tokenizer.encode_run(caption if end == "</s>" else caption + end).ids
    return (
        [tokenizer.bos_id, *tokenizer.encode_run(before).ids],
        tokenizer.encode_run(after).ids,
        [*ids, tokenizer.eos_id] if end == "</s>" else ids,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_prompt_and_caption_are_tokenised_apart_and_the_caption_is_the_target(tokenizer, name):
    encoded = encode(
        prompted("a man is running"),
        template=get_template(name),
        tokenizer=tokenizer,
        num_slots=[3],
        max_len=200,
    )
    before, after, caption = published_ids(tokenizer, name, "a man is running")
    assert encoded.input_ids == [*before, 0, 0, 0, *after, *caption]
    assert encoded.slots == [0] * len(before) + [1] * 3 + [0] * len(after + caption)
    assert encoded.labels == [IGNORE_INDEX] * len([*before, *after, 0, 0, 0]) + caption


@pytest.mark.parametrize("name", ["vicuna_v0", "llama_2"])
def test_a_long_prompted_caption_loses_its_last_words_but_not_its_end_mark(tokenizer, name):
    settings = {"template": get_template(name), "tokenizer": tokenizer, "num_slots": [3]}
    whole = encode(prompted("a man is running in the park"), **settings, max_len=200)
    cut = encode(prompted("a man is running in the park"), **settings, max_len=len(whole) - 2)
    num_end = 1 if name.startswith("llama") else 2  # </s>, or ## and # in this vocabulary
    assert cut.input_ids == whole.input_ids[: -num_end - 2] + whole.input_ids[-num_end:]


@pytest.mark.parametrize("name", [*PUBLISHED, "vicuna_v0", "llama_2"])
def test_a_prompt_for_a_caption_does_not_end_in_a_space(tokenizer, name):
    encoded = encode(
        prompted("unused"),
        template=get_template(name),
        tokenizer=tokenizer,
        num_slots=[1],
        max_len=200,
        generation_prompt=True,
    )
    assert tokenizer.decode(encoded.input_ids)[-1] in ":]"


@pytest.mark.parametrize("name", ["vicuna_v0", "llama_2"])
def test_a_corrected_template_asks_for_captions_as_for_answers(tokenizer, name):
    caption = prompted("a dog")
    answer = Sample("key", caption.messages, form="instruct")
    settings = {"template": get_template(name), "tokenizer": tokenizer, "num_slots": [3]}
    assert encode(caption, **settings, max_len=99) == encode(answer, **settings, max_len=99)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_caption_behind_a_prompt_is_not_told_seconds(tokenizer, name):
    clip = MediaItem("video", "v", times_s=(0.0, 1.0))
    sample = prompted("a dog")
    sample.messages[0].content[0] = clip
    encoded = encode(
        sample,
        template=get_template(name, frame_times=True),
        tokenizer=tokenizer,
        num_slots=[3],
        max_len=200,
    )
    assert "seconds" not in tokenizer.decode(encoded.input_ids)
