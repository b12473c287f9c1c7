"""The shipped run file of Video-LLaVA with its weights in pieces, then as one directory."""

from __future__ import annotations

import logging

import pytest
import torch
from narrow_video_llava import OPTIONS, write_files

from video_llama.apps.loading import load_model
from video_llama.apps.main import main
from video_llama.common.config import load

RUN_FILE = "eval_configs/video_llava_eval.yaml"
CPU = ["run.device=cpu", "run.precision=fp32"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Overrides that name decoder, towers and projector one by one."""
    return [*write_files(tmp_path_factory.mktemp("pieces")), "model.released=null", *CPU]


@pytest.fixture(scope="module")
def directory(pieces, tmp_path_factory):
    """All of it in the original layout."""
    out = tmp_path_factory.mktemp("whole") / "Video-LLaVA"
    words = ["--cfg-path", RUN_FILE, "--options", *pieces]
    assert main(["weights", "export", *words, "--format", "original", "--out", str(out)]) == 0
    return out


def test_the_directory_fits_and_is_said_to_be_exact(directory, capsys):
    options = [*OPTIONS, f"model.released={directory}", *CPU]
    assert main(["weights", "check", "--cfg-path", RUN_FILE, "--options", *options]) == 0
    said = capsys.readouterr().out
    assert "fidelity to what was published: exact" in said
    assert "the decoder's, read by it" in " ".join(said.split())


def test_its_model_is_that_of_the_pieces_and_the_log_judges_it(pieces, directory, caplog):
    with caplog.at_level(logging.INFO, logger="video_llama"):
        whole = load_model(load(RUN_FILE, options=[*OPTIONS, f"model.released={directory}", *CPU]))
    assert "fidelity to what was published: exact" in caplog.text
    caplog.clear()
    parts = load_model(load(RUN_FILE, options=pieces))
    assert "fidelity" not in caplog.text
    state = parts.model.state_dict()
    assert all(torch.equal(state[n], tensor) for n, tensor in whole.model.state_dict().items())


def test_temporal_blocks_that_are_not_used_are_named(directory, capsys):
    options = [*OPTIONS, f"model.released={directory}", *CPU]
    off = [*options, "model.model_type=vicuna7b_hf_compat"]
    assert main(["weights", "check", "--cfg-path", RUN_FILE, "--options", *off]) == 0
    assert "temporal block switched off, quick_gelu" in capsys.readouterr().out
