"""What a typed line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_llama.apps.chat_words import (
    COMMANDS,
    Command,
    FileWords,
    complete,
    read_command,
    read_file_words,
)
from video_llama.common.errors import ConfigError


def test_a_line_is_a_question_unless_it_begins_with_a_command() -> None:
    assert read_command("What is /file?") is None
    assert read_command("/home/me/clip.mp4 is what?") is None
    assert read_command("") is None
    assert read_command("/undo") == Command("/undo", "")
    assert read_command("/file  a b.mp4 ") == Command("/file", "a b.mp4")


def test_short_names_stand_for_commands() -> None:
    assert read_command("/again") == Command("/regenerate", "")
    assert read_command("/exit") == Command("/quit", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/flie a.mp4", "no command /flie, did you mean '/file'"),
        ("/xyzzy", "no command /xyzzy; /help lists them"),
        ("/undo twice", "/undo takes nothing, found 'twice'"),
        ("/file", "/file needs more: /file PATH"),
    ],
)
def test_a_command_that_makes_no_sense_says_why(line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_command(line)


def test_a_path_is_followed_by_options() -> None:
    assert read_file_words("a.mp4 start=1.5 end=8 frames=16") == FileWords(
        "a.mp4", {"start_s": 1.5, "end_s": 8.0, "frames": 16}
    )
    assert read_file_words("'my clip.mp4' fps=2") == FileWords("my clip.mp4", {"fps": 2.0})
    assert read_file_words("my clip.mp4 sound=off") == FileWords("my clip.mp4", {"sound": False})
    assert read_file_words("~/a.mp4") == FileWords(str(Path.home() / "a.mp4"))


def test_a_path_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    odd = tmp_path / "it's start=1.mp4"
    odd.touch()
    assert read_file_words(str(odd)) == FileWords(str(odd))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("a.mp4 frmes=3", "unknown option of a file 'frmes', did you mean 'frames'"),
        ("a.mp4 frames=2.5", "frames must be a whole number, found '2.5'"),
        ("a.mp4 start=soon", "start must be a number, found 'soon'"),
        ("a.mp4 sound=no", "sound is on or off, found 'no'"),
        ("'a.mp4", "no closing quotation"),
    ],
)
def test_options_of_a_file_that_make_no_sense_say_why(words: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_file_words(words)


def test_commands_are_completed() -> None:
    assert complete("/fi") == ["/file ", "/files "]
    assert complete("/un") == ["/undo "]
    assert complete("What") == []
    assert {line.strip() for line in complete("/")} >= set(COMMANDS)


def test_settings_are_completed() -> None:
    assert complete("/set temp") == ["/set temperature="]
    assert complete("/set seed=1 num_b") == ["/set seed=1 num_beams="]


def test_paths_are_completed_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "my clips").mkdir()
    (tmp_path / "my clips" / "a.mp4").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "note.txt").touch()
    assert complete(f"/file {tmp_path}/n") == [f"/file {tmp_path}/note.txt "]
    [folder] = complete(f"/file {tmp_path}/my")
    assert folder.endswith("my clips/")
    [line] = complete(folder)
    command = read_command(line)
    assert command is not None
    assert read_file_words(command.rest).path == str(tmp_path / "my clips" / "a.mp4")
    assert complete(f"/save {tmp_path}/") == [f"/save '{tmp_path}/my clips/"]


def test_a_folder_that_is_not_there_has_no_completion() -> None:
    assert complete("/file nowhere/") == []
