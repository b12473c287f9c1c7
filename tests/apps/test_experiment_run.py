"""A whole experiment through its verb: killed in the middle, gone on with, compared, reused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_experiment import write_experiment, write_run_files

from video_llama.apps.experiment_slots import alone_in, open_slots
from video_llama.apps.experiment_work import keep_best
from video_llama.apps.main import main
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.runners.ledger import read_entry

ROOT = Path(__file__).parents[2]
KILL_WITHIN_S = 300


@pytest.fixture
def files(tmp_path):
    """Run files of one recipe with 8 steps, and an experiment of two cells and two seeds."""
    write_run_files(tmp_path, stages=("align",))
    return write_experiment(
        tmp_path,
        recipes=[str(tmp_path / "align.yaml")],
        seeds=[1, 2],
        train_options={"run.iters_per_epoch": 8, "run.save_freq": "1 steps"},
        keep="best",
    )


def words(files, out):
    return ["experiment", str(files), "--out", str(out), "--parallel", "2"]


def start(files, out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "video_llama.apps.main", *words(files, out)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)


def keys_of(run, step):
    return [sample.trace.key for sample in read_entry(run, step=step).samples]


@pytest.mark.slow
def test_a_killed_experiment_goes_on_and_compares_cells_that_saw_the_same(files, tmp_path, capfd):
    out = tmp_path / "out"
    process = start(files, out)
    first = out / "cells" / "slow" / "seed_1" / "align"
    deadline_s = time.monotonic() + KILL_WITHIN_S
    while not list(first.glob("checkpoints/step_*")) and time.monotonic() < deadline_s:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    assert main(words(files, out)) == 0
    assert "going on at step" in (first / "log.txt").read_text()
    printed = capfd.readouterr().out
    assert "saw the same samples in the same order" in printed
    for seed in ("seed_1", "seed_2"):
        runs = [out / "cells" / cell / seed / "align" for cell in ("slow", "fast")]
        assert keys_of(runs[0], 8) == keys_of(runs[1], 8)
        for run in runs:
            assert len(list(run.glob("checkpoints/step_*"))) == 1
            assert not list(run.rglob("optimizer.safetensors"))
    results = json.loads((out / "results.json").read_text())
    assert results["baseline"] == "slow"
    assert yaml.safe_load((out / "experiment.yaml").read_text())["seeds"] == [1, 2]
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    assert main(words(files, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "4 reused" in capfd.readouterr().out
    gone = [
        out / "cells" / "slow" / "seed_1" / "eval_ask" / "held_out",
        out / "cells" / "fast" / "seed_2" / "align" / "checkpoints",
    ]
    for folder in gone:
        shutil.rmtree(folder)
    assert main(words(files, out)) == 0
    assert (gone[0] / "predictions.jsonl").is_file()
    assert len(list(gone[1].glob("step_*/trainable.safetensors"))) == 1


def test_two_calls_do_not_work_on_one_experiment(tmp_path):
    with (
        alone_in(tmp_path / "out"),
        pytest.raises(VideoLlamaError, match="at work already"),
        alone_in(tmp_path / "out"),
    ):
        pass
    with alone_in(tmp_path / "out"):
        pass


def test_a_run_that_a_killed_call_left_behind_keeps_others_out(tmp_path):
    with alone_in(tmp_path) as lock:
        left = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(lock,), stdin=-1)
    try:
        with pytest.raises(VideoLlamaError, match="at work already"), alone_in(tmp_path):
            pass
    finally:
        left.communicate(b"\n")
    with alone_in(tmp_path):
        pass


def gpus(monkeypatch, number, visible=None):
    monkeypatch.setattr(
        "video_llama.apps.experiment_slots.available_devices", lambda: {"cpu": 1, "cuda": number}
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def slots(*, ranks=1, parallel=None):
    found = open_slots(kinds={"cuda"}, num_parallel=parallel, num_ranks=ranks)
    return [slot["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_gpus_are_divided_among_runs(monkeypatch):
    gpus(monkeypatch, 5)
    assert slots() == ["0", "1", "2", "3", "4"]
    assert slots(ranks=2) == ["0,1", "2,3"]
    assert slots(parallel=7) == ["0", "1", "2", "3", "4", "0", "1"]
    assert slots(parallel=2) == ["0", "1"]


def test_only_the_gpus_of_this_process_are_used(monkeypatch):
    gpus(monkeypatch, 3, visible="4, 6,GPU-a1b2")
    assert slots() == ["4", "6", "GPU-a1b2"]


def test_a_run_of_more_processes_than_gpus_is_refused(monkeypatch):
    gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match="--ranks 2: a run needs as many GPUs, found 1"):
        slots(ranks=2)


def test_the_best_checkpoint_stays_and_else_the_last(tmp_path):
    for run, links in (("a", ("best", "last")), ("b", ("last",))):
        folder = tmp_path / run
        for step in ("step_0000002", "step_0000004"):
            (folder / step).mkdir(parents=True)
            (folder / step / "trainable.safetensors").write_text("")
            (folder / step / "optimizer.safetensors").write_text("")
        (folder / "last").symlink_to("step_0000004")
        if "best" in links:
            (folder / "best").symlink_to("step_0000002")
        keep_best(folder)
        kept = "step_0000002" if "best" in links else "step_0000004"
        assert {path.name for path in folder.iterdir()} == {kept, links[0]}
        assert [path.name for path in (folder / kept).iterdir()] == ["trainable.safetensors"]
