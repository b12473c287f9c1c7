"""Rows that cannot be used cost a sample each, by file and number; a wrong file is refused."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import webvid, write_table

from video_llama.common.errors import ConfigError, MediaError
from video_llama.datasets.cc_sbu import CcSbuAlign
from video_llama.datasets.llava_instruct import LlavaInstruct
from video_llama.datasets.messages import Messages
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.mvbench import MVBench
from video_llama.datasets.stream import SampleRef
from video_llama.datasets.video_instruct import VideoInstruct

TURN = {"role": "user", "content": "<video>What?"}
GOOD = {
    CcSbuAlign: {"image_id": "1", "caption": "a bus"},
    LlavaInstruct: {
        "id": "1",
        "image": "1.jpg",
        "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a bus"}],
    },
    VideoInstruct: {"video": "page/0.mp4", "QA": [{"q": "what?", "a": "a bus"}]},
    MVBench: {"video": "page/0.mp4", "question": "what?", "answer": "a", "candidates": ["a", "b"]},
    Messages: {
        "messages": [TURN, {"role": "assistant", "content": "a bus"}],
        "videos": ["page/0.mp4"],
    },
}


def reader_of(cls, path, rows, media):
    content = {"annotations": rows} if cls is CcSbuAlign else rows
    path.write_text(json.dumps(content))
    return cls(cls.Config(annotations=str(path), media=str(media)), name="own")


def read_all(reader):
    """Return what is wrong with each sample, None if nothing."""
    faults = []
    for index in range(len(reader)):
        reader.key(index), reader.kinds_of(index)
        try:
            reader.sample(index)
        except MediaError as error:
            faults.append(str(error))
        else:
            faults.append(None)
    return faults


@pytest.mark.parametrize("cls", GOOD)
@pytest.mark.parametrize("bad", [7, None, "text", [], {}, {"caption": float("nan")}])
def test_a_row_of_another_type_is_one_sample_that_cannot_be_used(cls, bad, tmp_path):
    rows = [GOOD[cls], bad, GOOD[cls]]
    before, fault, after = read_all(reader_of(cls, tmp_path / "a.json", rows, tmp_path))
    assert before is after is None
    assert "a.json row 2" in fault


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "\ud800", "<video>", "human", "gpt", "user", "a/../b", "x" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["q", "a", "from", "value", "role", "content"]), inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("cls", GOOD)
def test_no_value_in_a_row_stops_the_reader(cls, tmp_path):
    @settings(max_examples=60, deadline=None)
    @given(changes=st.dictionaries(st.sampled_from(sorted(GOOD[cls])), values, min_size=1))
    def check(changes):
        rows = [GOOD[cls], {**GOOD[cls], **changes}, GOOD[cls]]
        before, fault, after = read_all(reader_of(cls, tmp_path / "a.json", rows, tmp_path))
        assert before is after is None
        assert fault is None or "a.json row 2" in fault

    check()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_a_name_no_file_can_have_does_not_stop_the_reader(name, tmp_path):
    rows = [GOOD[LlavaInstruct], {**GOOD[LlavaInstruct], "image": name}, GOOD[LlavaInstruct]]
    before, _, after = read_all(reader_of(LlavaInstruct, tmp_path / "a.json", rows, tmp_path))
    assert before is after is None


def test_a_conversation_without_a_text_still_tells_its_kinds_of_media(tmp_path):
    turns = [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "a bus"}]
    rows = [GOOD[Messages], {"messages": turns, "videos": ["a.mp4"]}, 7, GOOD[Messages]]
    reader = reader_of(Messages, tmp_path / "a.json", rows, tmp_path)
    assert [reader.kinds_of(i) for i in range(4)] == [{"video"}, {"video"}, None, {"video"}]
    assert "a text of the user is empty" in read_all(reader)[1]


def test_a_stray_comma_costs_its_row_and_is_told_with_its_line(tmp_path, media_dir, caplog):
    (tmp_path / "t.csv").write_text("videoid,name,page_dir\n0,a,page\n1,b, c,page\n3,d,page\n")
    reader = webvid(tmp_path / "t.csv", media_dir)
    assert [fault is None for fault in read_all(reader)] == [True, False, True]
    assert "t.csv:3: 4 cells" in read_all(reader)[1]
    assert "t.csv:3: 4 cells" in caplog.text
    assert reader.missing() == []


def test_a_bad_row_is_a_named_skip_of_the_mixture(tmp_path, media_dir, make_encoder):
    (tmp_path / "t.csv").write_text("videoid,name,page_dir\n0,a,page\n1,b, c,page\n3,d,page\n")
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    sample = data[SampleRef("clips", 1, 0, 40)]
    (skip,) = sample.skips
    assert skip.path == f"{tmp_path / 't.csv'}:3"
    assert skip.reason.startswith("4 cells")
    assert reader.key(skip.filled_by) == sample.key


def test_a_file_of_which_most_rows_are_bad_is_refused(tmp_path):
    rows = [{"caption": "no id"}, {"caption": "no id"}, GOOD[CcSbuAlign]]
    (problem, _) = reader_of(CcSbuAlign, tmp_path / "a.json", rows, tmp_path).missing()
    assert problem.startswith("datasets.own.annotations: ")
    assert "a.json row 1: no 'image_id'" in problem


def test_a_file_that_breaks_off_is_refused_whatever_came_before(tmp_path):
    write_table(tmp_path / "t.csv", [(str(i), "a", "page") for i in range(9)])
    with (tmp_path / "t.csv").open("ab") as file:
        file.write(b"9,\xff,page\n")
    with pytest.raises(ConfigError, match=r"t\.csv: not UTF-8"):
        len(webvid(tmp_path / "t.csv", tmp_path))


def test_a_table_whose_captions_are_all_empty_is_refused(tmp_path, media_dir):
    write_table(tmp_path / "t.csv", [(str(i), "nan", "page") for i in range(5)])
    (problem,) = webvid(tmp_path / "t.csv", media_dir).missing()
    assert problem.startswith("datasets.clips.annotations: none of 5 rows looked at can be used")
    assert "t.csv:2: the caption is empty" in problem


def test_media_that_may_not_be_read_are_a_mistake_of_the_configuration(
    table, media_dir, monkeypatch
):
    # Permissions do not bind the superuser, as whom tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(".mp4"))
    (problem,) = webvid(table, media_dir).missing()
    assert problem.startswith(f"datasets.clips.media: {media_dir}: none of 6 files")
    assert "0.mp4: this user may not read it (looked for " in problem
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    problems = webvid(table, media_dir).missing()
    assert [text.split(":")[0] for text in problems] == [
        "datasets.clips.annotations",
        "datasets.clips.media",
    ]


def test_a_folder_above_that_may_not_be_entered_is_told(table, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("video_llama.datasets.base.missing_path", refuse)
    problems = webvid(table, tmp_path).missing()
    assert problems[1] == f"datasets.clips.media: {tmp_path}: Permission denied"
