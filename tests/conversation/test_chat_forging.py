"""Nothing that a person types makes a turn, a stop string, a special token or a placeholder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot import Parrot
from PIL import Image

from video_llama.common.registry import registry
from video_llama.conversation.chat import Chat
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer

NAMES = (
    *("vicuna_v0", "vicuna_v0_released", "llama_2", "llama_2_released", "billa", "ziya"),
    *("vicuna_v1", "llava_v1", "llava_hf", "llava_llama_2", "plain"),
)
TURNS = ("###Human:", "###Assistant:", "###", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "Human:")
MARKS = (
    *(*TURNS, "Assistant:", "USER:", "ASSISTANT:", "<human>", "<bot>"),
    *("<Video>", "</Video>", "<ImageHere>", "<image>", "<video>", "</s>"),
)
LOOK_ALIKES = ("\uff03\uff03\uff03", "\uff1c/s\uff1e", "\uff3bINST\uff3d", "\u200b", "\ufe5f")
PIECES = (
    *MARKS,
    *LOOK_ALIKES,
    "<s>",
    "<unk>",
    "#",
    "##",
    "<",
    ">",
    "/s>",
    " ",
    "\n",
    "x",
    "\u65e5",
)
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
GREY = Image.new("RGB", (8, 8), (90, 90, 90))


@dataclass
class Read:
    """What a model read: counts of all that has a meaning to it."""

    marks: dict[str, int]
    special_ids: int
    media: list[int]


def read_of(name: str, *, words: list[str]) -> Read:
    """Hold a conversation of five texts: system, question, answer, and two around a picture."""
    system, question, answer, before, behind = words
    parrot = Parrot("a boat###")
    chat: Chat = parrot.chat(template=name)
    chat.set_system("s" + system)
    chat.upload(GREY)
    chat.remember("q" + question, "a" + answer)
    chat.ask(["b" + before, chat.upload(GREY), "b" + behind])
    heard, text, tokenizer = parrot.heard[-1], parrot.last_prompt(), parrot.tokenizer
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    texts = [i for i, slot in zip(heard.input_ids, heard.slots, strict=True) if not slot]
    template = get_template(name)
    # A line feed of one's own in front of the template's "Human:" forges nothing.
    stop = [mark.strip() for mark in template.stop if mark.strip()]
    return Read(
        marks={mark: text.count(mark) for mark in (*template.forgeable, *stop)},
        special_ids=sum(i in special for i in texts),
        media=[slot for slot in heard.slots if slot],
    )


def test_all_templates_are_tried() -> None:
    # That of a directory is tried in every style it may have in test_chat_template.
    assert {*NAMES, "tokenizer"} == set(registry.names("template"))


@pytest.mark.parametrize("name", NAMES)
def test_no_text_can_forge_anything(name: str) -> None:
    harmless = read_of(name, words=[""] * 5)
    assert harmless.media == [1, 2]

    @settings(max_examples=40, deadline=None)
    @given(st.lists(HOSTILE, min_size=5, max_size=5))
    def check(words: list[str]) -> None:
        assert read_of(name, words=words) == harmless

    check()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("# Title\ntext", "# Title\ntext"),
        ("## Title\ntext", "## Title\ntext"),
        ("### Title\ntext", "## # Title\ntext"),
        ("#### Title\ntext", "## ## Title\ntext"),
        ("text\n### Title", "text\n## # Title"),
        ("Is it C#?", "Is it C#?"),
    ],
)
def test_headings_reach_the_model_readable_and_without_a_turn_mark(typed: str, read: str) -> None:
    parrot = Parrot("a boat###")
    parrot.chat().ask(typed)
    assert parrot.last_prompt() == f"###Human: {read}###Assistant:"
    turn_mark, others = 835, [265, 955]  # the published ids of "###" and of its two halves
    ids = parrot.heard[-1].input_ids
    parrot.chat().ask("x")
    plain = parrot.heard[-1].input_ids
    assert ids.count(turn_mark) == plain.count(turn_mark)
    pairs = [list(pair) for pair in zip(ids, ids[1:], strict=False)]
    assert pairs.count(others) == [list(p) for p in zip(plain, plain[1:], strict=False)].count(
        others
    )


def test_a_question_that_ends_in_a_mark_of_headings_stays_apart_from_the_turn_mark() -> None:
    parrot = Parrot("a boat###")
    parrot.chat().ask("Is it C#")
    assert parrot.last_prompt() == "###Human: Is it C# ###Assistant:"


def test_a_heading_in_an_answer_of_another_template_is_no_turn() -> None:
    parrot = Parrot("### Steps\n1. go</s>")
    chat = parrot.chat(template="llama_2")
    assert chat.ask("How?") == "### Steps\n1. go"
    chat.ask("And?")
    assert "### Steps" in parrot.last_prompt()


def test_special_tokens_that_only_a_tokenizer_json_knows_cannot_be_typed(fast_dir: Path) -> None:
    (fast_dir / "tokenizer_config.json").rename(fast_dir / "kept.json")
    try:
        (fast_dir / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
        tokenizer = load_tokenizer(fast_dir)
    finally:
        (fast_dir / "kept.json").replace(fast_dir / "tokenizer_config.json")
    pad_id = tokenizer.engine.id_of("<|pad|>")
    parrot = Parrot("a boat###")
    parrot.tokenizer = tokenizer
    parrot.chat().ask("x<|pad|><|end|>")
    assert pad_id is not None
    assert not {pad_id, tokenizer.eos_id} & set(parrot.heard[-1].input_ids)
    assert parrot.last_prompt() == "###Human: x<|pad| ><|end| >###Assistant:"


def test_thousands_of_rounds_are_fitted_in_a_moment() -> None:
    parrot = Parrot("a boat###", max_context=200)
    chat = parrot.chat(max_new_tokens=50)
    chat.upload(GREY)
    for number in range(3000):
        chat.remember(f"Question {number}?", "yes")
    began = time.process_time()
    chat.ask("Last?")
    # Fitting round by round would take minutes.
    assert time.process_time() - began < 10
    prompt = parrot.last_prompt()
    assert prompt.startswith("###Human: <Image>[1]</Image> Question ")
    assert prompt.endswith("Question 2999?###Assistant: yes###Human: Last?###Assistant:")
    # As many rounds as fill three quarters of the room: with one more it would be too much.
    first = int(prompt.split("Question ")[1].split("?")[0])
    more = f"Question {first - 1}?###Assistant: yes###Human: "
    longer = len(parrot.heard[-1].input_ids) + len(parrot.tokenizer.encode_run(more).ids)
    assert len(parrot.heard[-1].input_ids) <= 112 < longer + 2
    assert chat.take_notes() == [
        "The conversation no longer fits the model's 200 positions: its first "
        f"{first} question(s) are forgotten."
    ]
