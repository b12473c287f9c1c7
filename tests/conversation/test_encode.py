from __future__ import annotations

import dataclasses
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import golden, recorded_chats

from video_llama.common.errors import ConfigError, ContextOverflow, NothingToLearn
from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import Encoded, encode
from video_llama.conversation.templates import get_template, neutralise
from video_llama.conversation.tokenizer import Tokenizer

CORRECTED = ["vicuna_v0", "llama_2"]
SECONDS = (0.0, 1.2, 2.5, 3.8, 5.0, 6.2, 7.5, 8.8)
LONG = 10_000
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20)
KINDS = st.lists(st.sampled_from(["image", "video", "audio"]), max_size=4)


def conversation(*turns: str, media: list[MediaItem] | None = None) -> Sample:
    messages = [
        Message("assistant" if i % 2 else "user", [*(media or []), text] if i == 0 else [text])
        for i, text in enumerate(turns)
    ]
    return Sample("key", messages)


def supervised(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE_INDEX]


def published_video_case(name: str) -> tuple[Sample, dict]:
    case = golden("preprocess")[name]
    video = MediaItem("video", "v", times_s=SECONDS)
    # The published reader puts one space between the seconds (or the mark) and the question.
    turns = [text for qa in case["conv"] for text in (qa["q"], qa["a"])]
    sample = conversation(" " + turns[0], *turns[1:], media=[video])
    return sample, case


def published_image_case(name: str) -> tuple[Sample, dict]:
    case = golden("preprocess")[name]
    messages = []
    for turn in case["conv"]:
        content: list[str | MediaItem] = []
        for i, text in enumerate(turn["value"].split("<image>")):
            content += [MediaItem("image", "i")] if i else []
            content += [text] if text else []
        messages.append(Message("user" if turn["from"] == "human" else "assistant", content))
    return Sample("key", messages), case


# Left out, because one function makes marks in a data set's text harmless here too: answers that
# hold a mark of their own template; and a role nobody knows, which the readers refuse.
FORGED = [("hash_in_answer", "vicuna"), ("inst_in_answer", "llama_v2"), ("eos_in_answer", "")]
PUBLISHED = [
    name
    for name in golden("preprocess")
    if not any(case in name and name.endswith(style) for case, style in FORGED)
    and "unknown_role" not in name
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_templates_give_the_published_ids_and_labels(
    tokenizer: Tokenizer, name: str
) -> None:
    sample, case = (published_video_case if "video" in name else published_image_case)(name)
    template = get_template(
        "vicuna_v0_released" if name.endswith("vicuna") else "llama_2_released",
        frame_times="|msg|" in name,
    )
    num_slots = [case["num_query_token"]] * len(sample.media)
    encoded = encode(
        sample, template=template, tokenizer=tokenizer, num_slots=num_slots, max_len=LONG
    )
    # 1000 is the published placeholder id; texts beyond 512 tokens were cut there.
    ids = [1000 if slot else i for i, slot in zip(encoded.input_ids, encoded.slots, strict=True)]
    assert ids[:512] == case["input_ids"]
    assert encoded.labels[:512] == case["labels"]


def test_all_published_cases_but_the_forged_ones_are_compared() -> None:
    # 11 conversations x 2 x 2 and 6 x 2, less 2 + 2 + 4 forged ones and 2 of an unknown role.
    assert len(PUBLISHED) == 11 * 4 + 6 * 2 - 8 - 2


@pytest.mark.parametrize("scenario", sorted(recorded_chats()))
def test_a_chat_prompt_is_cut_into_the_recorded_runs(tokenizer: Tokenizer, scenario: str) -> None:
    recorded = recorded_chats()[scenario]
    name = "vicuna_v0_released" if scenario.startswith("vicuna") else "llama_2_released"
    video = MediaItem("video", "v", times_s=(0.0, 0.4, 0.8, 1.2, 1.8, 2.2, 2.6, 3.0))
    kind = scenario.split("_")[-1]
    media = {"image": [MediaItem("image", "i")], "audiovideo": [MediaItem("audio", "v"), video]}
    items = media.get(kind, [video])
    turn = recorded["turns"][0]
    sample = conversation(turn["question"], media=items)
    sample.messages.insert(0, Message("system", [recorded["system"]]))
    encoded = encode(
        dataclasses.replace(sample, form="chat"),
        template=get_template(name),
        tokenizer=tokenizer,
        num_slots=[1] * len(items),
        max_len=LONG,
        generation_prompt=True,
    )
    segments: list[list[int]] = [[]]
    for token_id, slot in zip(encoded.input_ids, encoded.slots, strict=True):
        if slot:
            segments.append([])
        else:
            segments[-1].append(token_id)
    assert segments == turn["segment_ids"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v0_released", "a boat\n### no\n###"),
        ("llama_2_released", "a boat  no "),
    ],
)
def test_corrected_labels_of_a_released_text_are_the_answers_alone(
    tokenizer: Tokenizer, name: str, expected: str
) -> None:
    sample = conversation("what?", "a boat", "sure?", "no")
    released, corrected = (
        encode(
            sample,
            template=get_template(name, compat=compat),
            tokenizer=tokenizer,
            num_slots=[],
            max_len=LONG,
        )
        for compat in ("released", "corrected")
    )
    assert corrected.input_ids == released.input_ids
    assert tokenizer.decode(supervised(corrected)) == expected


