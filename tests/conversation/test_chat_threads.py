"""Many people at one model: everybody gets their own answers, and nobody waits for who is gone."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from parrot import Parrot
from PIL import Image

from video_llama.common.errors import MediaError
from video_llama.conversation.chat import Chat, Shared
from video_llama.conversation.turnstile import POLL_S, Turn, Turnstile
from video_llama.processors.uploads import ReadUpload, UploadReader, UploadRequest

PATIENCE_S = 60.0
NUM_PEOPLE = 32


class Witness(Parrot):
    """Says how bright the first picture is, and how many questions it has read."""

    def __init__(self) -> None:
        super().__init__("")
        self.inside = 0
        self.most_inside = 0

    def stream_prompt(self, **prompt: Any) -> Iterator[int]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            tokens = prompt["media"][0]
            grey = round((float(tokens.mean()) + 1) / 2 * 255)
            num_asked = self.tokenizer.decode(
                [
                    i
                    for i, slot in zip(prompt["input_ids"], prompt["slots"], strict=True)
                    if not slot
                ]
            ).count("Human:")
            self.says = f"grey {grey} at question {num_asked}###"
            yield from super().stream_prompt(**prompt)
        finally:
            self.inside -= 1


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (16, 16), (7 * number,) * 3)


def talk(chat: Chat, number: int) -> list[str]:
    chat.upload(picture(number))
    return ["".join(chat.stream(f"Question {k} of person {number}?")) for k in range(3)]


def test_thirty_two_people_in_thirty_two_threads_get_their_own_answers() -> None:
    model = Witness()
    first = model.chat(num_caches=3, patience_s=PATIENCE_S)
    chats = [first.another() for _ in range(NUM_PEOPLE)]
    with ThreadPoolExecutor(NUM_PEOPLE) as pool:
        answers = list(pool.map(talk, chats, range(NUM_PEOPLE)))
    assert answers == [
        [f"grey {7 * number} at question {k + 1}" for k in range(3)] for number in range(NUM_PEOPLE)
    ]
    assert model.most_inside == 1
    assert len(first.shared.caches) == 3
    for number, chat in enumerate(chats):
        assert [turn.text for turn in chat.history if turn.role == "user"] == [
            f"Question {k} of person {number}?" for k in range(3)
        ]


def test_a_picture_that_everybody_shows_is_encoded_once() -> None:
    model = Witness()
    chats = [model.chat()]
    chats += [chats[0].another() for _ in range(7)]
    with ThreadPoolExecutor(len(chats)) as pool:
        list(pool.map(lambda chat: chat.upload(picture(9)), chats))
    assert len(model.encoded) == 1


def test_questions_of_two_threads_to_one_chat_are_asked_one_after_the_other() -> None:
    # A whole answer is never overtaken, however little patience there is.
    chat = Witness().chat(patience_s=0.0)
    chat.upload(picture(1))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(chat.ask, ["One?", "Two?", "Three?", "Four?"]))
    assert sorted(answers) == [f"grey 7 at question {k}" for k in (1, 2, 3, 4)]
    assert len(chat.history) == 8


def test_a_whole_answer_is_not_overtaken_between_two_of_its_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lent = Turnstile.lent

    @contextmanager
    def lent_for_long(line: Turnstile, turn: Turn) -> Iterator[None]:
        with lent(line, turn):
            time.sleep(2 * POLL_S)
            yield

    monkeypatch.setattr(Turnstile, "lent", lent_for_long)
    chat = Parrot("one two three###").chat(patience_s=0.0)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(chat.ask, ["One?", "Two?"])) == ["one two three"] * 2


def test_a_conversation_that_is_reset_ends_its_answers() -> None:
    parrot = Parrot("one two three###")
    chat = parrot.chat(patience_s=PATIENCE_S)
    pieces, waiting = chat.stream("Count"), chat.stream("And?")
    next(pieces)
    num_spoken = parrot.spoken
    chat.reset()
    assert list(pieces) == list(waiting) == []
    assert parrot.spoken == num_spoken
    assert chat.history == ()


def test_an_answer_taken_back_while_the_model_works_says_nothing_more() -> None:
    class Thoughtful(Parrot):
        thinking, go_on = threading.Event(), threading.Event()

        def stream_prompt(self, **prompt: Any) -> Iterator[int]:
            for token_id in super().stream_prompt(**prompt):
                if self.tokenizer.decode([token_id]).strip() == "t":
                    self.thinking.set()
                    assert self.go_on.wait(PATIENCE_S)
                yield token_id

    # "#" is held back, because it may be half a stop mark.
    model = Thoughtful("one # two###")
    chat = model.chat(patience_s=PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat.ask, "Count")
        assert model.thinking.wait(PATIENCE_S)
        assert chat.undo() == "Count"
        model.go_on.set()
        assert answer.result(PATIENCE_S) == "one"
    assert chat.history == ()


def test_who_throws_an_answer_away_frees_the_turnstile() -> None:
    chat = Parrot("one two three###").chat(patience_s=PATIENCE_S)
    pieces = chat.stream("Count")
    next(pieces)
    assert chat.position == 0
    del pieces
    gc.collect()
    assert chat.position is None
    assert chat.another().ask("Count") == "one two three"


def test_nobody_waits_longer_than_the_patience_for_an_answer_nobody_reads_on() -> None:
    chat = Parrot("one two three###").chat(patience_s=0.1)
    pieces = chat.stream("Count")
    said = [next(pieces)]
    assert chat.another().ask("Count") == "one two three"
    # And who was only slow loses nothing.
    assert "".join([*said, *pieces]) == "one two three"
    assert chat.history[-1].text == "one two three"


def test_who_waits_is_told_how_many_stand_before_and_may_leave() -> None:
    chat = Parrot("one two three###").chat(patience_s=PATIENCE_S)
    other = chat.another()
    pieces = chat.stream("Count")
    next(pieces)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.ask, "Count")
        seen = threading.Event()
        for _ in range(2000):
            if other.position == 1:
                seen.set()
                break
            seen.wait(0.005)
        assert (chat.position, other.position) == (0, 1)
        other.stop()
        assert waiting.result(PATIENCE_S) == ""
    assert "".join(pieces) == "e two three"


@pytest.mark.parametrize("end", [Chat.stop, Chat.reset])
def test_an_upload_that_is_stopped_while_it_is_read_is_not_encoded(
    end: Callable[[Chat], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), UploadReader.read

    def slow(self: UploadReader, request: UploadRequest) -> ReadUpload:
        reading.set()
        assert go_on.wait(PATIENCE_S)
        return read(self, request)

    monkeypatch.setattr(UploadReader, "read", slow)
    model = Witness()
    chat = model.chat()
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(chat.upload, picture(1))
        assert reading.wait(PATIENCE_S)
        end(chat)
        go_on.set()
        with pytest.raises(MediaError, match="stopped before the model was free"):
            upload.result(PATIENCE_S)
    assert (model.encoded, chat.uploads) == ([], ())
    chat.upload(picture(1))
    assert len(chat.uploads) == 1


def test_another_turnstile_can_be_put_in_before_people_come() -> None:
    first = Witness().chat()
    first.shared = Shared(num_caches=1)
    chats = [first, first.another()]
    for chat in chats:
        talk(chat, 1)
    assert len(first.shared.caches) == 1
    assert chats[1].shared is first.shared


def test_a_conversation_that_is_reset_or_gone_keeps_nothing_in_memory() -> None:
    model = Witness()
    chat = model.chat()
    other = chat.another()
    for each in (chat, other):
        each.upload(picture(1))
        each.ask("What?")
    assert len(chat.shared.caches) == 2
    chat.reset()
    assert len(chat.shared.caches) == 1
    del other, each
    gc.collect()
    assert len(chat.shared.caches) == 0


def test_a_failing_answer_frees_the_turnstile() -> None:
    class Broken(Parrot):
        def encode_items(self, items: Any) -> Any:
            raise RuntimeError("out of memory")

    chat = Broken("a boat###").chat(patience_s=PATIENCE_S)
    with pytest.raises(RuntimeError, match="out of memory"):
        chat.upload(picture(1))
    assert chat.uploads == ()
    assert chat.another().ask("What?") == "a boat"
