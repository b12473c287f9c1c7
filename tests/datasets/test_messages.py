"""People's own conversations, in the layouts they already have."""

import gzip
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
        *(
            {
                "messages": [
                    {"role": "user", "content": [part, {"type": "text", "text": "What?"}]},
                    ANSWER,
                ]
            }
            for part in (
                {"type": "video_url", "video_url": {"url": "a.mp4"}},
                {"type": "video_url", "video_url": "file://a.mp4"},
                {"type": "video", "path": "a.mp4"},
            )
        ),
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "<video>What?"}]},
                ANSWER,
            ],
            "videos": [{"path": "a.mp4"}],
        },
    ],
    ids=[
        "mark",
        "no mark",
        "parts",
        "sharegpt",
        "url object",
        "url",
        "path",
        "mark in a part",
    ],
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


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "f"}}, "image"),
        ({"type": "input_audio", "input_audio": {"path": "f"}}, "audio"),
        ({"type": "audio_url", "audio_url": {"url": "f"}}, "audio"),
    ],
)
def test_parts_of_other_names_are_understood(tmp_path, part, kind):
    content = [part, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": content}, ANSWER]}
    assert parts_of(read(tmp_path, row).sample(0).messages[0])[0] == (kind, "m/f")


def test_seconds_may_stand_beside_the_path_inside_a_part(tmp_path):
    part = {"type": "video_url", "video_url": {"url": "a.mp4", "start": 1, "end": 2}}
    row = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}, ANSWER]}
    item = read(tmp_path, row).sample(0).messages[0].media[0]
    assert (item.path, item.start_s, item.end_s) == ("m/a.mp4", 1.0, 2.0)


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_file_may_be_cut_to_seconds(tmp_path, is_listed):
    span = {"start": 1.5, "end": 4}
    part = {"type": "video", "video": "a.mp4", **span}
    question = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    row = {"messages": [question, ANSWER]}
    if is_listed:
        row = {"messages": [{"role": "user", "content": "<video>What?"}, ANSWER]}
        row["videos"] = [{"path": "a.mp4", **span}]
    item = read(tmp_path, row).sample(0).messages[0].media[0]
    assert (item.path, item.start_s, item.end_s) == ("m/a.mp4", 1.5, 4.0)


def test_rows_without_media_are_text(tmp_path):
    row = {"messages": [{"role": "user", "content": "What?"}, ANSWER]}
    assert read(tmp_path, row).sample(0).media == []


@pytest.mark.parametrize("name", ["own.json", "own.jsonl.gz"])
def test_lists_and_compressed_lines_are_read_too(tmp_path, name):
    row = {"messages": [ANSWER], "video": "a.mp4"}
    content = json.dumps([row, row]) if name == "own.json" else f"{json.dumps(row)}\n" * 2
    data = gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
    (tmp_path / name).write_bytes(data)
    for annotations in (tmp_path / name, tmp_path):
        config = Messages.Config(annotations=str(annotations), media="m")
        assert len(Messages(config, name="own")) == 2


def test_half_a_compressed_file_is_named(tmp_path):
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"messages": [ANSWER]}).encode() * 99)[:-9])
    reader = Messages(Messages.Config(annotations=str(path), media="m"), name="own")
    with pytest.raises(ConfigError, match="own.jsonl.gz: not a complete gzip file"):
        len(reader)


def user(content, **lists):
    return {"messages": [{"role": "user", "content": content}, ANSWER], **lists}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "expected an object, found list"),
        ({"text": "x"}, r"no list 'messages' or 'conversations' \(it has: text\)"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "message 1: unknown role 'robot', expected one of system, user, human",
        ),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "message 1: unknown role 'tool'"),
        ({"messages": ["x"]}, "message 1: expected an object, found str"),
        ({"messages": [{"role": "user", "content": "x"}]}, "expected a message of the assistant"),
        (user(3), "message 1: expected a text or a list of parts, found 3"),
        (user("<video>?"), "1 marks <video>, but 'videos' lists 0 files"),
        (user("<video>?", videos=["a", "b"]), "1 marks <video>, but 'videos' lists 2 files"),
        (user("<image><image>?", image="a"), "2 marks <image>, but 'image' lists 1 file$"),
        (user("<image>?", image="a", audio="b"), "no mark <audio> says where they go.*is b"),
        (user("?", video=3), "'video': expected the path of a file, found 3"),
        (user([{"type": "film", "film": "a"}]), "expected parts like .*'film'"),
        (user([{"type": "video"}]), "message 1: expected the path of a file, found"),
        (
            user([{"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}]),
            "write what 'data' holds into a file",
        ),
        (user("?", video="https://x.org/a.mp4"), "'https://x.org/a.mp4' is no file; download it"),
        (user([{"type": "video", "video": "a", "start": -1}]), "'start' must be seconds, found -1"),
        (user([{"type": "video", "video": "a", "start": 2, "end": 2}]), "must come after 'start'"),
        (
            {
                "messages": [
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "content": "<image>"},
                ],
                "image": "a",
            },
            "message 2 of the assistant holds media",
        ),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong(tmp_path, row, reason):
    reader = read(tmp_path, "", row)
    with pytest.raises(ConfigError, match=rf"own\.jsonl:2: .*{reason}"):
        len(reader)


def test_all_bad_rows_are_told_together(tmp_path):
    reader = read(tmp_path, *["{not json"] * 5, {"messages": [ANSWER]})
    with pytest.raises(ConfigError) as caught:
        len(reader)
    assert [text.partition(": ")[0][-1] for text in caught.value.problems] == list("12345")
