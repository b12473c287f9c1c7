"""Files of questions are read strictly, and every mistake is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from video_llama.common.errors import ConfigError
from video_llama.datasets.question_rows import NamedFile, QuestionRow, read_questions


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "questions.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read_one(folder: Path, row: dict[str, Any]) -> QuestionRow:
    [read] = read_questions(write(folder, row)).rows
    return read


def refusal(folder: Path, *rows: dict[str, Any] | str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_questions(write(folder, *rows))
    return str(caught.value)


def test_a_question_stands_behind_its_files(tmp_path: Path) -> None:
    row = read_one(tmp_path, {"question": "What?", "video": "a.mp4", "start": 1, "end": 2.5})
    [turn] = row.turns
    assert turn.role == "user"
    assert turn.parts == (NamedFile(str(tmp_path / "a.mp4"), "video", 1.0, 2.5), "What?")
    assert row.question == "What?"


def test_what_stands_under_media_may_be_anything(tmp_path: Path) -> None:
    row = read_one(tmp_path, {"question": "What?", "media": ["a.mp4", "b.jpg"]})
    assert [file.kind for file in row.files] == [None, None]


def test_messages_say_where_their_files_belong(tmp_path: Path) -> None:
    row = read_one(
        tmp_path,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<video>What is it?"},
                {"role": "assistant", "content": "A dog."},
                {"role": "user", "content": "And <image>?"},
            ],
            "video": "a.mp4",
            "image": "b.jpg",
            "frames": 16,
        },
    )
    assert [turn.role for turn in row.turns] == ["system", "user", "assistant", "user"]
    clip = NamedFile(str(tmp_path / "a.mp4"), "video", frames=16)
    picture = NamedFile(str(tmp_path / "b.jpg"), "image", frames=16)
    assert row.turns[1].parts == (clip, "What is it?")
    assert row.turns[3].parts == ("And", picture, "?")


def test_a_clip_whose_sound_has_a_place_of_its_own_is_heard_once(tmp_path: Path) -> None:
    row = read_one(tmp_path, {"question": "What?", "videos": ["a.mp4", "b.mp4"], "audio": "b.mp4"})
    assert [(file.kind, file.sound) for file in row.files] == [
        ("video", True),
        ("video", False),
        ("audio", True),
    ]


def test_seconds_of_a_file_go_before_those_of_the_row(tmp_path: Path) -> None:
    files = [{"path": "a.mp4", "start": 3}, "b.mp4"]
    row = read_one(tmp_path, {"question": "What?", "videos": files, "end": 2})
    assert [(file.start_s, file.end_s) for file in row.files] == [(3.0, None), (None, 2.0)]


def test_relative_paths_start_from_the_media_folder(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "What?", "video": ["a.mp4", "/b.mp4"]})
    [row] = read_questions(path, media=Path("/clips")).rows
    assert [file.path for file in row.files] == ["/clips/a.mp4", "/b.mp4"]


def test_ids_are_kept_and_lines_stand_in_for_them(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "x", "question": "?"}, "", {"question": "?"})
    assert [row.id for row in read_questions(path).rows] == ["x", 3]


def test_the_digest_tells_a_changed_file(tmp_path: Path) -> None:
    first = read_questions(write(tmp_path, {"question": "Why?"})).digest
    assert read_questions(write(tmp_path, {"question": "Why?"})).digest == first
    assert read_questions(write(tmp_path, {"question": "How?"})).digest != first


def test_all_mistakes_are_named_with_their_lines(tmp_path: Path) -> None:
    told = refusal(
        tmp_path,
        {"question": "What?", "vidoe": "a.mp4"},
        {"question": "What?"},
        "{half",
        {"id": 2, "question": "Who?"},
    )
    assert "questions.jsonl:1: unknown key 'vidoe', did you mean 'video'?" in told
    assert "questions.jsonl:3: not valid JSON" in told
    assert "questions.jsonl:4: id 2 is that of" in told
    assert "questions.jsonl:2" in told.split("is that of")[1]
    assert told.startswith("3 problems")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "expected an object, found list"),
        ({}, "either 'question' or 'messages'"),
        ({"question": "a", "messages": []}, "either 'question' or 'messages'"),
        ({"question": " "}, "'question' must be a text"),
        ({"question": "a", "id": True}, "'id' must be a text or a whole number"),
        ({"question": "a", "frames": 0, "video": "a"}, "'frames' must be a whole number"),
        ({"question": "a", "fps": "2", "video": "a"}, "'fps' must be a number above 0"),
        ({"question": "a", "fps": 2, "frames": 4, "video": "a"}, "give one"),
        ({"question": "a", "sound": 1, "video": "a"}, "'sound' must be true or false"),
        ({"question": "a", "start": 2, "end": 1, "video": "a"}, "'end' must come after 'start'"),
        ({"question": "a", "start": 2}, "start: no file is named"),
        ({"question": "a", "video": 3}, "'video': expected the path of a file, found 3"),
        ({"question": "a", "video": ""}, "'video' names no file, found \"\"; leave it out of a"),
        ({"question": "a", "image": None}, "'image' names no file, found null"),
        ({"question": "a", "audios": []}, "'audios' names no file, found []"),
        ({"question": "a", "media": False}, "'media' names no file, found false"),
        ({"question": "a", "video": "http://x/a.mp4"}, "is no file; download it"),
        ({"question": "a", "video": {"path": "a", "stat": 1}}, "did you mean 'start'"),
        ({"question": "a", "video": "a", "videos": ["b"]}, "both 'video' and 'videos'"),
        ({"question": "<video>a"}, "1 marks <video>, but 'videos' lists 0"),
        ({"messages": "hello"}, "no list 'messages'"),
        ({"messages": [{"role": "user", "contnt": "a"}]}, "did you mean 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]}, "'text'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "a question at the end"),
        ({"messages": [{"role": "system", "content": "a"}]}, "a question at the end"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "questions and answers in turn"),
        ({"messages": [{"role": "user", "content": ""}]}, "message 1 has no text"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(tmp_path: Path, row: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, json.dumps(row))


def test_a_row_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"question": "What?"}, "[" * 100_000)
    assert "questions.jsonl:2: not valid JSON: nested too deeply" in told


def test_an_empty_file_and_none_are_refused(tmp_path: Path) -> None:
    assert "holds no question" in refusal(tmp_path, "\n")
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: cannot be read: No such file"):
        read_questions(tmp_path / "nowhere.jsonl")


def test_of_very_many_mistakes_the_rest_is_counted(tmp_path: Path) -> None:
    assert "and 10 more" in refusal(tmp_path, *[{"no": 1}] * 30)
