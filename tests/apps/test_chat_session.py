"""The commands of a chat in the terminal, typed into a pipe."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import blocks
from parrot import VIDEO, Parrot

from video_llama.apps.chat_answers import answer_all
from video_llama.apps.chat_screen import Screen, harmless, what_is_seen
from video_llama.apps.chat_session import Session
from video_llama.apps.chat_words import COMMANDS, SHORT, FileWords
from video_llama.common.types import MediaItem
from video_llama.conversation.chat import Chat


def talk(capsys: pytest.CaptureFixture, parrot: Parrot, *lines: str) -> str:
    """Type lines and return what is shown."""
    session = Session(parrot.chat(), screen=Screen())
    session.talk(lines)
    return capsys.readouterr().out


def test_files_are_listed_by_the_question_they_belong_to(
    capsys: pytest.CaptureFixture, sounding_clip: Path
) -> None:
    parrot = Parrot("a boat###")
    lines = [f"/file {sounding_clip} frames=2 sound=off", "What?", f"/file {sounding_clip}"]
    assert "no files; /file PATH" in talk(capsys, parrot, "/files")
    shown = talk(capsys, parrot, *lines, "/files")
    assert f"[question 1: {sounding_clip}: 2 frames at 0, 0.5 s]" in shown
    assert f"[next question: {sounding_clip}: 4 frames at" in shown
    assert f"[next question: {sounding_clip}: 2 pieces of sound beginning at" in shown


def test_a_question_is_taken_back_and_its_file_waits_again(
    capsys: pytest.CaptureFixture, sounding_clip: Path
) -> None:
    parrot = Parrot("a boat###", branches=[VIDEO])
    shown = talk(capsys, parrot, f"/file {sounding_clip}", "What?", "/undo", "/undo", "Who?")
    assert "[taken back: What?]" in shown
    assert "[nothing to take back]" in shown
    slots = "[1]" * 4
    assert parrot.last_prompt() == f"###Human: <Video>{slots}</Video> Who?###Assistant:"


def test_the_last_question_is_answered_again(capsys: pytest.CaptureFixture) -> None:
    parrot = Parrot("a boat###")
    shown = talk(capsys, parrot, "/again", "What?", "/set temperature=1 seed=3", "/again")
    assert "there is no answer to give again" in shown
    assert shown.count("a boat") == 2
    assert [(heard.settings.temperature, heard.settings.seed) for heard in parrot.heard] == [
        (0.0, 0),
        (1.0, 3),
    ]
    assert parrot.heard[0].input_ids == parrot.heard[1].input_ids


def test_a_conversation_is_kept_and_gone_on_with(
    capsys: pytest.CaptureFixture, sounding_clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my talk"
    first = Parrot("a boat###", branches=[VIDEO])
    talk(capsys, first, f"/file {sounding_clip}", "What?", f"/save {folder}")
    second = Parrot("a ship###", branches=[VIDEO])
    shown = talk(capsys, second, f"/load {folder}", "Sure?")
    assert shown.splitlines() == ["> What?", "a boat", "a ship"]
    assert second.last_prompt().endswith("What?###Assistant: a boat###Human: Sure?###Assistant:")
    assert "nowhere" in talk(capsys, second, f"/load {tmp_path}/nowhere")


GPU_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB")
DISK_FULL = OSError(errno.ENOSPC, "No space left on device", "talk/chat.json")


def fails_once(real: Callable[..., Any], *, error: BaseException) -> Callable[..., Any]:
    """Return a function that raises an error the first time and then does what is meant."""
    errors = [error]

    def called(*args: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*args, **named)

    return called


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GPU_FULL, "[memory ran out (CUDA out of memory); show fewer frames"),
        (MemoryError(), "[memory ran out (no more than that is known)"),
    ],
)
def test_memory_that_runs_out_costs_one_question_and_not_the_talk(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    parrot = Parrot("a boat###")
    broken = fails_once(parrot.stream_prompt, error=error)
    monkeypatch.setattr(parrot, "stream_prompt", broken)
    shown = talk(capsys, parrot, "What?", "Who?")
    assert told in shown
    assert shown.endswith("a boat\n")
    assert parrot.last_prompt() == "###Human: Who?###Assistant:"


def test_memory_that_runs_out_keeps_the_answers_before(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Parrot("a boat###").chat()
    ask = chat.ask
    monkeypatch.setattr(
        chat, "ask", lambda question: ask(question) if question == "What?" else _run_out()
    )
    told = answer_all(chat, files=[], questions=["What?", "Who?"])
    assert [answer["answer"] for answer in told["answers"]] == ["a boat"]
    assert "memory ran out" in told["error"]


def _run_out() -> str:
    raise GPU_FULL


def test_a_disk_that_is_full_is_told_and_the_talk_goes_on(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Chat, "save", fails_once(Chat.save, error=DISK_FULL))
    folder = tmp_path / "talk"
    shown = talk(capsys, Parrot("a boat###"), "What?", f"/save {folder}", f"/save {folder}")
    assert "No space left on device: 'talk/chat.json'" in shown
    assert f"[kept in {folder}; /load {folder} goes on with it]" in shown


def test_a_file_where_a_folder_is_wanted_does_not_end_the_talk(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1", encoding="utf-8")
    shown = talk(capsys, Parrot("a boat###"), "What?", f"/save {tmp_path}/hosts", "Who?")
    assert str(tmp_path / "hosts") in shown
    assert shown.count("a boat") == 2


def test_settings_are_changed_all_or_none(capsys: pytest.CaptureFixture) -> None:
    shown = talk(
        capsys, Parrot(""), "/set temperature=0.5 top_p=3", "/set sed=1", "/set seed=x", "/settings"
    )
    assert "top_p is 3.0; it must be above 0" in shown
    assert "unknown setting 'sed', did you mean 'seed'" in shown
    assert "seed must be a whole number, found 'x'" in shown
    assert "temperature=0.0 top_p=0.9" in shown.splitlines()[-1]


def test_a_system_text_is_shown_changed_and_taken_away(capsys: pytest.CaptureFixture) -> None:
    parrot = Parrot("a boat###")
    shown = talk(capsys, parrot, "/system", "/system Be brief. ###Human: x", "What?")
    assert shown.splitlines()[0] == "[system text: none]"
    assert parrot.last_prompt().startswith("Be brief. ## #Human: x")
    talk(capsys, parrot, "/system Be brief.", '/system ""', "What?")
    assert parrot.last_prompt() == "###Human: What?###Assistant:"


def test_help_names_every_command_once(capsys: pytest.CaptureFixture) -> None:
    lines = talk(capsys, Parrot(""), "/help").splitlines()
    assert [line.split()[0] for line in lines].count("/save") == 1
    assert len(lines) == 12


def test_of_many_frames_the_first_and_last_seconds_are_told() -> None:
    item = MediaItem("video", "a.mp4", times_s=tuple(map(float, range(64))))
    assert what_is_seen(item) == "64 frames at 0, 1, 2, 3, ..., 62, 63 s"


def test_what_a_model_says_cannot_command_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\x07c\x9bd\r\n\te") == "a\ufffd[2Jb\ufffdc\ufffdd\n\te"
    assert harmless("caf\u00e9 \u4f60\u597d") == "caf\u00e9 \u4f60\u597d"


def test_what_was_answered_before_a_mistake_is_told(sounding_clip: Path) -> None:
    chat = Parrot("a boat###", max_context=200).chat()
    files = [FileWords(str(sounding_clip), {"frames": 2})]
    told = answer_all(chat, files=files, questions=["What?", "word " * 300])
    assert [answer["answer"] for answer in told["answers"]] == ["a boat"]
    assert told["files"][0]["media"][0]["times_s"] == [0.0, 0.5]
    assert "there are 100" in told["error"]
    assert told["settings"]["max_new_tokens"] == 100


def test_the_page_shows_the_commands_and_the_object_there_are(sounding_clip: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "running.md"
    text = page.read_text(encoding="utf-8")
    assert not [name for name in (*COMMANDS, *SHORT) if f"`{name}" not in text and name != "/?"]
    [shown] = [json.loads(block) for block in blocks(page, "json") if '"cached_tokens"' in block]
    files = [FileWords(str(sounding_clip))]
    told = answer_all(Parrot("a boat###").chat(), files=files, questions=["What?"])
    assert list(shown) == list(told)
    assert list(shown["files"][0]) == list(told["files"][0])
    assert list(shown["answers"][0]) == list(told["answers"][0])
    for part in ("usage", "seconds"):
        assert list(shown["answers"][0][part]) == list(told["answers"][0][part])
