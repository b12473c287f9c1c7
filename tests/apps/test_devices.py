"""`--device` and its kin, and what this machine has of what they ask for."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from video_llama.apps import devices
from video_llama.apps.devices import DeviceChoice, add_device_arguments, device_choice, pick_device
from video_llama.common.errors import ConfigError
from video_llama.common.schema import RunConfig


def choice(*words):
    parser = argparse.ArgumentParser()
    add_device_arguments(parser)
    return device_choice(parser.parse_args(words))


def picked(device, *, precision="fp32"):
    return pick_device(RunConfig(task="t", output_dir="", device=device, precision=precision))


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "available_devices", lambda: {"cpu": 1, "cuda": 2})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], DeviceChoice(None, None)),
        (["--gpu-id", "1"], DeviceChoice("cuda:1", None)),
        (["--device", "xpu"], DeviceChoice("xpu", None)),
        (["--device", "cpu", "--load-4bit"], DeviceChoice("cpu", "4bit")),
        (["--load-8bit"], DeviceChoice(None, "8bit")),
    ],
)
def test_flags_say_where_and_how_small(words, expected):
    assert choice(*words) == expected


@pytest.mark.parametrize(
    "words", [["--device", "cpu", "--gpu-id", "0"], ["--load-4bit", "--load-8bit"]]
)
def test_flags_that_contradict_each_other_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        choice(*words)
    assert "not allowed with" in capsys.readouterr().err


def test_the_flags_need_no_torch():
    code = "import sys, video_llama.apps.devices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_takes_a_gpu_if_there_is_one(two_gpus, monkeypatch):
    assert picked("auto") == "cuda"
    monkeypatch.setattr(devices, "available_devices", lambda: {"cpu": 1, "mps": 1})
    assert picked("auto") == "cpu"


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_what_is_there_is_taken(two_gpus, device):
    assert picked(device) == device


@pytest.mark.parametrize(
    "device", ["cuda:2", "cuda:-1", "cuda:", "cuda:one", "gpu", "mps", "xpu:0", "cpu:1", ""]
)
def test_what_is_not_there_is_refused_with_what_is(two_gpus, device):
    with pytest.raises(ConfigError, match=r"is not there; found: cpu, cuda:0, cuda:1; take one"):
        picked(device)
