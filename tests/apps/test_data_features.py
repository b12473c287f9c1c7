"""`video-llama data features` on small clips with the shipped toy encoders."""

import json
import signal

import pytest
import torch
import yaml
from tiny_project import break_clips, write_clips, write_project

from video_llama.apps import data_features
from video_llama.apps.main import main
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.models.decoders.causal_lm import CausalLM

LEARNS = {"trainable": True}
BRIDGES = {
    "video": {"stages": {"video_qformer": LEARNS, "projection": LEARNS}},
    "audio": {"stages": {"audio_qformer": LEARNS, "projection": LEARNS}},
}


@pytest.fixture
def project(tmp_path):
    """The toy model on eight clips with sound, features kept beside them."""
    path = write_project(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["model"] = {"arch": "video_llama", "model_type": "toy", "branches": BRIDGES}
    tree["run"] |= {"feature_cache": str(tmp_path / "features"), "num_workers": 0}
    path.write_text(yaml.safe_dump(tree))
    return path


def compute(project, *flags, options=()):
    report = project.parent / "report.json"
    words = ["--report", str(report), *flags, "--options", "run.seed=0", *options]
    code = main(["data", "features", "--cfg-path", str(project), *words])
    return code, json.loads(report.read_text())


def entries(folder):
    """What a cache holds: features by key."""
    lines = [
        json.loads(line)
        for index in sorted(folder.glob("*.jsonl"))
        for line in index.read_text().splitlines()
    ]
    cache = FeatureCache(folder)
    return {line["key"]: cache.get(line["key"]).features for line in lines if "key" in line}


def test_features_computed_ahead_are_those_of_training(project):
    assert compute(project)[0] == 0
    ahead = entries(project.parent / "features")
    other = project.parent / "of_training"
    words = ["train", "--cfg-path", str(project), "--options"]
    assert main([*words, f"run.feature_cache={other}", "run.max_epoch=1"]) == 0
    trained = entries(other)
    # Two steps of four: every clip once, pictures and sound of each.
    assert len(trained) == 16
    assert trained.keys() == ahead.keys()
    assert all(torch.equal(trained[key], ahead[key]) for key in trained)


def test_what_is_there_is_not_computed_again(project):
    assert compute(project)[1]["num_computed"] == 8
    again = compute(project)[1]
    assert (again["num_computed"], again["num_found"], again["num_done"]) == (0, 8, 8)


def test_what_was_computed_before_a_stop_is_kept(project, monkeypatch):
    done = []

    def keep(loaded, **parts):
        done.append(loaded)
        original(loaded, **parts)
        if len(done) == 3:
            signal.raise_signal(signal.SIGTERM)

    original = data_features._keep
    monkeypatch.setattr(data_features, "_keep", keep)
    code, report = compute(project)
    assert code == 130
    assert report["num_done"] == 3
    code, report = compute(project)
    assert code == 0
    assert (report["num_found"], report["num_computed"]) == (3, 5)


def test_files_that_cannot_be_used_are_named_and_the_others_kept(project, capsys):
    break_clips(project.parent / "clips")
    code, report = compute(project)
    assert code == 1
    # Cut off, without sound, empty; the clip of one frame can be used.
    assert {path.rsplit("/", 1)[1] for path in report["broken"]} == {"0.mp4", "1.mp4", "3.mp4"}
    assert report["num_computed"] == 5
    assert "3.mp4: " in capsys.readouterr().out


def test_no_decoder_is_loaded(project, monkeypatch):
    def load_nothing(self, directory, *, dtype):
        raise AssertionError(f"{directory} was opened")

    monkeypatch.setattr(CausalLM, "_load", load_nothing)
    assert compute(project)[0] == 0


def test_a_checkpoint_that_is_not_trained_yet_is_not_missed(project):
    assert compute(project, options=["model.ckpt=output/nothing_is_here_yet"])[0] == 0


def test_a_run_file_without_a_cache_is_refused(project, capsys):
    words = ["data", "features", "--cfg-path", str(project), "--options"]
    assert main([*words, "run.feature_cache=null"]) == 2
    assert "run.feature_cache" in capsys.readouterr().err


def test_an_encoder_that_learns_has_nothing_to_keep(project, capsys):
    words = ["data", "features", "--cfg-path", str(project), "--options"]
    assert main([*words, "model.branches.video.encoder.trainable=true"]) == 2
    assert "model.branches.video" in capsys.readouterr().err


def test_two_questions_about_a_clip_read_it_once(project):
    tree = yaml.safe_load(project.read_text())
    tree["datasets"]["again"] = dict(tree["datasets"]["clips"])
    project.write_text(yaml.safe_dump(tree))
    assert compute(project)[1]["num_files"] == 8


def test_clips_can_be_added_later(project):
    compute(project, "--dataset", "clips")
    write_clips(project.parent / "more")
    tree = yaml.safe_load(project.read_text())
    tree["datasets"]["more"] = tree["datasets"]["clips"] | {"media": str(project.parent / "more")}
    project.write_text(yaml.safe_dump(tree))
    # Other files with the same content: known by what is in them.
    assert compute(project)[1]["num_computed"] == 0
