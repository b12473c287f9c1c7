"""A conversation that outgrows the context: what goes, for how long, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from parrot import Parrot
from PIL import Image

from video_llama.common.errors import ContextOverflow
from video_llama.conversation.chat import Chat
from video_llama.conversation.compat import ChatCompat

GREY = Image.new("RGB", (8, 8), (90, 90, 90))


def long_talk(parrot: Parrot, *, num_rounds: int = 9) -> Chat:
    """Ask more than a context of 150 positions holds."""
    chat = parrot.chat(max_new_tokens=50)
    chat.upload(GREY)
    for number in range(num_rounds):
        chat.ask(f"Question number {number}?")
    return chat


def test_most_questions_to_a_full_context_read_only_what_is_new() -> None:
    parrot = Parrot("a boat###", max_context=400)
    chat = parrot.chat(max_new_tokens=50)
    chat.upload(GREY)
    reads = []
    for number in range(60):
        chat.ask(f"Question number {number}?")
        usage = chat.last_usage
        reads.append(usage.prompt_tokens - usage.cached_tokens)
    num_forgettings = len(chat.take_notes())
    # One round takes about 20 positions.
    assert sum(read > 60 for read in reads) == num_forgettings
    assert 5 < num_forgettings < 20
    assert max(len(heard.input_ids) for heard in parrot.heard) <= 350


def test_an_answer_given_again_forgets_what_the_first_one_did() -> None:
    parrot = Parrot("a boat###", max_context=150)
    chat = long_talk(parrot)
    first = parrot.last_prompt()
    list(chat.regenerate())
    assert parrot.last_prompt() == first


def test_undo_gives_back_what_the_question_made_forgotten() -> None:
    parrot = Parrot("a boat###", max_context=150)
    chat = long_talk(parrot, num_rounds=9)
    told = chat.take_notes()
    prompts = [parrot.prompt(heard) for heard in parrot.heard]
    for number in reversed(range(9)):
        assert chat.undo() == f"Question number {number}?"
        chat.ask(f"Question number {number}?")
        assert parrot.last_prompt() == prompts[number]
        chat.undo()
    assert len(told) > 1


def test_a_restored_conversation_has_forgotten_the_same(tmp_path: Path) -> None:
    parrot, reader = Parrot("a boat###", max_context=150), Parrot("a boat###", max_context=150)
    chat, again = long_talk(parrot), reader.chat(max_new_tokens=50)
    chat.save(tmp_path)
    again.restore(tmp_path)
    for each in (chat, again):
        each.ask("And now?")
    assert reader.last_prompt() == parrot.last_prompt()


def test_a_question_that_just_fits_is_asked_though_little_room_is_left() -> None:
    parrot = Parrot("a boat###", max_context=150)
    chat = parrot.chat(max_new_tokens=50)
    chat.ask("One?")
    words = "word " * 40
    with pytest.raises(ContextOverflow):
        chat.ask(words + words)
    chat.ask(words)
    assert 75 < len(parrot.heard[-1].input_ids) <= 100
    assert "One?" not in parrot.last_prompt()


def test_the_published_chat_cuts_as_it_always_did() -> None:
    parrot = Parrot("a boat###", max_context=150)
    chat = parrot.chat(max_new_tokens=50, compat=ChatCompat.released())
    chat.upload(GREY)
    for number in range(9):
        chat.ask(f"Question number {number}?")
    assert len(parrot.heard[-1].input_ids) == 100
    assert parrot.heard[-1].input_ids[0] != parrot.tokenizer.bos_id
    assert chat.take_notes() == []


def test_released_run_files_forget_whole_rounds_and_say_so() -> None:
    parrot = Parrot("a boat###", max_context=4000)
    chat = parrot.chat(max_new_tokens=50, compat=ChatCompat.named("released"))
    chat.upload(GREY)
    for number in range(9):
        chat.ask(f"Question number {number}? " + "word " * 150)
    # As published: 2000 positions for the prompt and the longest answer.
    assert 1300 < max(len(heard.input_ids) for heard in parrot.heard) <= 1950
    assert parrot.heard[-1].input_ids[0] == parrot.tokenizer.bos_id
    assert 1 in parrot.heard[-1].slots
    assert "Question number 0?" not in parrot.last_prompt()
    assert "2000 positions" in chat.take_notes()[0]
