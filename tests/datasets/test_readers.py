"""Every published layout is read as its paper has it; mistakes are named with file and row."""

import json
import pickle
from pathlib import Path

import pytest
from tables import webvid, write_table

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.parsing import parse
from video_llama.common.registry import registry
from video_llama.common.types import MediaItem
from video_llama.datasets.cc_sbu import CcSbuAlign
from video_llama.datasets.llava_instruct import LlavaInstruct
from video_llama.datasets.mvbench import MVBench
from video_llama.datasets.video_instruct import VideoInstruct
from video_llama.processors.captions import blip_caption


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def shape_of(sample):
    """A sample as (role, [kind or text, ...]) pairs."""
    return [
        (m.role, [p.kind if isinstance(p, MediaItem) else p for p in m.content])
        for m in sample.messages
    ]


# --- WebVid


def test_webvid_gives_a_cleaned_caption_behind_its_clip(table, media_dir):
    sample = webvid(table, media_dir).sample(3)
    assert shape_of(sample) == [("assistant", ["video", "clip number 3"])]
    assert sample.media[0].path == str(media_dir / "page" / "3.mp4")
    assert (sample.key, sample.dataset, sample.form) == ("page/3", "clips", "caption")
    assert sample.media[0].pixels is None


def test_a_clip_and_its_own_sound_are_two_media_of_one_file(table, media_dir):
    sample = webvid(table, media_dir, streams=("video", "audio")).sample(0)
    assert shape_of(sample)[0][1][:2] == ["video", "audio"]
    assert len({item.path for item in sample.media}) == 1


def test_tables_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    write_table(tmp_path / "b.csv", [("2", "two", "p")])
    write_table(tmp_path / "a.tsv", [("1", "one, with a comma", "p")], delimiter="\t")
    reader = webvid(tmp_path, tmp_path)
    assert [reader.key(i) for i in range(len(reader))] == ["p/1", "p/2"]
    assert reader.sample(0).messages[0].text == "one, with a comma"


@pytest.mark.parametrize(
    ("row", "what"),
    [(("1", "", "p"), "caption"), (("1", "nan", "p"), "caption"), (("1", "a dog", ""), "page_dir")],
)
def test_an_empty_cell_costs_one_sample_and_names_its_line(tmp_path, row, what):
    write_table(tmp_path / "t.csv", [("0", "fine", "p"), row])
    reader = webvid(tmp_path / "t.csv", tmp_path)
    assert reader.sample(0).messages[0].text == "fine"
    with pytest.raises(MediaError, match=rf"t\.csv:3: {what}|t\.csv:3: the {what}"):
        reader.sample(1)


def test_a_caption_of_nothing_but_marks_costs_one_sample(tmp_path):
    write_table(tmp_path / "t.csv", [("1", "...!", "p")])
    with pytest.raises(MediaError, match="is empty"):
        webvid(tmp_path / "t.csv", tmp_path).sample(0)


def test_a_table_without_its_columns_says_which_it_has(tmp_path):
    (tmp_path / "t.csv").write_text("videoid,caption\n1,x\n")
    with pytest.raises(ConfigError, match=r"t\.csv:1: no column 'name', 'page_dir' .*caption"):
        len(webvid(tmp_path / "t.csv", tmp_path))


def test_stray_commas_are_all_reported_with_their_lines(tmp_path):
    (tmp_path / "t.csv").write_text("videoid,name,page_dir\n1,a, b,p\n2,ok,p\n3,c, d,p\n")
    with pytest.raises(ConfigError) as caught:
        len(webvid(tmp_path / "t.csv", tmp_path))
    assert [text.split(": ")[0][-2:] for text in caught.value.problems] == [":2", ":4"]


def test_a_key_that_comes_twice_is_numbered(tmp_path):
    write_table(tmp_path / "t.csv", [("1", "a", "p"), ("1", "b", "p"), ("1#2", "c", "p")])
    reader = webvid(tmp_path / "t.csv", tmp_path)
    assert [reader.key(i) for i in range(3)] == ["p/1", "p/1#2", "p/1#2#2"]


def test_max_samples_reads_the_beginning(table, media_dir):
    assert len(webvid(table, media_dir, max_samples=2)) == 2


def test_a_prompt_makes_the_caption_an_answer_and_is_drawn_anew_by_seed(table, media_dir):
    reader = webvid(table, media_dir, prompts=("What is it?", "Describe it."))
    prompts = {reader.sample(0, seed=seed).messages[0].text for seed in range(20)}
    assert prompts == {"What is it?", "Describe it."}
    assert reader.sample(0, seed=4).messages == reader.sample(0, seed=4).messages
    assert shape_of(reader.sample(0))[1] == ("assistant", ["clip number 0"])


