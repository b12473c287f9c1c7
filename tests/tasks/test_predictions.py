"""Predictions survive kills and refuse strangers."""

from __future__ import annotations

import json

import pytest

from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.tasks.predictions import Prediction, PredictionStore, Shown, read_predictions

IDENTITY = {"checkpoint": "abc", "probes": ("no_media",)}


def a_prediction(key):
    shown = (Shown("video", "a.mp4", 1.0, 2.5),)
    return Prediction(
        key,
        "none",
        "colour",
        "open",
        "which?",
        "red",
        "red",
        True,
        ("red", "blue"),
        (-0.5, -2.0),
        shown,
    )


def test_predictions_come_back_as_they_went_in(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(0, [a_prediction("a"), a_prediction("b")])
    assert store.collect() == [a_prediction("a"), a_prediction("b")]
    assert read_predictions(tmp_path / "predictions.jsonl") == [
        a_prediction("a"),
        a_prediction("b"),
    ]


def test_the_final_order_is_that_of_the_chunks(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(2, [a_prediction("c")])
    store.add(0, [a_prediction("a")])
    assert [p.key for p in store.collect()] == ["a", "c"]


def test_a_chunk_of_which_half_a_line_was_written_is_not_finished(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(0, [a_prediction("a")])
    part = tmp_path / "parts" / "rank0.jsonl"
    part.write_text(part.read_text() + '{"chunk": 1, "predic')
    again = PredictionStore(tmp_path, identity=IDENTITY)
    assert again.finished() == {0}
    again.add(1, [a_prediction("b")])
    assert [p.key for p in again.collect()] == ["a", "b"]


def test_chunks_of_other_ranks_are_found(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(0, [a_prediction("a")])
    part = tmp_path / "parts" / "rank0.jsonl"
    line = json.loads(part.read_text()) | {"chunk": 1}
    part.with_name("rank7.jsonl").write_text(json.dumps(line) + "\n")
    assert store.finished() == {0, 1}


def test_a_folder_of_another_checkpoint_is_refused_with_the_difference(tmp_path):
    PredictionStore(tmp_path, identity=IDENTITY).add(0, [])
    with pytest.raises(ConfigError, match="checkpoint: 'abc' there, 'xyz' now"):
        PredictionStore(tmp_path, identity=IDENTITY | {"checkpoint": "xyz"})


def test_an_interrupted_evaluation_is_not_complete(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(0, [a_prediction("a")])
    assert not store.is_complete()
    store.collect()
    assert PredictionStore(tmp_path, identity=IDENTITY).is_complete()


def test_a_store_without_predictions_leaves_nothing(tmp_path):
    PredictionStore(tmp_path / "out", identity=IDENTITY)
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_cut_off_is_named_with_its_line(tmp_path):
    store = PredictionStore(tmp_path, identity=IDENTITY)
    store.add(0, [a_prediction("a"), a_prediction("b")])
    store.collect()
    path = tmp_path / "predictions.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(VideoLlamaError, match=r"predictions\.jsonl:2: not a prediction"):
        read_predictions(path)
