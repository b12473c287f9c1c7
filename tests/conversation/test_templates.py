from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import golden, recorded_chats

from video_llama.common.errors import MediaError, UnknownName
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.layouts import Cut, Template, Text, Word
from video_llama.conversation.rendering import Slot, render
from video_llama.conversation.templates import get_template, neutralise

CORRECTED = ["vicuna_v0", "llama_2", "billa", "ziya"]
ALL = [*CORRECTED, "vicuna_v0_released", "llama_2_released"]
SECONDS = (0.0, 1.2, 2.5, 3.8, 5.0, 6.2, 7.5, 8.8)
MARKS = ("###", "<Video>", "</Video>", "<ImageHere>", "[INST]", "<<SYS>>", "</s>")
HOSTILE = st.lists(st.sampled_from([*MARKS, "#", "##", "<", "Human: ", "x", " ", "\n"])).map(
    "".join
)


def written(sample: Sample, *, template: Template, prompt: bool = False) -> str:
    """Spell a rendered sample out as the published prompts are."""
    pieces = render(sample, template=template, generation_prompt=prompt)
    spelled = {"bos": "<s>", "eos": "</s>"}
    return "".join(
        piece.text
        if isinstance(piece, Text | Word)
        else "<ImageHere>"
        if isinstance(piece, Slot)
        else spelled[piece.name]
        for piece in pieces
        if not isinstance(piece, Cut)
    ).removeprefix("<s>")


def chat(*turns: str, media: list[MediaItem], system: str | None = None) -> Sample:
    messages = [Message("system", [system])] if system is not None else []
    for i, text in enumerate(turns):
        content: list[str | MediaItem] = [*media, text] if i == 0 else [text]
        messages.append(Message("assistant" if i % 2 else "user", content))
    return Sample("key", messages, form="chat")


@pytest.mark.parametrize("style", ["vicuna", "llama_v2"])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_released_chat_prompts_read_as_published(style: str, case: int) -> None:
    expected = golden("conv_prompts")[style]["cases"][case]
    name = {"vicuna": "vicuna_v0_released", "llama_v2": "llama_2_released"}[style]
    template = get_template(name)
    template = dataclasses.replace(template, chat=dataclasses.replace(template.chat, systems={}))
    question = "What is in the video?"
    turns = [question, "A man is running.", "Is it night?"]
    video = MediaItem("video", "v", times_s=SECONDS)
    for key, number in (("turn1", 1), ("turn2", 3)):
        sample = chat(*turns[:number], media=[video], system=expected["system"])
        assert written(sample, template=template, prompt=True) == expected[key]


@pytest.mark.parametrize("scenario", sorted(recorded_chats()))
def test_released_templates_write_the_prompts_of_recorded_chats(scenario: str) -> None:
    recorded = recorded_chats()[scenario]
    name = "vicuna_v0_released" if scenario.startswith("vicuna") else "llama_2_released"
    video = MediaItem("video", "v", times_s=(0.0, 0.4, 0.8, 1.2, 1.8, 2.2, 2.6, 3.0))
    media = {
        "image": [MediaItem("image", "i")],
        "audiovideo": [video, MediaItem("audio", "v")],
    }.get(scenario.split("_")[-1], [video])
    turns: list[str] = []
    for turn in recorded["turns"]:
        turns.append(turn["question"])
        sample = chat(*turns, media=media, system=recorded["system"])
        assert written(sample, template=get_template(name), prompt=True) == turn["prompt"]
        turns.append(turn["text"])


def test_the_released_demo_has_a_system_text_for_pictures_only() -> None:
    recorded = recorded_chats()
    template = get_template("vicuna_v0_released", frame_times=False)
    picture = chat("Hi", media=[MediaItem("image", "i")])
    video = chat("Hi", media=[MediaItem("video", "v")])
    system = recorded["vicuna_image"]["system"]
    assert written(picture, template=template).startswith(system + "###Human: <Image>")
    assert written(video, template=template).startswith("###Human: <Video>")


@pytest.mark.parametrize("name", CORRECTED)
def test_a_corrected_template_has_one_layout_and_no_differences(name: str) -> None:
    template = get_template(name)
    assert template.chat is template.instruct
    assert template.differs == ()


@pytest.mark.parametrize("name", ["vicuna_v0_released", "llama_2_released"])
def test_a_released_template_lists_its_differences_because_it_has_some(name: str) -> None:
    template = get_template(name)
    assert template.chat != template.instruct
    assert template.differs


def test_the_corrected_vicuna_prompt_for_a_video_with_sound() -> None:
    sample = Sample(
        "key",
        [
            Message("user", [MediaItem("video", "v"), MediaItem("audio", "v"), "what?"]),
            Message("assistant", ["a boat"]),
        ],
    )
    assert written(sample, template=get_template("vicuna_v0")) == (
        "###Human: <Video><ImageHere></Video><Audio><ImageHere></Audio> what?"
        "###Assistant: a boat###"
    )