def test_captions_are_cleaned_as_blip_does():
    # By hand from the rule of LAVIS' blip_processors.py.
    assert blip_caption('A "Dog"; runs... (fast)!  #1: *wow* ~ a-b, c?') == (
        "a dog runs fast 1 wow a-b, c?"
    )
    assert blip_caption("a b c d", max_words=3) == "a b c"


def test_a_reader_travels_to_a_worker_that_is_started_afresh(table, media_dir):
    reader = webvid(table, media_dir)
    assert pickle.loads(pickle.dumps(reader)).sample(1) == reader.sample(1)


# --- what is missing


def test_everything_missing_is_said_at_once_with_the_nearest_names(table, tmp_path):
    problems = webvid(table.with_name("webvid.cvs"), tmp_path / "vidoes").missing()
    assert len(problems) == 2
    assert problems[0].startswith("datasets.clips.annotations: there is no ")
    assert "webvid.csv" in problems[0]
    assert problems[1].startswith("datasets.clips.media: ")


def test_a_media_folder_with_none_of_the_files_is_the_wrong_one(table, tmp_path):
    (problem,) = webvid(table, tmp_path).missing()
    assert f"datasets.clips.media: {tmp_path}: none of 6 files looked for can be read" in problem


def test_a_single_missing_clip_is_no_problem_of_the_run(table, media_dir, tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "4.mp4").symlink_to(media_dir / "page" / "4.mp4")
    assert webvid(table, tmp_path).missing() == []


def test_broken_annotations_are_among_the_missing_things(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"video": "a",\n  "QA": [}]')
    config = VideoInstruct.Config(annotations=str(path), media=str(tmp_path))
    (problem,) = VideoInstruct(config, name="qa").missing()
    assert f"datasets.qa.annotations: {path}:2: not valid JSON" in problem


# --- pictures with captions


def test_cc_sbu_keeps_the_caption_as_it_stands(media_dir, tmp_path):
    rows = [{"image_id": "1", "caption": " A Dog. "}, {"image_id": 2, "caption": "x"}]
    path = write_json(tmp_path / "filter_cap.json", {"annotations": rows})
    reader = CcSbuAlign(CcSbuAlign.Config(annotations=path, media=str(media_dir)), name="cc")
    assert shape_of(reader.sample(0)) == [("assistant", ["image", "A Dog."])]
    assert reader.sample(1).media[0].path == str(media_dir / "image" / "2.jpg")
    inner = CcSbuAlign.Config(annotations=path, media=str(media_dir / "image"))
    assert CcSbuAlign(inner, name="cc").sample(1).media == reader.sample(1).media


def test_cc_sbu_names_a_row_without_its_keys(tmp_path):
    path = write_json(tmp_path / "cap.json", {"annotations": [{"image": "1", "caption": "x"}]})
    reader = CcSbuAlign(CcSbuAlign.Config(annotations=path, media="."), name="cc")
    with pytest.raises(ConfigError, match=r"cap\.json row 1: no 'image_id' \(it has: image"):
        len(reader)


def test_a_list_where_an_object_is_wanted_is_refused(tmp_path):
    path = write_json(tmp_path / "cap.json", [{"image_id": "1", "caption": "x"}])
    reader = CcSbuAlign(CcSbuAlign.Config(annotations=path, media="."), name="cc")
    with pytest.raises(ConfigError, match="an object with a list 'annotations'"):
        len(reader)


# --- LLaVA


def llava(tmp_path, media_dir, conversations, *, image="1.jpg"):
    rows = [{"id": "7", "image": image, "conversations": conversations}]
    path = write_json(tmp_path / "llava.json", rows)
    config = LlavaInstruct.Config(annotations=path, media=str(media_dir / "image"))
    return LlavaInstruct(config, name="llava")


def turn(speaker, value):
    return {"from": speaker, "value": value}


@pytest.mark.parametrize("question", ["<image>\nWhat is it?", "What is it?\n<image>"])
def test_the_picture_goes_in_front_of_the_first_question(tmp_path, media_dir, question):
    turns = [
        turn("human", question),
        turn("gpt", "A bus."),
        turn("human", "Red?"),
        turn("gpt", "Yes"),
    ]
    assert shape_of(llava(tmp_path, media_dir, turns).sample(0)) == [
        ("user", ["image", "What is it?"]),
        ("assistant", ["A bus."]),
        ("user", ["Red?"]),
        ("assistant", ["Yes"]),
    ]


@pytest.mark.parametrize(
    ("image", "file"),
    [("1.jpg", "1.jpg"), ("000000000009.jpg", "COCO_train2014_000000000009.jpg")],
)
def test_a_picture_is_found_with_and_without_the_prefix_of_coco(tmp_path, media_dir, image, file):
    turns = [turn("human", "<image> q"), turn("gpt", "a")]
    reader = llava(tmp_path, media_dir, turns, image=image)
    assert reader.sample(0).media[0].path == str(media_dir / "image" / file)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([turn("gpt", "a")], "turn 1 is from 'gpt', expected 'human'"),
        ([turn("human", "q"), turn("bot", "a")], "turn 2 is from 'bot', expected 'gpt'"),
        ([turn("human", "q")], "the last question has no answer"),
        ([{"value": "q"}], "turn 1: no 'from'"),
    ],
)
def test_speakers_that_nobody_expects_are_refused(tmp_path, media_dir, turns, reason):
    with pytest.raises(ConfigError, match=reason):
        len(llava(tmp_path, media_dir, turns))


