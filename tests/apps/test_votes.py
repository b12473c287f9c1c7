"""Votes on answers: what a line holds, and that no line is lost or spoilt."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import gradio
import pytest
from parrot import Parrot

from video_llama.apps.demo_handlers import Handlers
from video_llama.apps.demo_view import Span
from video_llama.apps.demo_visits import Visits
from video_llama.apps.votes import Vote, VotedMedia, VoteLog
from video_llama.common.errors import ConfigError
from video_llama.common.generation import GenerationSettings

ME = "a browser session"
GREEDY = (0.0, 0.9, 0, 1, 50, 1.0)


def vote(number: int = 0) -> Vote:
    return Vote(
        verdict="up",
        conversation="c",
        round=number,
        question="What?",
        answer="a boat " * 2000,
        media=[VotedMedia("video", "0123")],
        settings=GenerationSettings(),
        model="toy",
        template="vicuna_v0",
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def add_many(path: Path) -> None:
    log = VoteLog(path)
    for number in range(50):
        log.add(vote(number))


@pytest.fixture
def voted(tmp_path: Path, sounding_clip: Path) -> tuple[Handlers, Path]:
    """A conversation of two answers, and the file for votes on it."""
    path = tmp_path / "logs" / "votes.jsonl"
    visits = Visits(Parrot("a red boat###").chat(), folder=tmp_path)
    handlers = Handlers(
        visits, gradio=gradio, model="toy", votes=VoteLog(path), examples=[sounding_clip]
    )
    handlers.start(ME, [str(sounding_clip)], Span())
    for question in ("What?", "Where?"):
        handlers.ask(ME, question, GREEDY)
        list(handlers.answer(ME))
    return handlers, path


def test_a_vote_tells_what_was_asked_answered_and_how(voted: tuple[Handlers, Path]) -> None:
    handlers, path = voted
    # The clip, "What?", its answer, "Where?", its answer.
    handlers.vote(ME, 4, "down")
    (line,) = lines(path)
    assert (line["verdict"], line["round"]) == ("down", 1)
    assert (line["question"], line["answer"]) == ("Where?", "a red boat")
    assert (line["model"], line["template"]) == ("toy", "vicuna_v0")
    assert line["settings"]["max_new_tokens"] == 50
    assert [item["kind"] for item in line["media"]] == ["video", "audio"]
    assert all(item["content_hash"] for item in line["media"])


def test_a_vote_holds_no_file_name_and_no_media(
    voted: tuple[Handlers, Path], sounding_clip: Path
) -> None:
    handlers, path = voted
    handlers.vote(ME, 2, "up")
    assert sounding_clip.name not in path.read_text("utf-8")
    assert len(path.read_bytes()) < 1000


def test_a_vote_that_is_taken_back_is_a_line_more(voted: tuple[Handlers, Path]) -> None:
    handlers, path = voted
    handlers.vote(ME, 2, "up")
    handlers.vote(ME, 2, "withdrawn")
    first, second = lines(path)
    assert (first["verdict"], second["verdict"]) == ("up", "withdrawn")
    assert first["conversation"] == second["conversation"]


@pytest.mark.parametrize("index", [-1, 99])
def test_a_vote_on_nothing_is_no_vote(voted: tuple[Handlers, Path], index: int) -> None:
    handlers, path = voted
    with pytest.raises(gradio.Error, match="Votes are for answers"):
        handlers.vote(ME, index, "up")
    assert path.read_text("utf-8") == ""


def test_processes_that_vote_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_many, args=(path,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(line["round"] for line in lines(path)) == sorted([*range(50)] * 4)


def test_a_vote_waits_for_the_line_that_another_server_is_writing(tmp_path: Path) -> None:
    # Votes of one machine are written at a stroke, so only a writer that pauses shows the lock.
    path = tmp_path / "votes.jsonl"
    voter = threading.Thread(target=VoteLog(path).add, args=(vote(),))
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"verdict": ')
        other.flush()
        voter.start()
        voter.join(0.3)
        other.write(b'"down"}\n')
        other.flush()
    voter.join(60)
    assert [line["verdict"] for line in lines(path)] == ["down", "up"]


def test_a_line_that_broke_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"verdict": "u', encoding="utf-8")
    VoteLog(path).add(vote())
    assert json.loads(path.read_text("utf-8").splitlines()[1])["verdict"] == "up"


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--votes .*Is a directory.*another file"):
        VoteLog(tmp_path)
