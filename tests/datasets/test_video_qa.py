"""Questions and answers in two files are joined by their ids; what does not join is named."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError, MediaError
from video_llama.datasets.video_qa import VideoQA
from video_llama.tasks.questions import chunks, read_question


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def question(number, *, video="vid", **more):
    return {
        "video_name": f"{video}{number}",
        "question": f"what is {number}",
        "question_id": number,
        **more,
    }


def answer(number, **more):
    return {"answer": f"thing {number}", "question_id": number, **more}


@pytest.fixture
def open_set(tmp_path):
    """A reader of questions and answers about clips of which those with these names are there."""

    def open_them(questions, answers, *, clips=(), **keys):
        folder = tmp_path / "videos"
        folder.mkdir(exist_ok=True)
        for name in clips:
            (folder / name).touch()
        config = VideoQA.Config(
            annotations=write(tmp_path / "test_q.json", questions),
            answers=write(tmp_path / "test_a.json", answers),
            media=str(folder),
            **keys,
        )
        return VideoQA(config, name="msvd")

    return open_them


def pairs_of(reader):
    """Right answers by question."""
    samples = (reader.sample(index) for index in range(len(reader)))
    return {sample.messages[0].text: sample.meta["answer"] for sample in samples}


def test_a_question_is_about_its_clip_and_knows_its_answer(open_set):
    reader = open_set([question(7)], [answer(7)], clips=["vid7.mp4"])
    sample = reader.sample(0)
    assert sample.media[0].path.endswith("videos/vid7.mp4")
    assert (sample.messages[0].role, sample.messages[0].text) == ("user", "what is 7")
    assert (sample.key, sample.form, sample.meta["answer"]) == ("7", "chat", "thing 7")
    asked = read_question(sample)
    assert (asked.kind, asked.form, asked.answer) == ("all", "open", "thing 7")


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.booleans())
def test_answers_in_any_order_pair_with_their_questions(tmp_path_factory, chance, num, as_text):
    folder = tmp_path_factory.mktemp("qa")
    answers = [answer(number) for number in range(num)]
    if as_text:
        answers = [{**row, "question_id": str(row["question_id"])} for row in answers]
    chance.shuffle(answers)
    (folder / "vid0.mp4").touch()
    config = VideoQA.Config(
        annotations=write(folder / "q.json", [question(n, video_name="vid0") for n in range(num)]),
        answers=write(folder / "a.json", answers),
        media=str(folder),
    )
    expected = {f"what is {number}": f"thing {number}" for number in range(num)}
    assert pairs_of(VideoQA(config, name="qa")) == expected


@pytest.mark.parametrize("num_shards", [1, 4])
def test_every_shard_of_the_questions_keeps_its_own_answers(open_set, num_shards):
    numbers = list(range(30))
    answers = [answer(number) for number in numbers]
    random.Random(3).shuffle(answers)
    reader = open_set(
        [question(number) for number in numbers], answers, clips=[f"vid{n}.avi" for n in numbers]
    )
    questions = [read_question(reader.sample(index)) for index in range(len(reader))]
    pieces = chunks(questions, clips_per_chunk=2)
    shards = [pieces[shard::num_shards] for shard in range(num_shards)]
    told = [q for shard in shards for piece in shard for q in piece]
    assert sorted(q.text for q in told) == sorted(f"what is {number}" for number in numbers)
    assert all(q.answer == q.text.replace("what is", "thing") for q in told)


@pytest.mark.parametrize(
    ("questions", "answers", "reason"),
    [
        (
            [question(1), question(2)],
            [answer(1)],
            r"test_q\.json row 2: question_id '2' has no answer in .*test_a\.json",
        ),
        (
            [question(1), question(1)],
            [answer(1)],
            r"test_q\.json row 2: question_id 1 is that of .*test_q\.json row 1 too",
        ),
        (
            [question(1)],
            [answer(1), answer("1")],
            r"test_a\.json row 2: question_id '1' is that of .*test_a\.json row 1 too",
        ),
        (
            [{"video_name": "v", "question": "?"}],
            [answer(1)],
            r"test_q\.json row 1: no 'question_id' \(it has: video_name, question\)",
        ),
        ([question(1)], [{"answer": "x"}], r"test_a\.json row 1: no 'question_id'"),
        ([question(None)], [answer(1)], r"row 1: question_id is None"),
        ([question(1)], [{"question_id": 1}], r"test_a\.json row 1: no 'answer'"),
        ([question(1)], {"1": "x"}, "test_a.json: expected a list of rows, found dict"),
    ],
    ids=[
        "no answer",
        "two questions",
        "two answers",
        "question without id",
        "answer without id",
        "id of nothing",
        "answer without text",
        "no list",
    ],
)
def test_what_does_not_join_is_refused_and_named(open_set, questions, answers, reason):
    reader = open_set(questions, answers, clips=["vid1.mp4"])
    with pytest.raises(ConfigError, match=reason):
        len(reader)
    assert reader.missing()[0].startswith("datasets.msvd.annotations: ")


def test_a_part_of_the_questions_may_be_asked_of_all_answers(open_set, caplog):
    reader = open_set([question(2)], [answer(n) for n in range(5)], clips=["vid2.mp4"])
    assert pairs_of(reader) == {"what is 2": "thing 2"}
    assert "datasets.msvd: 4 of 5 answers belong to no question" in caplog.messages


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mov", "mkv", "webm", "gif"])
def test_a_clip_is_found_in_any_container(open_set, suffix):
    reader = open_set([question(1)], [answer(1)], clips=[f"vid1.{suffix}"])
    assert reader.sample(0).media[0].path.endswith(f"vid1.{suffix}")


def test_a_name_with_its_container_and_one_with_a_dot_are_found(open_set):
    questions = [question(1, video_name="a.b"), question(2, video_name="c.mp4")]
    reader = open_set(questions, [answer(1), answer(2)], clips=["a.b.mp4", "c.mp4"])
    assert [reader.sample(i).media[0].path.rsplit("/")[-1] for i in (0, 1)] == ["a.b.mp4", "c.mp4"]


def test_the_prefix_of_activitynet_is_put_in_front_where_it_is_missing(open_set):
    questions = [question(1, video_name="x1"), question(2, video_name="v_x2")]
    clips = ["v_x1.mp4", "v_x2.mkv"]
    reader = open_set(questions, [answer(1), answer(2)], clips=clips, prefix="v_")
    assert [reader.sample(i).media[0].path.rsplit("/")[-1] for i in (0, 1)] == clips


def test_a_clip_that_is_not_there_costs_its_question_and_says_what_was_looked_for(open_set):
    reader = open_set(
        [question(1), question(2)], [answer(1), answer(2)], clips=["vid1.mp4"], prefix="v_"
    )
    assert reader.missing() == []
    with pytest.raises(MediaError, match=r"no such clip, looked for vid2 and v_vid2 with \.mp4, "):
        reader.sample(1)
    assert reader.key(1) == "2"


def test_a_folder_without_any_of_the_clips_is_told_before_the_start(open_set):
    (problem,) = open_set([question(1)], [answer(1)]).missing()
    assert "vid1: no such clip" in problem


def test_a_file_of_answers_that_is_not_there_is_told_with_all_others(open_set, tmp_path):
    reader = open_set([question(1)], [answer(1)], clips=["vid1.mp4"])
    (tmp_path / "test_a.json").unlink()
    (tmp_path / "test_q.json").unlink()
    problems = reader.missing()
    assert [text.split(": ")[0] for text in problems] == [
        "datasets.msvd.annotations",
        "datasets.msvd.answers",
    ]


@pytest.mark.parametrize(
    ("told", "kind"), [({"type": 3}, "type 3"), ({"type": "motion"}, "motion"), ({}, "all")]
)
def test_the_type_of_an_answer_is_the_kind_of_its_question(open_set, told, kind):
    reader = open_set([question(1)], [answer(1, **told)], clips=["vid1.mp4"])
    assert read_question(reader.sample(0)).kind == kind


def test_an_answer_that_is_a_number_is_its_digits(open_set):
    reader = open_set([question(1)], [{"answer": 2, "question_id": 1}], clips=["vid1.mp4"])
    assert read_question(reader.sample(0)).answer == "2"


def test_a_question_without_words_costs_itself(open_set):
    questions = [question(1), question(2, question=" ")]
    reader = open_set(questions, [answer(1), answer(2)], clips=["vid1.mp4", "vid2.mp4"])
    with pytest.raises(MediaError, match="question is empty"):
        reader.sample(1)