# --- VideoChat


def instruct(tmp_path, **keys):
    turns = [{"i": "", "q": f"q{i}", "a": f"a{i}"} for i in range(6)]
    path = write_json(tmp_path / "qa.json", [{"video": "page/1.mp4", "QA": turns}])
    return VideoInstruct(VideoInstruct.Config(annotations=path, media="m", **keys), name="qa")


def test_a_conversation_keeps_all_turns_and_opens_with_the_clip(tmp_path):
    sample = instruct(tmp_path, streams=("video", "audio")).sample(0)
    assert shape_of(sample)[:3] == [
        ("user", ["video", "audio", "q0"]),
        ("assistant", ["a0"]),
        ("user", ["q1"]),
    ]
    assert len(sample.messages) == 12
    assert sample.form == "instruct"


@pytest.mark.parametrize(
    ("name", "tells"), [("video_instruct", True), ("webvid_instruct_zh", False)]
)
def test_only_the_chinese_conversations_keep_the_seconds_of_frames_out(tmp_path, name, tells):
    question, answer = "\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u4e00\u53ea\u8239\u3002"
    rows = [{"video": "page/1.mp4", "QA": [{"i": "", "q": question, "a": answer}]}]
    reader_class = registry.get_dataset_class(name)
    config = reader_class.Config(annotations=write_json(tmp_path / "qa.json", rows), media="m")
    sample = reader_class(config, name="qa").sample(0)
    assert sample.frame_times is tells
    assert [message.text for message in sample.messages] == [question, answer]


def test_turns_are_chosen_anew_by_seed_and_keep_their_order(tmp_path):
    reader = instruct(tmp_path, max_turns=2)
    chosen = [[m.text for m in reader.sample(0, seed=s).messages[::2]] for s in range(40)]
    assert all(len(questions) == 2 and questions == sorted(questions) for questions in chosen)
    assert len({tuple(questions) for questions in chosen}) > 8
    assert chosen[3] == [m.text for m in reader.sample(0, seed=3).messages[::2]]


def test_shuffled_turns_keep_question_and_answer_together(tmp_path):
    reader = instruct(tmp_path, turn_order="shuffled")
    texts = [m.text for m in reader.sample(0, seed=1).messages]
    assert [q[1:] for q in texts[::2]] == [a[1:] for a in texts[1::2]]
    assert texts[::2] != sorted(texts[::2])
    assert sorted(texts[::2]) == [f"q{i}" for i in range(6)]


# --- MVBench


def test_a_question_carries_what_its_scoring_needs(tmp_path):
    row = {
        "video": "a.mp4",
        "question": "Which?",
        "candidates": ["red", "blue"],
        "answer": "blue",
        "start": 1.5,
        "end": 3,
        "kind": "colour",
    }
    path = write_json(tmp_path / "color.json", [row])
    sample = MVBench(MVBench.Config(annotations=path, media="m"), name="test").sample(0)
    assert shape_of(sample) == [("user", ["video", "Which?"])]
    assert (sample.media[0].start_s, sample.media[0].end_s) == (1.5, 3)
    assert (sample.key, sample.form) == ("color/1", "chat")
    assert sample.meta == {"task": "color", **row}


def test_an_answer_that_is_no_candidate_is_refused(tmp_path):
    row = {"video": "a.mp4", "question": "q", "candidates": ["x"], "answer": "y"}
    path = write_json(tmp_path / "t.json", [row])
    with pytest.raises(ConfigError, match="answer 'y' is not among the candidates"):
        len(MVBench(MVBench.Config(annotations=path, media="m"), name="test"))


# --- run files


def test_every_reader_can_be_written_in_a_run_file():
    names = ("webvid", "cc_sbu_align", "llava_instruct", "video_instruct", "webvid_instruct_zh")
    for name in (*names, "mvbench"):
        problems: list[str] = []
        config = parse(
            registry.get_dataset_class(name).Config,
            {"annotations": "a.json", "media": "m"},
            where="datasets.x",
            problems=problems,
        )
        assert problems == []
        assert config.annotations == "a.json"


def test_a_wrong_stream_is_refused_with_the_known_ones():
    problems: list[str] = []
    node = {"annotations": "a", "media": "m", "streams": ["vidoe"]}
    parse(registry.get_dataset_class("webvid").Config, node, where="datasets.x", problems=problems)
    assert "one of video, audio" in problems[0]
