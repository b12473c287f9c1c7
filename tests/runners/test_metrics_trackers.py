"""Trackers get every number, go on with their run, and never stop a training."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.runners import trackers
from video_llama.runners.metrics import MetricsLog, read_lines
from video_llama.runners.trackers import Tracker, require_tracker


class FakePackage:
    """Stands for wandb and for trackio: remembers what it was told, fails where asked to."""

    def __init__(self, *, fails_at=None, waits=None, refuses=False):
        self.opened, self.logged, self.metrics = [], [], []
        self.num_finished = 0
        self.fails_at, self.waits, self.refuses = fails_at, waits, refuses

    def init(self, **settings):
        if self.refuses:
            raise RuntimeError("no API key")
        self.opened.append(settings)
        return SimpleNamespace(log=self.log, finish=self.finish, define_metric=self.define)

    def define(self, name, *, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, values, step=None):
        # W&B is given the step among the numbers, trackio beside them.
        values = values if step is None else {"step": step, **values}
        if self.waits is not None:
            self.waits.wait(20)
        if values["step"] == self.fails_at:
            raise ConnectionError("host unreachable")
        self.logged.append(values)

    def finish(self):
        self.num_finished += 1


@pytest.fixture
def install(monkeypatch):
    def put(name="wandb", **faults):
        package = FakePackage(**faults)
        monkeypatch.setitem(sys.modules, name, package)
        return package

    return put


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(get_logger(), "warning", lambda text, *values: lines.append(text % values))
    return lines


def log_steps(folder, numbers, *, start=0, name="wandb"):
    tracker = Tracker(name, folder=folder, config={"run": {"seed": 1}})
    log = MetricsLog(folder, step=start, tracker=tracker)
    for number in numbers:
        log.write(number, kind="train", values={"loss": 1 / number, "mfu": None})
    log.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_number_that_is_known(name, install, tmp_path):
    package = install(name)
    log_steps(tmp_path, [1, 2], name=name)
    assert package.logged == [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 0.5}]
    assert package.num_finished == 1
    assert package.opened[0]["config"] == {"run": {"seed": 1}}


def test_a_run_that_goes_on_continues_the_same_one_in_wandb(install, tmp_path):
    package = install()
    log_steps(tmp_path, [1, 2])
    log_steps(tmp_path, [2, 3], start=1)
    first, second = package.opened
    assert first["id"] == second["id"]
    assert (first["resume"], first["project"]) == ("allow", "video_llama")
    # Steps come again, so they are a number like others, and the axis of all.
    assert package.metrics[0] == ("*", "step")


def test_a_run_that_goes_on_continues_the_same_one_in_trackio(install, tmp_path):
    package = install("trackio")
    for _ in range(2):
        log_steps(tmp_path, [1], name="trackio")
    first, second = package.opened
    assert first["name"] == second["name"]
    assert first["name"].startswith(tmp_path.name)


def test_two_runs_are_two_runs(install, tmp_path):
    package = install()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log_steps(tmp_path / name, [1])
    assert package.opened[0]["id"] != package.opened[1]["id"]


# Its thread ends by an exit that pytest would report.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(install, tmp_path, warnings):
    package = install(fails_at=2)
    log_steps(tmp_path, [1, 2, 3, 4])
    assert [values["step"] for values in package.logged] == [1]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert len(warnings) == 1
    assert "host unreachable" in warnings[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_numbers_for_a_tracker_that_failed_are_not_kept(install, tmp_path, warnings):
    install(fails_at=1)
    tracker = Tracker("wandb", folder=tmp_path, config={})
    tracker.log(1, values={"loss": 1.0})
    tracker._thread.join(20)
    for step in range(2, 9):
        tracker.log(step, values={"loss": 1.0})
    assert tracker._jobs.empty()


def test_a_slow_network_does_not_hold_up_the_training(install, tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(trackers, "CLOSE_TIMEOUT_S", 0.1)
    network = threading.Event()
    package = install(waits=network)
    log_steps(tmp_path, [1, 2, 3])
    assert package.logged == []
    assert "still sending" in warnings[0]
    network.set()


def test_a_tracker_that_does_not_start_is_said_before_the_run(install, tmp_path):
    install(refuses=True)
    with pytest.raises(ConfigError, match=r"no API key.*WANDB_MODE=offline"):
        Tracker("wandb", folder=tmp_path, config={})


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(ConfigError, match="pip install trackio"):
        require_tracker("trackio")
    require_tracker("none")
