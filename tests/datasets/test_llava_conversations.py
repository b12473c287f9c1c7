"""LLaVA's layout: rows about text, pictures, clips or several; what disagrees is named."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.types import MediaItem
from video_llama.datasets.llava_conversations import LlavaConversations
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.stream import SampleRef

GOOD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


def said(*texts):
    """Questions and answers in turn."""
    return [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)
    ]


def reader_of(path, *rows, **keys):
    path = path if path.suffix else path / "rows.json"
    path.write_text(json.dumps(rows))
    keys = {"annotations": str(path), "media": "m", **keys}
    return LlavaConversations(LlavaConversations.Config(**keys), name="tune")


def parts_of(message):
    return [
        (part.kind, part.path) if isinstance(part, MediaItem) else part for part in message.content
    ]


@pytest.mark.parametrize(
    ("row", "opening"),
    [
        ({"conversations": said("What?", "x"), "model": "gpt-4"}, ["What?"]),
        (
            {"image": "1.jpg", "conversations": said("<image>\nWhat?", "x")},
            [("image", "m/1.jpg"), "What?"],
        ),
        (
            {"image": "1.jpg", "conversations": said("What?\n<image>", "x")},
            ["What?", ("image", "m/1.jpg")],
        ),
        (
            {"video": ["a.mp4"], "conversations": said("<video>\nWhat?", "x")},
            [("video", "m/a.mp4"), "What?"],
        ),
        (
            {
                "video": ["a.mp4", "b.mp4"],
                "image": "1.jpg",
                "conversations": said("<video>, <image> or <video>?", "x"),
            },
            [("video", "m/a.mp4"), ",", ("image", "m/1.jpg"), "or", ("video", "m/b.mp4"), "?"],
        ),
    ],
    ids=["text", "picture", "picture behind", "clip", "mixed"],
)
def test_a_row_of_every_kind_is_read_as_it_stands(tmp_path, row, opening):
    sample = reader_of(tmp_path, {"id": "7", **row}).sample(0)
    assert parts_of(sample.messages[0]) == opening
    assert parts_of(sample.messages[1]) == ["x"]
    assert (sample.key, sample.form) == ("7", "instruct")


@given(st.lists(st.sampled_from(["image", "video"]), max_size=6), st.integers(1, 3))
def test_marks_take_their_files_in_text_order_however_kinds_alternate(
    tmp_path_factory, kinds, num_questions
):
    questions = ["q"] * num_questions
    for place, kind in enumerate(kinds):
        questions[place * num_questions // max(len(kinds), 1)] += f" <{kind}>"
    names = {kind: [f"{kind}{n}" for n in range(kinds.count(kind))] for kind in set(kinds)}
    row = {"conversations": said(*(t for q in questions for t in (q, "a"))), **names}
    sample = reader_of(tmp_path_factory.mktemp("rows"), row).sample(0)
    left = {kind: iter(listed) for kind, listed in names.items()}
    assert [item.path for item in sample.media] == [f"m/{next(left[kind])}" for kind in kinds]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "1.jpg", "conversations": said("What?", "x")}, "0 marks <image>, but 'image' "),
        ({"conversations": said("<video> What?", "x")}, "1 marks <video>, but 'videos' lists 0"),
        (
            {"image": ["1.jpg"], "conversations": said("<image><image> What?", "x")},
            "2 marks <image>, but 'image' lists 1 file$",
        ),
        (
            {"image": "1.jpg", "conversations": said("What?", "<image> x")},
            "message 2 of the assistant holds media",
        ),
        ({"conversations": said("What?")}, "1 messages, the last question has no answer"),
        (
            {"conversations": [*said("a", "b"), {"from": "gpt", "value": "c"}]},
            "message 3 is from the assistant, expected user or human",
        ),
        (
            {"conversations": [*said("a", "b", "c"), {"from": "human", "value": "c"}]},
            "message 4 is from the user, expected assistant or gpt",
        ),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "unknown role 'bot'"),
        ({"conversations": said("a", None)}, "message 2: expected a text or a list of parts"),
        ({"image": 3, "conversations": said("<image> a", "b")}, "expected the path of a file"),
        ({"id": "4", "image": "1.jpg"}, "no list 'messages' or 'conversations'"),
        ({"conversations": []}, r"no list 'conversations' with messages in it, found \[\]"),
        ({"conversations": "hello"}, "no list 'conversations' with messages in it, found 'hello'"),
        (
            {"conversations": [{"from": "gpt", "value": "x"}]},
            "nothing but an answer that nobody asked for",
        ),
    ],
)
def test_a_row_that_does_not_fit_costs_itself_and_says_why(tmp_path, row, reason):
    reader = reader_of(tmp_path, GOOD, row, GOOD)
    assert len(reader) == 3
    with pytest.raises(MediaError, match=reason) as caught:
        reader.sample(1)
    assert caught.value.path == f"{tmp_path / 'rows.json'} row 2"
    assert reader.sample(2).messages[1].text == "a"


def test_an_answer_nobody_asked_for_is_left_out_and_counted(tmp_path, caplog):
    opened = {"conversations": [{"from": "gpt", "value": "Hello."}, *said("q", "a")]}
    reader = reader_of(tmp_path, opened, GOOD, opened)
    with caplog.at_level(logging.INFO):
        assert [message.text for message in reader.sample(0).messages] == ["q", "a"]
    (told,) = [text for text in caplog.messages if "left out" in text]
    assert told == "datasets.tune: 2 conversations open with an answer, which is left out"


def test_a_mark_in_an_answer_that_is_left_out_is_missed(tmp_path):
    turns = [{"from": "gpt", "value": "<image> Hello."}, *said("q", "a")]
    reader = reader_of(tmp_path, GOOD, {"image": "1.jpg", "conversations": turns})
    with pytest.raises(MediaError, match="0 marks <image>"):
        reader.sample(1)


def test_ids_that_come_twice_and_rows_without_one_have_keys_of_their_own(tmp_path):
    ids = [{"id": 5}, {"id": "5"}, {}, {"id": ""}, {"id": None}, {"id": 0}]
    reader = reader_of(tmp_path, *({**row, **GOOD} for row in ids))
    keys = [reader.key(index) for index in range(len(ids))]
    assert keys == ["5", "5#2", *(f"rows.json row {row}" for row in (3, 4, 5)), "0"]


def test_several_files_are_one_data_set_in_the_order_they_are_named(tmp_path):
    for name in ("z.json", "a.json"):
        (tmp_path / name).write_text(json.dumps([{"id": name, **GOOD}]))
    paths = (str(tmp_path / "z.json"), str(tmp_path / "a.json"))
    reader = reader_of(tmp_path / "unused.json", GOOD, annotations=paths)
    assert [reader.key(index) for index in range(len(reader))] == ["z.json", "a.json"]


def test_every_file_and_folder_that_is_not_there_is_named_at_once(tmp_path):
    keys = {
        "annotations": (str(tmp_path / "rows.json"), str(tmp_path / "none.json")),
        "media": str(tmp_path),
        "video_folder": str(tmp_path / "clips"),
    }
    problems = reader_of(tmp_path, GOOD, **keys).missing()
    assert [problem.split(": ")[0] for problem in problems] == [
        "datasets.tune.annotations",
        "datasets.tune.video_folder",
    ]
    assert f"there is no {tmp_path / 'none.json'}" in problems[0]


def test_pictures_and_clips_have_folders_of_their_own(tmp_path):
    row = {"image": "1.jpg", "video": "a.mp4", "conversations": said("<image><video>?", "x")}
    reader = reader_of(tmp_path, row, image_folder="pictures", video_folder="clips")
    assert [item.path for item in reader.sample(0).media] == ["pictures/1.jpg", "clips/a.mp4"]


def picture_rows(folder, *, num, there):
    """Rows about pictures of which so many are there, and one row about nothing."""
    for number in range(there):
        (folder / f"{number}.jpg").touch()
    rows = [
        {"image": f"{number}.jpg", "conversations": said("<image>?", "x")} for number in range(num)
    ]
    return [*rows, GOOD]


def test_a_folder_without_any_of_the_pictures_is_the_wrong_one_even_if_text_needs_none(tmp_path):
    rows = picture_rows(tmp_path, num=5, there=0)
    (problem,) = reader_of(tmp_path, *rows, media=str(tmp_path)).missing()
    assert problem.startswith(f"datasets.tune.media: {tmp_path}: none of 5 files looked for")


@pytest.mark.parametrize(("num", "there"), [(5, 1), (3, 0)], ids=["one is there", "few"])
def test_some_missing_pictures_are_single_samples(tmp_path, num, there):
    rows = picture_rows(tmp_path, num=num, there=there)
    assert reader_of(tmp_path, *rows, media=str(tmp_path)).missing() == []


def test_a_rare_kind_is_judged_too(tmp_path):
    clips = [{"video": f"{n}.mp4", "conversations": said("<video>?", "x")} for n in range(400)]
    rows = [row for n, clip in enumerate(clips) for row in [GOOD] * (n % 3) + [clip]]
    (problem,) = reader_of(tmp_path, *rows, media=str(tmp_path)).missing()
    assert "files looked for can be read: there is no" in problem
    assert ".mp4" in problem


def test_a_missing_picture_is_a_named_skip_filled_by_another_picture(
    tmp_path, media_dir, make_encoder
):
    names = ["1.jpg", "gone.jpg", "2.jpg"]
    rows = [{"id": n, "image": n, "conversations": said("<image>?", "x")} for n in names]
    reader = reader_of(tmp_path, *rows, GOOD, media=str(media_dir / "image"))
    data = MixtureDataset({"tune": reader}, encoder=make_encoder(), seed=1)
    sample = data[SampleRef("tune", 1, 0, 0)]
    (skip,) = sample.skips
    assert (skip.key, skip.path) == ("gone.jpg", str(media_dir / "image" / "gone.jpg"))
    assert skip.reason == "no such file"
    assert sample.key in ("1.jpg", "2.jpg")


def test_a_file_of_which_most_rows_are_bad_is_refused(tmp_path):
    bad = {"image": "1.jpg", "conversations": said("What?", "x")}
    with pytest.raises(ConfigError, match="rows.json row 1: 0 marks <image>"):
        len(reader_of(tmp_path, bad, bad, GOOD))


def test_a_path_of_a_file_keeps_its_subfolders(tmp_path):
    row = {"video": "valley/000001/7.mp4", "conversations": said("<video>?", "x")}
    assert reader_of(tmp_path, row).sample(0).media[0].path == str(Path("m/valley/000001/7.mp4"))