def test_the_corrected_llama_2_prompt_with_a_system_text() -> None:
    sample = chat("What?", "A boat.", media=[], system="Be brief.")
    assert written(sample, template=get_template("llama_2")) == (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat? [/INST] A boat. </s>"
    )


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        # Neutralzz/BiLLa, README: "Human: [Your question]\nAssistant: ", with the space.
        ("billa", "Human: <Video><ImageHere></Video> What?\nAssistant: "),
        # The card of IDEA-CCNL/Ziya-LLaMA-13B-v1: '<human>:' + query.strip() + '\n<bot>:'
        ("ziya", "<human>:<Video><ImageHere></Video> What?\n<bot>:"),
    ],
)
def test_prompts_of_the_chinese_decoders_read_as_published(name: str, prompt: str) -> None:
    video = [MediaItem("video", "v")]
    template = get_template(name)
    assert written(chat("What?", media=video), template=template, prompt=True) == prompt
    taught = written(chat("What?", "A boat.", media=video), template=template)
    assert taught == f"{prompt}A boat.</s>"


def test_a_sample_may_keep_the_seconds_out() -> None:
    sample = chat("What?", media=[MediaItem("video", "v", times_s=(0.04, 1.26))])
    template = get_template("vicuna_v0", frame_times=True)
    assert "seconds" in written(sample, template=template)
    silent = dataclasses.replace(sample, frame_times=False)
    assert "seconds" not in written(silent, template=template)


def test_media_between_words_keep_their_place() -> None:
    content = ["Compare", MediaItem("image", "a"), "with", MediaItem("video", "b")]
    sample = Sample("key", [Message("user", content)])
    assert written(sample, template=get_template("vicuna_v0")) == (
        "###Human: Compare <Image><ImageHere></Image> with <Video><ImageHere></Video>###"
    )


def test_the_seconds_of_frames_follow_their_video() -> None:
    sample = chat("What?", media=[MediaItem("video", "v", times_s=(0.04, 1.26))])
    template = get_template("vicuna_v0", frame_times=True)
    assert "</Video> The video contains 2 frames sampled at 0.0, 1.3 seconds. What?" in written(
        sample, template=template
    )


def test_wanted_but_unknown_seconds_are_an_error_naming_the_clip() -> None:
    template = get_template("vicuna_v0", frame_times=True)
    with pytest.raises(MediaError, match=r"clip\.mp4: the seconds of its frames are unknown"):
        render(chat("What?", media=[MediaItem("video", "clip.mp4")]), template=template)


@pytest.mark.parametrize("name", [name for name in ALL if name != "billa"])
def test_a_generation_prompt_never_ends_in_white_space_unless_published(name: str) -> None:
    sample = chat("What?", media=[MediaItem("image", "i")])
    prompt = written(sample, template=get_template(name), prompt=True)
    assert prompt == prompt.rstrip()


@pytest.mark.parametrize("name", ALL)
def test_an_empty_system_text_leaves_no_trace_unless_published(name: str) -> None:
    template = get_template(name, system="")
    sample = Sample("key", [Message("user", ["What?"]), Message("assistant", ["Yes."])])
    assert ("<<SYS>>" in written(sample, template=template)) == (name == "llama_2_released")


def test_an_unknown_template_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'vicuna_v1'.*llama_2_released"):
        get_template("vicuna_v9")


@settings(deadline=None)
@given(HOSTILE)
def test_no_mark_survives(text: str) -> None:
    clean = neutralise(text, marks=MARKS)
    assert not any(mark in clean for mark in MARKS)


@settings(deadline=None)
@given(HOSTILE)
def test_making_harmless_twice_is_making_harmless_once(text: str) -> None:
    clean = neutralise(text, marks=MARKS)
    assert neutralise(clean, marks=MARKS) == clean


@settings(deadline=None)
@given(HOSTILE)
def test_making_harmless_adds_spaces_and_nothing_else(text: str) -> None:
    assert neutralise(text, marks=MARKS).replace(" ", "") == text.replace(" ", "")


@settings(deadline=None)
@given(st.text(alphabet="abc <>/[]#\n", max_size=20).filter(lambda text: "##" not in text))
def test_text_without_marks_is_left_alone(text: str) -> None:
    assert neutralise(text, marks=MARKS) == text + " " * text.endswith("#")


def test_headings_stay_readable() -> None:
    assert neutralise("### Title\n#### Sub", marks=MARKS) == "## # Title\n## ## Sub"


def test_full_width_look_alikes_count_as_the_mark() -> None:
    assert "###" not in neutralise("\uff03\uff03\uff03Human: hi", marks=MARKS)
    assert "\uff03" not in neutralise("\uff03\uff03\uff03Human: hi", marks=MARKS)


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert neutralise("a\ud83db", marks=MARKS) == "a?b"


@pytest.mark.parametrize("name", ALL)
def test_no_text_can_add_a_mark_to_a_prompt(name: str) -> None:
    template = get_template(name, frame_times=False)

    def counts(question: str, answer: str, system: str) -> list[int]:
        media = [MediaItem("video", "v")]
        messages = chat(question, answer, question, media=media, system=system)
        text = written(messages, template=template, prompt=True).replace("<ImageHere>", "\x00")
        return [text.count(mark) for mark in template.forgeable if mark != "<s>"]

    @settings(max_examples=60, deadline=None)
    @given(HOSTILE, HOSTILE, HOSTILE)
    def check(question: str, answer: str, system: str) -> None:
        # One letter each, so that no part is empty, with and without a hostile neighbour.
        hostile = counts("q" + question, "a" + answer, "s" + system)
        assert hostile == counts("q", "a", "s")

    check()
