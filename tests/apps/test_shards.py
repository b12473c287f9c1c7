"""`video-llama shards` packs the data sets of a run file and looks after tars."""

import json

import pytest
import yaml
from tiny_project import NUM_CLIPS, break_clips, write_project

from video_llama.apps.main import main
from video_llama.common.config import load
from video_llama.runners.data import open_readers


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


def write(project, out, *words):
    return main(["shards", "write", "--cfg-path", str(project), "--out", str(out), *words])


def test_a_run_file_goes_on_from_the_shards_it_was_packed_into(project, tmp_path, capsys):
    break_clips(tmp_path / "clips")
    assert write(project, tmp_path / "shards", "--max-count", "3") == 0
    said = capsys.readouterr().out
    assert "2 shards, 5 samples, 3 broken samples left out" in said
    assert "0.mp4: cannot be opened" in said
    assert "1.mp4: no sound in it" in said
    assert "3.mp4: the file is empty (0 bytes)" in said

    line = next(line for line in said.splitlines() if "type: shards" in line)
    tree = yaml.safe_load(project.read_text())
    tree["datasets"] = yaml.safe_load(line)["datasets"]
    project.write_text(yaml.safe_dump(tree))
    (reader,) = open_readers(load(project)).values()
    assert [reader.key(i) for i in range(len(reader))] == [f"page/{i}" for i in (2, 4, 5, 6, 7)]


def test_indexes_are_made_and_then_compared(project, tmp_path, capsys):
    write(project, tmp_path / "shards", "--max-count", "3")
    folder = tmp_path / "shards" / "clips"
    for index in folder.glob("*.index.jsonl"):
        index.unlink()
    assert main(["shards", "index", str(folder)]) == 0
    assert f"3 shards, {NUM_CLIPS} samples, all whole" in capsys.readouterr().out
    tar = folder / "000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    assert main(["shards", "index", str(folder)]) == 2
    assert f"{tar}: its bytes are not those" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--datasets", "clip"], "unknown data set 'clip', did you mean 'clips'?"),
        (["--max-count", "0"], "both must be above 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(project, tmp_path, capsys, words, said):
    assert write(project, tmp_path / "shards", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_other_limits_need_another_folder(project, tmp_path, capsys):
    write(project, tmp_path / "shards")
    assert write(project, tmp_path / "shards", "--max-count", "3") == 2
    assert "made otherwise (max_count 10000 -> 3)" in capsys.readouterr().err
    assert json.loads((tmp_path / "shards" / "clips" / "shards.json").read_text())["finished"]
