"""`data features` as a job: how far it is, and what it is called with."""

import json

from video_llama.apps.features_job import FeaturesJob


def test_it_is_not_done_before_its_files_are_counted(tmp_path):
    job = FeaturesJob("features", tmp_path, "run.yaml", ())
    assert (job.size, job.done(), job.kept()) == (1, 0, 0)


def test_it_is_kept_once_every_file_is_done_and_not_before(tmp_path):
    job = FeaturesJob("features", tmp_path, "run.yaml", ())
    for done, kept in ((3, 0), (5, 5)):
        (tmp_path / "report.json").write_text(json.dumps({"num_files": 5, "num_done": done}))
        assert (job.size, job.done(), job.kept()) == (5, done, kept)


def test_it_is_asked_for_its_data_sets_and_reports_into_its_folder(tmp_path):
    job = FeaturesJob("f", tmp_path, "run.yaml", ("run.seed=1",), ("a", "b"), report="x.json")
    assert job.words(num_ranks=2) == [
        "data", "features", "--cfg-path", "run.yaml", "--dataset", "a", "--dataset", "b",
        "--report", str(tmp_path / "x.json"), "--options", "run.seed=1",
    ]  # fmt: skip
