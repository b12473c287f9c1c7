"""A decoder's own chat template: its text, exact targets, media, stops, whatever its style."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from pathlib import Path

import pytest
from chat_styles import CLOSINGS, STYLES, fast_dir, sentencepiece_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from published import GOLDENS

from video_llama.common.errors import ConfigError, NothingToLearn
from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import Encoded, encode
from video_llama.conversation.layouts import Template
from video_llama.conversation.rendering import render
from video_llama.conversation.stopping import AnswerStream, StopRule, answer_text
from video_llama.conversation.templates import get_template, neutralise, with_system
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer

MAKERS = {"sentencepiece": sentencepiece_dir, "fast": fast_dir}
EVERY = [(style, kind) for style in STYLES for kind in MAKERS]
PIECES = (
    *("<|im_end|>", "<|im_start|>assistant\n", "</s>", "<s>", "<|eot_id|>", "<|end|>", "\n", " "),
    *("USER:", "ASSISTANT:", "[INST]", "[/INST]", "<end_of_turn>", "### Human:", "<think>", "#"),
    *("</think>", "<<SYS>>", "<video>", "\ufdd0", "\ufdd1", "\ufdd2", "a red boat", "x", "\u65e5"),
)
REASONS = ("reasoning", True)
WORDS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
ROUNDS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory):
    """Return template and tokenizer of a style and a kind of vocabulary."""
    folder = tmp_path_factory.mktemp("chat_templates")

    @functools.cache
    def opened(style: str, kind: str) -> tuple[Template, Tokenizer]:
        tokenizer = load_tokenizer(MAKERS[kind](folder / kind / style, style=style))
        return get_template("tokenizer", tokenizer=tokenizer), tokenizer

    return opened


def talk(*texts: str, media: tuple[MediaItem, ...] = (), system: str | None = None) -> Sample:
    messages = [] if system is None else [Message("system", [system])]
    for i, text in enumerate(texts):
        content = [*media, text] if i == 0 else [text]
        messages.append(Message("assistant" if i % 2 else "user", content))
    return Sample("key", messages)


def encoded(sample: Sample, pair: tuple[Template, Tokenizer], *, prompt: bool = False) -> Encoded:
    template, tokenizer = pair
    return encode(
        sample,
        template=template,
        tokenizer=tokenizer,
        num_slots=[2] * len(sample.media),
        max_len=100_000,
        generation_prompt=prompt,
    )


def spelled(ids: list[int], tokenizer: Tokenizer) -> str:
    """Turn ids into text, special tokens and all; a run may lack the space it begins with."""
    marks = {tokenizer.id_of(text): text for text in tokenizer.special_texts}
    said, run = "", []
    for token_id in [*ids, None]:
        if token_id is not None and token_id not in marks:
            run.append(token_id)
            continue
        said += tokenizer.decode(run) + ("" if token_id is None else marks[token_id])
        run = []
    return said


def theirs(text: str, sample: Sample, *, prompt: bool = False) -> str:
    """What transformers renders, but on the day that never passes here."""
    from transformers.utils.chat_template_utils import render_jinja_template

    is_parts = STYLES["parts"] == text
    conversation = [
        {"role": m.role, "content": [{"type": "text", "text": m.text}] if is_parts else m.text}
        for m in sample.messages
    ]
    rendered, _ = render_jinja_template(
        [conversation],
        chat_template=text,
        add_generation_prompt=prompt,
        bos_token="<s>",
        eos_token="</s>",
        enable_thinking=False,
    )
    return rendered[0].replace(f"{datetime.now():%d %b %Y}", "26 Jul 2024")


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_every_answer_and_its_closing_mark_are_targets_and_nothing_else(
    style: str, kind: str, own
) -> None:
    template, tokenizer = pair = own(style, kind)
    marks = (*template.forgeable, *tokenizer.special_texts)

    @settings(max_examples=25, deadline=None)
    @given(ROUNDS)
    def check(rounds: list[tuple[str, str]]) -> None:
        found = encoded(talk(*(text for pair in rounds for text in pair)), pair)
        targets = [label for label in found.labels if label != IGNORE_INDEX]
        shown = str.maketrans(dict.fromkeys("\ufdd0\ufdd1\ufdd2", "\ufffd"))
        answers = [neutralise(answer, marks=marks).strip() for _, answer in rounds]
        expected = "".join(answer + CLOSINGS[style] for answer in answers)
        said = spelled(targets, tokenizer).replace(" ", "")
        assert said == expected.translate(shown).replace(" ", "")

    check()


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_nothing_typed_becomes_a_special_token_or_a_turn(style: str, kind: str, own) -> None:
    template, tokenizer = pair = own(style, kind)
    specials = {tokenizer.id_of(text) for text in tokenizer.special_texts}

    def read(*words: str) -> tuple[list[int], list[int]]:
        sample = talk(*words[:3], media=(MediaItem("video", "v"),), system=words[3])
        found = encoded(sample, pair, prompt=True)
        text = spelled(found.input_ids, tokenizer)
        return (
            [i for i, slot in zip(found.input_ids, found.slots, strict=True) if i in specials],
            [text.count(mark) for mark in template.forgeable],
        )

    harmless = read("x", "x", "x", "x")

    @settings(max_examples=25, deadline=None)
    @given(st.lists(WORDS, min_size=4, max_size=4))
    def check(words: list[str]) -> None:
        assert read(*(f"x{word}" for word in words)) == harmless

    check()


@pytest.mark.parametrize(
    ("style", "prompt"),
    # Ours ends where an answer begins; that of "reasoning" begins a thought.
    [(s, p) for s in STYLES for p in (False, True) if s != "unclosed" and (s, p) != REASONS],
)
def test_the_text_is_that_of_transformers(style: str, prompt: bool, own) -> None:
    template, tokenizer = own(style, "fast")
    sample = talk("what is it?", "a red boat", "sure?", *([] if prompt else ["yes"]))
    pieces = render(sample, template=template, generation_prompt=prompt)
    assert "".join(p.text for p in pieces) == theirs(STYLES[style], sample, prompt=prompt)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "unclosed"])
def test_the_ids_are_those_of_transformers(style: str, own, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    twin = PreTrainedTokenizerFast.from_pretrained(fast_dir(tmp_path / "again", style=style))
    sample = talk("what is it?", "a red boat", "sure?", "yes, very")
    text = theirs(STYLES[style], sample)
    expected = twin(text, add_special_tokens=False)["input_ids"]
    assert encoded(sample, own(style, "fast")).input_ids == expected


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_a_prompt_is_the_beginning_of_the_training_text_or_is_said_not_to_be(
    style: str, kind: str, own
) -> None:
    template, _ = pair = own(style, kind)
    turns = ("what is it?", "a red boat", "sure?", "yes")
    trained = encoded(talk(*turns), pair).input_ids
    for asked in (1, 3):
        prompt = encoded(talk(*turns[:asked]), pair, prompt=True).input_ids
        is_said = any(f"question {(asked + 1) // 2} of 2" in text for text in template.differs)
        assert (trained[: len(prompt)] != prompt) == is_said
    assert bool(template.differs) == (style == "thinking")


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_whatever_is_said_a_prompt_is_the_beginning_of_its_training_text(
    style: str, kind: str, own
) -> None:
    pair = own(style, kind)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(WORDS, min_size=4, max_size=4))
    def check(turns: list[str]) -> None:
        # Up to the last answer, since some write another header in front of those before.
        for asked in (1, 3):
            prompt = encoded(talk(*turns[:asked]), pair, prompt=True)
            trained = encoded(talk(*turns[: asked + 1]), pair)
            assert trained.input_ids[: len(prompt)] == prompt.input_ids
            assert trained.labels[len(prompt)] != IGNORE_INDEX

    check()


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_a_prompt_ends_where_an_answer_begins(style: str, kind: str, own) -> None:
    pair = own(style, kind)
    trained = encoded(talk("what is it?", "a red boat"), pair)
    prompt = encoded(talk("what is it?"), pair, prompt=True)
    first_target = next(i for i, label in enumerate(trained.labels) if label != IGNORE_INDEX)
    assert len(prompt) == first_target


@pytest.mark.parametrize(("style", "kind"), EVERY)
def test_media_stand_where_the_question_has_them(style: str, kind: str, own) -> None:
    pair = template, tokenizer = own(style, kind)
    picture, clip = MediaItem("image", "i"), MediaItem("video", "v")
    messages = [
        Message("user", ["first", picture, "then", clip, "which?"]),
        Message("assistant", ["none"]),
        Message("user", [picture, "this?"]),
        Message("assistant", ["no"]),
    ]
    found = encoded(Sample("key", messages), pair)
    shown = [f"[{s}]" if s else "" for s in found.slots]
    assert [slot for slot in found.slots if slot] == [1, 1, 2, 2, 3, 3]
    assert [label for label, s in zip(found.labels, found.slots, strict=True) if s] == [-100] * 6
    pieces = render(Sample("key", messages), template=template)
    text = "".join(getattr(p, "text", None) or f"[{getattr(p, 'item', '')}]" for p in pieces)
    assert "first [1]\nthen [2]\nwhich?" in text
    assert "[3]\nthis?" in text
    assert shown.count("[3]") == 2


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("style", ["chatml", "headers", "model_turns", "bars", "plain_text"])
def test_the_closing_mark_ends_an_answer(style: str, kind: str, own) -> None:
    template, tokenizer = own(style, kind)
    end = tokenizer.id_of(CLOSINGS[style])
    said = tokenizer.encode_run("a red boat").ids
    ids = [*said, end, *tokenizer.encode_run("and more").ids]
    stream = AnswerStream(tokenizer=tokenizer, stop=template.stop)
    rule = StopRule(tokenizer, template.stop)
    assert answer_text(ids, tokenizer=tokenizer, stop=template.stop) == "a red boat"
    assert "".join([*map(stream.push, ids), stream.close()]) == "a red boat"
    assert not rule(0, said)
    assert rule(0, [*said, end])
    assert end not in tokenizer.silent_ids(num_rows=2000, stop=template.stop)


@pytest.mark.parametrize(
    ("style", "default"),
    [
        ("chatml", ""),
        ("chatml_default", "You are Tiny, made by nobody. You help."),
        ("plain_text", "A chat between a user and an assistant."),
        ("inst", ""),
    ],
)
def test_the_default_system_text_is_known_and_can_be_replaced(style, default, own) -> None:
    template, _ = own(style, "fast")
    assert template.chat.system == default
    asked = Sample("key", [Message("user", ["hi"])], form="chat")

    def prompt(served: Template) -> str:
        return "".join(p.text for p in render(asked, template=served, generation_prompt=True))

    assert default in prompt(template)
    told = prompt(with_system(template, "Be brief."))
    assert "Be brief." in told
    assert told.index("Be brief.") < told.index("hi")
    assert not default or default not in told
    assert "Tiny" not in prompt(with_system(template, ""))


@pytest.mark.parametrize("style", ["inst", "model_turns", "unclosed"])
def test_where_no_system_text_is_taken_it_opens_the_first_question(style: str, own) -> None:
    pieces = render(talk("hi", "ho", "so?", system="Be brief."), template=own(style, "fast")[0])
    assert "".join(getattr(p, "text", "") for p in pieces).count("Be brief.\n\nhi") == 1


def test_white_space_that_a_token_swallows_is_swallowed(own) -> None:
    _, tokenizer = pair = own("bars", "sentencepiece")
    user, assistant, end = map(tokenizer.id_of, ("<|user|>", "<|assistant|>", "<|end|>"))
    found = encoded(talk("what is it?"), pair, prompt=True).input_ids
    assert found == [user, *tokenizer.encode_run("what is it?").ids, end, assistant]


def test_a_space_at_the_end_of_a_prompt_is_left_to_the_answer(tmp_path: Path) -> None:
    folder = sentencepiece_dir(tmp_path / "spaced", style="plain_text")
    text = STYLES["plain_text"].replace("{{ ' ASSISTANT:' }}", "{{ ' ASSISTANT: ' }}")
    (folder / "chat_template.jinja").write_text(text)
    tokenizer = load_tokenizer(folder)
    pair = get_template("tokenizer", tokenizer=tokenizer), tokenizer
    prompt = encoded(talk("what is it?"), pair, prompt=True).input_ids
    assert prompt[-1] == tokenizer.encode_run(" ASSISTANT:").ids[-1]
    trained = encoded(talk("what is it?", "a red boat"), pair).input_ids
    assert trained[: len(prompt)] == prompt
    assert pair[0].differs == ()


def test_two_questions_in_a_row_become_one(own) -> None:
    sample = Sample("key", [Message("user", ["one"]), Message("user", ["two"])])
    pieces = render(sample, template=own("inst", "fast")[0], generation_prompt=True)
    assert "".join(p.text for p in pieces) == "<s>[INST] one\ntwo [/INST]"


def test_a_refused_conversation_is_named_with_the_templates_own_words(own) -> None:
    sample = Sample("clip 7", [Message("assistant", ["hi"]), Message("user", ["ho"])])
    with pytest.raises(ConfigError, match=r"clip 7: .*inst: .*assistant, user: .*must alternate"):
        render(sample, template=own("inst", "fast")[0], generation_prompt=True)


def test_a_refused_row_of_a_data_set_costs_itself_alone(own) -> None:
    sample = Sample("row 7", [Message("assistant", ["hi"]), Message("user", ["ho"])])
    with pytest.raises(NothingToLearn, match=r"row 7: .*must alternate"):
        render(sample, template=own("inst", "fast")[0])


def test_a_caption_needs_no_turns(own) -> None:
    sample = Sample("key", [Message("assistant", [MediaItem("image", "i"), "a boat"])])
    sample.form = "caption"
    template, tokenizer = pair = own("chatml", "sentencepiece")
    found = encoded(sample, pair)
    assert found.input_ids == [1, 0, 0, *tokenizer.encode_run("a boat").ids, 2]
    assert found.labels[3:] == found.input_ids[3:]


def test_a_directory_without_a_chat_template_is_told_of_the_others() -> None:
    with pytest.raises(ConfigError, match=r"no chat template, neither a .*plain"):
        get_template("tokenizer", tokenizer=load_tokenizer(GOLDENS / "llama"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for m in messages %}{{ m.content }", "cannot be read, line 1"),
        ("{{ messages[0]['content'] }}", "leaves questions or answers out"),
        ("{{ raise_exception('no') }}", "refuses a conversation of user, assistant, user, .*: no"),
        ("{{ messages[0].content.__class__.__mro__ }}", "refuses.*unsafe"),
        ("{{ messages.append(1) }}", "refuses.*(immutable|unsafe|not safely)"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(text, said, tmp_path: Path) -> None:
    folder = sentencepiece_dir(tmp_path / "broken", style="chatml")
    (folder / "chat_template.jinja").write_text(text)
    with pytest.raises(ConfigError, match=said):
        get_template("tokenizer", tokenizer=load_tokenizer(folder))


def test_of_several_chat_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    folder = sentencepiece_dir(tmp_path / "several", style="chatml")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "tool_use", "template": "{{ 1 }}"},
        {"name": "default", "template": STYLES["inst"]},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = get_template("tokenizer", tokenizer=load_tokenizer(folder))
    assert template.stop == ("</s>",)