@pytest.mark.parametrize(("compat", "last"), [("released", " a"), ("corrected", "\n")])
def test_a_long_caption_keeps_its_end_unless_compat_is_released(
    tokenizer: Tokenizer, compat: str, last: str
) -> None:
    sample = Sample("key", [Message("assistant", ["a a a a a a a"])], form="caption")
    template = get_template("vicuna_v0_released", compat=compat)
    encoded = encode(sample, template=template, tokenizer=tokenizer, num_slots=[], max_len=5)
    assert len(encoded) == 5
    assert encoded.labels[-1] == tokenizer.encode_run(f"a{last}").ids[-1]


@pytest.mark.parametrize("vocabulary", ["tokenizer", "fast_tokenizer"])
@pytest.mark.parametrize("name", CORRECTED)
def test_labels_decode_exactly_to_the_answers(
    name: str, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(vocabulary)
    template = get_template(name)
    end = {"vicuna_v0": "###", "llama_2": " "}[name]
    marks = (*template.forgeable, *tokenizer.special_texts)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), KINDS)
    def check(rounds: list[tuple[str, str]], kinds: list[str]) -> None:
        media = [MediaItem(kind, "m") for kind in kinds]
        sample = conversation(*(text for pair in rounds for text in pair), media=media)
        encoded = encode(
            sample,
            template=template,
            tokenizer=tokenizer,
            num_slots=[2] * len(kinds),
            max_len=LONG,
        )
        answers = [" " + neutralise(answer, marks=marks) + end for _, answer in rounds]
        # Decoding a SentencePiece vocabulary takes one leading space away.
        assert tokenizer.decode(supervised(encoded)).lstrip(" ") == "".join(answers).lstrip(" ")

    check()


