"""A disk that fills up, a folder nobody may write: what a run says, and what it goes on without."""

import os

import pytest
import torch
from test_ledger import a_record
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.logger import get_logger, log_to_folder, stop_logging_to
from video_llama.datasets.collate import Skip
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.runners.bad_steps import BadStep
from video_llama.runners.folder import RunFolder
from video_llama.runners.ledger import Ledger
from video_llama.runners.metrics import MetricsLog, read_lines
from video_llama.runners.resume import Start
from video_llama.runners.write_errors import require_writable

SAID = r"{}: cannot write: .*No space left on device.* GiB free\); make room.*resume_ckpt_path=auto"


def fill_up(path):
    """Let every write to a file fail as on a full disk."""
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/dev/full")


def test_numbers_on_a_full_disk_stop_the_run_with_the_file_and_the_way_out(tmp_path):
    log = MetricsLog(tmp_path, step=0)
    fill_up(tmp_path / "metrics.jsonl")
    with pytest.raises(VideoLlamaError, match=SAID.format("metrics.jsonl")):
        log.write(1, kind="train", values={"loss": 1.0})
    log.close()


def test_skips_and_bad_steps_on_a_full_disk_do(tmp_path):
    folder = RunFolder(tmp_path, start=Start())
    for name in ("skipped.jsonl", "bad_steps.jsonl"):
        fill_up(tmp_path / name)
    with pytest.raises(VideoLlamaError, match=SAID.format("skipped.jsonl")):
        folder.write_skips([Skip("clips", "a", "a.mp4", "broken", 0, 0)], step=1)
    with pytest.raises(VideoLlamaError, match=SAID.format("bad_steps.jsonl")):
        folder.write_bad_step(BadStep(1, "skip", "loss nan", "clips", None, None, ()))


def test_a_ledger_on_a_full_disk_does(tmp_path):
    ledger = Ledger(tmp_path, world=World(), reader="pyav", is_kept=True)
    fill_up(tmp_path / "ledger" / "steps_0000001.jsonl.gz")
    ledger.add(a_record(0))
    with pytest.raises(VideoLlamaError, match=SAID.format("steps_0000001.jsonl.gz")):
        ledger.flush()


def test_a_feature_cache_on_a_full_disk_costs_no_checkpoint(tmp_path):
    cache = FeatureCache(tmp_path / "features")
    fill_up(cache.directory / "rank0-0000.jsonl")
    cache.put("a", torch.ones(1, 1, 4))
    runner = build(config_of(tmp_path / "out"), World())
    runner.data.flush = cache.flush
    with pytest.raises(VideoLlamaError, match=r"run\.feature_cache: .*No space left on device"):
        runner.train()
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("step_*")
    assert (checkpoint / "state.json").is_file()


def test_a_run_folder_that_cannot_be_made_is_told_of_as_well(tmp_path):
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "out", start=Start())
    with pytest.raises(VideoLlamaError, match=r"file/out: cannot write: "), folder.opened(None):
        pass


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(get_logger(), "warning", lambda text, *values: lines.append(text % values))
    return lines


def test_tensorboard_that_cannot_start_is_one_warning(tmp_path, warnings):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("no folder")
    log = MetricsLog(tmp_path, step=0)
    for step in (1, 2):
        log.write(step, kind="train", values={"loss": 1.0})
    log.close()
    assert len(warnings) == 1
    assert "gets no more numbers" in warnings[0]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk_is_one_warning_and_the_run_goes_on(tmp_path, warnings):
    pytest.importorskip("tensorboard")
    log = MetricsLog(tmp_path, step=0)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.unlink()
    fill_up(events)
    num_written = 0
    while not warnings and num_written < 500:
        num_written += 1
        log.write(num_written, kind="train", values={f"value_{i}": 1.0 for i in range(200)})
    log.write(num_written + 1, kind="train", values={"loss": 1.0})
    log.close()
    assert len(warnings) == 1
    assert "No space left" in warnings[0]
    assert len(read_lines(tmp_path / "metrics.jsonl")) == num_written + 1


def test_a_log_on_a_full_disk_is_one_warning_and_hides_nothing(tmp_path, warnings):
    fill_up(tmp_path / "log.txt")
    handler = log_to_folder(tmp_path)
    for _ in range(2):
        get_logger().error("something else went wrong")
    stop_logging_to(handler)
    assert len(warnings) == 1
    assert "log.txt gets no more lines" in warnings[0]


@pytest.mark.parametrize("name", ["out", "deep/down/out"])
def test_a_folder_is_refused_where_it_could_not_be_made(tmp_path, monkeypatch, name):
    require_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())
    # Permissions do not bind the superuser, as whom tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match=f"run.output_dir: .* may not write into {tmp_path}; "):
        require_writable(tmp_path / name)
