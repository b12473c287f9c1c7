"""Data that no step could learn from are refused before a weight is read or a GPU touched."""

from __future__ import annotations

import json

import pytest
import yaml
from apps.tiny_project import MODEL, NUM_CLIPS, write_project

from video_llama.apps.main import main


def said(question, answer="so"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def refusal(tmp_path, capsys, monkeypatch):
    """What training a tiny model on some rows is refused with; nothing is loaded or written."""
    path = write_project(tmp_path)
    tree = yaml.safe_load(path.read_text())
    (entry,) = tree["datasets"].values()

    def refuse(*_args, **_kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("video_llama.apps.run_parts.load_model", refuse)

    def start(rows, *, type="llava_conversations", **model):
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        data = {"type": type, "annotations": str(tmp_path / "rows.json"), "media": entry["media"]}
        tree["datasets"] = {"tune": data}
        tree["model"] |= model
        path.write_text(yaml.safe_dump(tree))
        assert main(["train", "--cfg-path", str(path)]) == 2
        assert not (tmp_path / "out").exists()
        text = " ".join(capsys.readouterr().err.split())
        assert main(["train", "--cfg-path", str(path), "--dry-run"]) == 2
        shown = " ".join(capsys.readouterr().out.split())
        assert text.removeprefix("error: ") in shown
        return text

    return start


def clips(num, question="<video>why"):
    return [
        {"id": f"c{n}", "video": f"page/{n % NUM_CLIPS}.mp4", "conversations": said(question)}
        for n in range(num)
    ]


def test_clips_that_leave_no_room_for_words_are_refused(refusal):
    # 2 slots a clip and 2 of sound, and a prompt of more than the 4 positions left.
    text = refusal(clips(4), max_txt_len=8)
    assert (
        "datasets.tune: none of 4 samples looked at with video can be trained on, e.g. c0: " in text
    )
    assert "but there are 8" in text


def test_rows_of_too_many_clips_are_refused_though_others_fit(refusal):
    many = "<video>" * 40
    rows = [
        {"id": f"m{n}", "video": ["page/0.mp4"] * 40, "conversations": said(many + "why")}
        for n in range(4)
    ]
    texts = [{"id": f"t{n}", "conversations": said("why")} for n in range(4)]
    text = refusal([*texts, *rows])
    assert "none of 4 samples looked at with video can be trained on, e.g. m0: " in text
    assert "its 40 media alone take 80 decoder positions" in text
    assert "text alone" not in text


def test_a_set_of_questions_is_no_training_set(refusal):
    rows = [{"video": "page/0.mp4", "question": "why", "answer": "so"}] * 3
    text = refusal(rows, type="mvbench")
    assert "ends with a question; a set of questions is for evaluation" in text


def test_media_that_no_branch_takes_are_refused(refusal):
    rows = [{"id": "s", "audio": "page/0.mp4", "conversations": said("<audio>why")}, *clips(1)]
    text = refusal(rows, branches={**MODEL["branches"], "audio": None})
    assert "datasets.tune: holds audio, but no branch takes it" in text
