"""`video-llama data check` on clips of which some are broken, small enough to count by hand."""

import json
import os
import shutil

import pytest
import yaml
from processors.made_media import shade, tone, write_clip
from tiny_project import break_clips, write_project

from video_llama.apps import data as data_app
from video_llama.apps.main import main
from video_llama.datasets.audit import SPAN, Journal, SpanReport, spans_of

NUM_CLIPS = 8
BROKEN = {
    "page/0": "0.mp4",
    "page/1": "1.mp4",
    "page/3": "3.mp4",
}
"""Cut off, without sound, empty; the clip of one frame can be used."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data_check")
    run_file = write_project(folder)
    break_clips(folder / "clips")
    return run_file


@pytest.fixture
def project(made, tmp_path):
    """A copy of the project; files keep their times."""
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    tree = yaml.safe_load(made.read_text().replace(str(made.parent), str(tmp_path)))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def check(project, *flags, jobs=0):
    words = ["data", "check", "--cfg-path", str(project), "--jobs", str(jobs), *flags]
    return main(words)


def report_of(project):
    lines = (project.parent / "out" / "data_check.jsonl").read_text().splitlines()
    *broken, summary = map(json.loads, lines)
    assert all(line["kind"] == "broken" for line in broken)
    assert summary["kind"] == "summary"
    return broken, summary["datasets"]


@pytest.mark.parametrize("jobs", [0, 2])
def test_every_broken_sample_is_named_and_the_rest_counted(project, jobs, capsys):
    assert check(project, jobs=jobs) == 1
    broken, (clips,) = report_of(project)
    assert {line["key"]: line["path"].rsplit("/", 1)[1] for line in broken} == BROKEN
    assert [line["index"] for line in broken] == [0, 1, 3]
    assert (clips["num_samples"], clips["num_checked"], clips["num_broken"]) == (8, 8, 3)
    assert clips["reasons"]["the file is empty (0 bytes)"] == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "clips │ 8 │ 8 │ 5 │ 3 │" in shown
    assert "1 x no audio stream" in shown


def test_a_second_check_reads_only_what_was_broken(project):
    check(project)
    assert check(project) == 1
    broken, (clips,) = report_of(project)
    assert {line["key"] for line in broken} == set(BROKEN)
    assert (clips["num_checked"], clips["num_read"], clips["num_broken"]) == (8, 3, 3)


def test_mended_files_are_found_good_and_spoilt_ones_broken(project, capsys):
    check(project)
    assert "named one by one in" in capsys.readouterr().out
    page = project.parent / "clips" / "page"
    for number in (0, 1, 3):
        pictures = [shade(number + i, height=32, width=32) for i in range(4)]
        write_clip(page / f"{number}.mp4", pictures, sound=tone(duration_s=0.5))
    assert check(project) == 0
    assert "named one by one" not in capsys.readouterr().out
    broken, (clips,) = report_of(project)
    assert (broken, clips["num_read"]) == ([], 8)
    assert check(project) == 0
    assert report_of(project)[1][0]["num_read"] == 0
    # Spoilt without another size.
    content = (page / "5.mp4").read_bytes()
    (page / "5.mp4").write_bytes(b"\0" * len(content))
    os.utime(page / "5.mp4", ns=(1, 1))
    assert check(project) == 1
    assert [line["key"] for line in report_of(project)[0]] == ["page/5"]


@pytest.mark.parametrize(
    "option", ["model.max_txt_len=60", "run.decode_timeout_s=50", "run.video_reader=decord"]
)
def test_other_frames_texts_or_ways_to_read_are_checked_anew(project, option):
    check(project)
    assert check(project, "--options", option) == 1
    assert report_of(project)[1][0]["num_read"] == 8


def test_a_part_of_the_samples_can_be_asked_for(project):
    check(project, "--every", "3")
    broken, (clips,) = report_of(project)
    assert (clips["num_checked"], [line["index"] for line in broken]) == (3, [0, 3])
    check(project, "--limit", "2")
    broken, (clips,) = report_of(project)
    assert (clips["num_checked"], [line["index"] for line in broken]) == (2, [0, 1])


@pytest.mark.parametrize("flag", [("--jobs", "-1"), ("--every", "0"), ("--limit", "0")])
def test_flags_that_ask_for_nothing_are_refused(project, flag, capsys):
    assert check(project, *flag) == 2
    assert flag[0] in capsys.readouterr().err
    assert not (project.parent / "out").exists()


def test_one_data_set_can_be_asked_for_and_a_wrong_name_is_told(project, capsys):
    tree = yaml.safe_load(project.read_text())
    tree["datasets"]["silent"] = {**tree["datasets"]["clips"], "streams": ["video"]}
    project.write_text(yaml.safe_dump(tree))
    assert check(project, "--dataset", "silent") == 1
    broken, results = report_of(project)
    assert [result["dataset"] for result in results] == ["silent"]
    assert [line["index"] for line in broken] == [0, 3]
    assert check(project, "--dataset", "clisp") == 2
    assert "did you mean 'clips'" in capsys.readouterr().err


def test_a_wrong_media_root_is_no_row_of_broken_files(project, capsys):
    (project.parent / "elsewhere").mkdir()
    root = project.parent / "elsewhere"
    assert check(project, "--options", f"datasets.clips.media={root}") == 2
    said = capsys.readouterr().err
    assert f"datasets.clips.media: {root}: none of 8 files looked for can be read" in said
    assert "; where to get it: " in said
    assert not (project.parent / "out").exists()


def test_no_weight_is_read_and_nothing_is_trained(project, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a weight was read")

    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    monkeypatch.setattr(data_app, "num_cores", lambda: 0)
    assert main(["data", "check", "--cfg-path", str(project)]) == 1
    assert sorted(path.name for path in (project.parent / "out").iterdir()) == [
        "data_check.journal.jsonl",
        "data_check.jsonl",
    ]


def test_half_a_line_of_the_journal_costs_that_line_alone(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(SpanReport("a", (0, 1), "d1", 2, ()))
    with (tmp_path / "j.jsonl").open("a") as file:
        file.write('{"dataset": "a", "dig')
    journal.add(SpanReport("a", (2, 3), "d2", 2, ()))
    assert journal.known() == {"d1": (), "d2": ()}


def test_spans_cover_what_is_asked_for_once():
    spans = spans_of(100, every=2, limit=40)
    assert [index for span in spans for index in span] == list(range(0, 80, 2))
    assert [len(span) for span in spans] == [SPAN, 40 - SPAN]