@pytest.mark.parametrize("vocabulary", ["tokenizer", "fast_tokenizer"])
@pytest.mark.parametrize("name", CORRECTED)
def test_a_chat_prompt_is_the_beginning_of_the_training_text(
    name: str, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(vocabulary)
    template = get_template(name)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(WORDS, min_size=2, max_size=6), KINDS)
    def check(turns: list[str], kinds: list[str]) -> None:
        turns = turns[: len(turns) // 2 * 2]
        sample = conversation(*turns, media=[MediaItem(kind, "m") for kind in kinds])

        def encoded(sample: Sample, *, prompt: bool) -> Encoded:
            return encode(
                sample,
                template=template,
                tokenizer=tokenizer,
                num_slots=[3] * len(kinds),
                max_len=LONG,
                generation_prompt=prompt,
            )

        whole = encoded(sample, prompt=False)
        for asked in range(1, len(turns), 2):
            messages = sample.messages[:asked]
            prompt = encoded(Sample("key", messages, form="chat"), prompt=True)
            assert prompt.input_ids == whole.input_ids[: len(prompt)]
            assert prompt.slots == whole.slots[: len(prompt)]

    check()


def test_the_documented_example_reads_as_documented(tokenizer: Tokenizer) -> None:
    sample = conversation("what is it?", "a boat.", media=[MediaItem("video", "v")])
    encoded = encode(
        sample, template=get_template("vicuna_v0"), tokenizer=tokenizer, num_slots=[2], max_len=LONG
    )
    opening = [1, *tokenizer.encode_run("###Human: <Video>").ids]
    rest = tokenizer.encode_run("</Video> what is it?###Assistant: a boat.###").ids
    assert encoded.input_ids == [*opening, 0, 0, *rest]
    assert encoded.slots == [0] * len(opening) + [1, 1] + [0] * len(rest)


def test_a_caption_is_supervised_whole_and_nothing_else(tokenizer: Tokenizer) -> None:
    items = [MediaItem("video", "v"), MediaItem("audio", "v")]
    sample = Sample("key", [Message("assistant", [*items, "a red car"])], form="caption")
    encoded = encode(
        sample,
        template=get_template("vicuna_v0"),
        tokenizer=tokenizer,
        num_slots=[2, 1],
        max_len=LONG,
    )
    caption = tokenizer.encode_run("a red car###").ids
    assert encoded.input_ids == [1, 0, 0, 0, *caption]
    assert encoded.slots == [0, 1, 1, 2] + [0] * len(caption)
    assert encoded.labels == [IGNORE_INDEX] * 4 + caption


def test_media_of_later_turns_are_numbered_on(tokenizer: Tokenizer) -> None:
    sample = Sample(
        "key",
        [
            Message("user", [MediaItem("image", "a"), "one?"]),
            Message("assistant", ["yes"]),
            Message("user", ["two", MediaItem("audio", "b")]),
            Message("assistant", ["no"]),
        ],
    )
    encoded = encode(
        sample,
        template=get_template("llama_2"),
        tokenizer=tokenizer,
        num_slots=[2, 3],
        max_len=LONG,
    )
    assert [slot for slot in encoded.slots if slot] == [1, 1, 2, 2, 2]


def test_a_vocabulary_without_bos_opens_with_text(fast_tokenizer: Tokenizer) -> None:
    encoded = encode(
        conversation("hi", "ho"),
        template=get_template("vicuna_v0"),
        tokenizer=fast_tokenizer,
        num_slots=[],
        max_len=LONG,
    )
    text = "###Human: hi###Assistant: ho###"
    assert encoded.input_ids == fast_tokenizer.encode_run(text).ids


def test_a_generation_prompt_leaves_the_reference_answer_out(tokenizer: Tokenizer) -> None:
    def prompt(*turns: str) -> list[int]:
        return encode(
            conversation(*turns),
            template=get_template("vicuna_v0"),
            tokenizer=tokenizer,
            num_slots=[],
            max_len=LONG,
            generation_prompt=True,
        ).input_ids

    assert prompt("what?", "a boat") == prompt("what?")


class TestOverflow:
    ROUNDS = ("first?", "one two", "second?", "three four", "third?", "five six")

    def encoded(
        self, tokenizer: Tokenizer, sample: Sample, max_len: int, *, prompt: bool = False
    ) -> Encoded:
        return encode(
            sample,
            template=get_template("vicuna_v0"),
            tokenizer=tokenizer,
            num_slots=[4] * len(sample.media),
            max_len=max_len,
            generation_prompt=prompt,
        )

    def test_training_text_loses_whole_rounds_at_the_end(self, tokenizer: Tokenizer) -> None:
        video = [MediaItem("video", "v")]
        whole = conversation(*self.ROUNDS, media=video)
        two = self.encoded(tokenizer, conversation(*self.ROUNDS[:4], media=video), LONG)
        cut = self.encoded(tokenizer, whole, len(two))
        assert (cut.input_ids, cut.labels, cut.slots) == (two.input_ids, two.labels, two.slots)
        assert cut.dropped_rounds == 1

    def test_a_prompt_loses_its_oldest_rounds_but_not_their_media(
        self, tokenizer: Tokenizer
    ) -> None:
        video = [MediaItem("video", "v")]
        whole = conversation(*self.ROUNDS[:5], media=video)
        short = self.encoded(
            tokenizer, conversation(*self.ROUNDS[2:5], media=video), LONG, prompt=True
        )
        cut = self.encoded(tokenizer, whole, len(short), prompt=True)
        assert (cut.input_ids, cut.slots) == (short.input_ids, short.slots)
        assert cut.dropped_rounds == 1

    def test_a_round_with_media_is_not_dropped_from_training(self, tokenizer: Tokenizer) -> None:
        sample = conversation(*self.ROUNDS[:4])
        sample.messages[2].content.insert(0, MediaItem("image", "i"))
        with pytest.raises(ContextOverflow):
            self.encoded(tokenizer, sample, 12)

    def test_one_round_that_does_not_fit_is_an_error_with_numbers(
        self, tokenizer: Tokenizer
    ) -> None:
        sample = conversation("why?", "because", media=[MediaItem("video", "v")])
        needed = len(self.encoded(tokenizer, sample, LONG))
        text = rf"key: {needed} positions \(4 for media, {needed - 4} for text\), but there are 9"
        with pytest.raises(ContextOverflow, match=text):
            self.encoded(tokenizer, sample, 9)

    def test_dropping_can_be_forbidden(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(ContextOverflow):
            encode(
                conversation(*self.ROUNDS),
                template=get_template("vicuna_v0"),
                tokenizer=tokenizer,
                num_slots=[],
                max_len=40,
                overflow="raise",
            )


@pytest.mark.parametrize("name", ["vicuna_v0", "llama_2"])
def test_a_long_caption_loses_its_last_words_but_not_its_end_mark(
    tokenizer: Tokenizer, name: str
) -> None:
    item = MediaItem("video", "clip.mp4")
    words = Sample("key", [Message("assistant", [item, "a red car and a boat"])], form="caption")
    settings = {"template": get_template(name), "tokenizer": tokenizer, "num_slots": [2]}
    whole = encode(words, **settings, max_len=100)
    num_end = (
        1
        if name == "llama_2"
        else len(tokenizer.encode_run("x###").ids) - len(tokenizer.encode_run("x").ids)
    )
    cut = encode(words, **settings, max_len=len(whole) - 3)
    assert cut.input_ids == whole.input_ids[: -num_end - 3] + whole.input_ids[-num_end:]
    assert cut.labels == whole.labels[: -num_end - 3] + whole.labels[-num_end:]
    assert len(cut.slots) == len(cut.input_ids)


@pytest.mark.parametrize("num_missing", [0, 3])
def test_a_caption_is_tokenised_once_whether_it_is_cut_or_not(
    tokenizer: Tokenizer, num_missing: int
) -> None:
    item = MediaItem("video", "clip.mp4")
    words = Sample("key", [Message("assistant", [item, "a red car and a boat"])], form="caption")
    settings = {"template": get_template("vicuna_v0"), "num_slots": [2]}
    whole = encode(words, **settings, tokenizer=tokenizer, max_len=100)
    engine = Mock(wraps=tokenizer.engine)
    counting = dataclasses.replace(tokenizer, engine=engine)
    engine.scanned = tokenizer.engine.scanned
    encode(words, **settings, tokenizer=counting, max_len=len(whole) - num_missing)
    assert engine.encode.call_count == 1


def test_a_caption_with_no_room_for_a_single_word_is_refused(tokenizer: Tokenizer) -> None:
    item = MediaItem("video", "clip.mp4")
    sample = Sample("key", [Message("assistant", [item, "a boat"])], form="caption")
    with pytest.raises(ContextOverflow, match="for media"):
        encode(
            sample,
            template=get_template("vicuna_v0"),
            tokenizer=tokenizer,
            num_slots=[8],
            max_len=10,
        )


def test_a_caption_with_two_questions_is_refused(tokenizer: Tokenizer) -> None:
    sample = dataclasses.replace(conversation("what?", "a boat", "why?"), form="caption")
    with pytest.raises(ConfigError, match="one assistant message"):
        encode(
            sample,
            template=get_template("vicuna_v0"),
            tokenizer=tokenizer,
            num_slots=[],
            max_len=LONG,
        )


def test_media_in_an_answer_are_refused(tokenizer: Tokenizer) -> None:
    sample = conversation("what?", "a boat")
    sample.messages[1].content.insert(0, MediaItem("image", "i"))
    with pytest.raises(ConfigError, match="only questions can hold media"):
        encode(
            sample,
            template=get_template("vicuna_v0"),
            tokenizer=tokenizer,
            num_slots=[1],
            max_len=LONG,
        )


def unlearnable(*texts: str, form: str = "instruct") -> Sample:
    sample = conversation(*texts)
    return dataclasses.replace(sample, key="clip 7", form=form)


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (unlearnable("what?"), "vicuna_v0"),
        # A published quirk leaves answers without words out.
        (unlearnable("what?", "", "why?", ""), "llama_2_released"),
    ],
)
def test_a_sample_without_a_target_is_named_and_not_trained_on(
    sample: Sample, name: str, tokenizer: Tokenizer
) -> None:
    settings = {"template": get_template(name, frame_times=False), "tokenizer": tokenizer}
    with pytest.raises(NothingToLearn, match=r"clip 7: none of its \d+ positions .*user.*" + name):
        encode(sample, **settings, num_slots=[], max_len=LONG)


def test_a_first_token_that_nothing_predicts_is_no_target(fast_tokenizer: Tokenizer) -> None:
    # Without an opening token and without media a caption of one token stands alone.
    sample = Sample("clip 7", [Message("assistant", [""])], form="caption")
    with pytest.raises(NothingToLearn, match="none of its 1 positions"):
        encode(
            sample,
            template=get_template("vicuna_v1"),
            tokenizer=fast_tokenizer,
            num_slots=[],
            max_len=LONG,
        )


def test_a_prompt_needs_no_target(tokenizer: Tokenizer) -> None:
    found = encode(
        unlearnable("what?"),
        template=get_template("vicuna_v0"),
        tokenizer=tokenizer,
        num_slots=[],
        max_len=LONG,
        generation_prompt=True,
    )
    assert set(found.labels) == {IGNORE_INDEX}
