"""People's own conversations, in the layouts they already have."""

import json

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.types import MediaItem
from video_llama.datasets.messages import Messages

ANSWER = {"role": "assistant", "content": "A ball."}


def read(tmp_path, *rows, name="own.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return Messages(Messages.Config(annotations=str(path), media="m"), name="own")


def parts_of(message):
    return [(p.kind, p.path) if isinstance(p, MediaItem) else p for p in message.content]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "<video>What?"}, ANSWER], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "What?"}, ANSWER], "video": "a.mp4"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": "a.mp4"},
                        {"type": "text", "text": "What?"},
                    ],
                },
                ANSWER,
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "<video>\nWhat?"},
                {"from": "gpt", "value": "A ball."},
            ],
            "video": "a.mp4",
        },
    ],
    ids=["placeholder", "no placeholder", "parts", "sharegpt"],
)
def test_every_layout_gives_the_same_sample(tmp_path, row):
    sample = read(tmp_path, row).sample(0)
    assert [m.role for m in sample.messages] == ["user", "assistant"]
    assert parts_of(sample.messages[0]) == [("video", "m/a.mp4"), "What?"]
    assert parts_of(sample.messages[1]) == ["A ball."]
    assert sample.form == "instruct"


def test_media_stand_where_their_placeholders_stand(tmp_path):
    row = {
        "messages": [
            {"role": "user", "content": "<image>One, <audio> and <image>two?"},
            ANSWER,
            {"role": "user", "content": "And <video>?"},
            ANSWER,
        ],
        "images": ["1.jpg", "2.jpg"],
        "audios": ["s.wav"],
        "videos": ["v.mp4"],
    }
    sample = read(tmp_path, row).sample(0)
    assert parts_of(sample.messages[0]) == [
        ("image", "m/1.jpg"),
        "One,",
        ("audio", "m/s.wav"),
        "and",
        ("image", "m/2.jpg"),
        "two?",
    ]
    assert parts_of(sample.messages[2])[1] == ("video", "m/v.mp4")


def test_files_open_the_first_question_and_not_the_system_text(tmp_path):
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What?"},
            ANSWER,
        ],
        "image": "1.jpg",
    }
    sample = read(tmp_path, row).sample(0)
    assert parts_of(sample.messages[0]) == ["Be brief."]
    assert parts_of(sample.messages[1])[0] == ("image", "m/1.jpg")


def test_a_lone_assistant_message_is_a_caption(tmp_path):
    sample = read(tmp_path, {"messages": [ANSWER], "video": "a.mp4"}).sample(0)
    assert sample.form == "caption"
    assert parts_of(sample.messages[0]) == [("video", "m/a.mp4"), "A ball."]


def test_keys_are_ids_or_places(tmp_path):
    row = {"messages": [ANSWER], "video": "a.mp4"}
    reader = read(tmp_path, row, "", {**row, "id": 7})
    assert [reader.key(i) for i in range(len(reader))] == ["own.jsonl:1", "7"]


def test_all_bad_lines_are_reported_with_their_numbers(tmp_path):
    reader = read(
        tmp_path,
        {"messages": [ANSWER], "video": "a.mp4"},
        "{not json",
        {"text": "x"},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": "<video>?"}, ANSWER]},
        {"messages": [{"role": "user", "content": "<video>?"}], "videos": ["a", "b"]},
        {"messages": [{"role": "user", "content": [{"type": "film", "film": "a"}]}]},
    )
    with pytest.raises(ConfigError) as caught:
        len(reader)
    reasons = ["not valid JSON", "no list 'messages'", "no role", "has no file", "1 listed", "film"]
    for number, (text, reason) in enumerate(zip(caught.value.problems, reasons, strict=True)):
        assert f"own.jsonl:{number + 2}: " in text
        assert reason in text
