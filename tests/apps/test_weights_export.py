"""`weights export` through the command line: what is written is what was trained, bit for bit."""

from __future__ import annotations

import pytest
import torch
from released_project import AL, FILES, VL, write_run_file
from safetensors.torch import load_file, save_file
from tiny_released import tree, typed

from video_llama.apps.main import main
from video_llama.common.state_files import read_state
from video_llama.models import exporting
from video_llama.models.loading import build_model

FORMATS = {"released": ".pth", "safetensors": ".safetensors"}


def export(*words):
    return main(["weights", "export", *map(str, words)])


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("branch", "source"), [("video", VL), ("audio", AL)])
def test_a_branch_comes_out_as_it_was_published(branch, source, file_format, tmp_path):
    out = tmp_path / f"out{FORMATS[file_format]}"
    run_file = write_run_file(tmp_path)
    words = ("--cfg-path", run_file, "--branch", branch, "--format", file_format, "--out", out)
    assert export(*words) == 0
    published = {
        name: tensor
        for name, tensor in read_state(source).items()
        if tensor.is_floating_point() and not name.startswith(("llama_model.", "audio_encoder."))
    }
    written = read_state(out)
    assert sorted(written) == sorted(published)
    assert all(torch.equal(written[name], tensor) for name, tensor in published.items())


def test_the_published_file_is_a_table_of_tensors_under_model(tmp_path):
    out = tmp_path / "VL.pth"
    assert export("--cfg-path", write_run_file(tmp_path), "--branch", "video", "--out", out) == 0
    content = torch.load(out, weights_only=True)
    assert list(content) == ["model"]
    assert out.stat().st_size < 1.2 * sum(t.nbytes for t in content["model"].values()) + 20_000


def test_a_model_loaded_from_what_was_written_is_the_same_model(tmp_path):
    run_file = write_run_file(tmp_path)
    for branch in ("video", "audio"):
        assert (
            export("--cfg-path", run_file, "--branch", branch, "--out", tmp_path / f"{branch}.pth")
            == 0
        )
    before = build_model(typed(tree())).model.state_dict()
    paths = {"ckpt": str(tmp_path / "video.pth"), "ckpt_2": str(tmp_path / "audio.pth")}
    after = build_model(typed(tree() | paths)).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_both_branches_may_go_into_one_file(tmp_path):
    out = tmp_path / "both.pth"
    assert export("--cfg-path", write_run_file(tmp_path), "--out", out) == 0
    names = set(read_state(out))
    assert {"video_query_tokens", "audio_query_tokens"} <= names


@pytest.fixture
def run_folder(tmp_path):
    """What a run leaves: its run file and a checkpoint under our names."""
    folder = tmp_path / "run"
    (folder / "checkpoints/last").mkdir(parents=True)
    model = build_model(typed(tree())).model
    weights = {
        name: parameter.detach() + 1
        for name, parameter in model.named_parameters()
        if name.startswith("branches.video.stages.") and ("video_qformer" in name or "proj" in name)
    }
    save_file(weights, folder / "checkpoints/last/trainable.safetensors")
    write_run_file(tmp_path).rename(folder / "config.yaml")
    return folder


def test_a_run_needs_no_run_file_beside_its_own(run_folder, tmp_path):
    out = tmp_path / "VL.safetensors"
    assert export("--ckpt", run_folder, "--format", "safetensors", "--out", out) == 0
    trained = load_file(run_folder / "checkpoints/last/trainable.safetensors")
    written = load_file(out)
    assert torch.equal(
        written["video_query_tokens"], trained["branches.video.stages.video_qformer.queries"]
    )
    assert len(written) == len(trained)


def test_half_a_part_is_not_written(run_folder, tmp_path, capsys):
    file = run_folder / "checkpoints/last/trainable.safetensors"
    weights = load_file(file)
    del weights["branches.video.stages.video_qformer.queries"]
    save_file(weights, file)
    assert export("--ckpt", run_folder, "--out", tmp_path / "VL.pth") == 2
    assert "video_qformer.queries" in capsys.readouterr().err
    assert not (tmp_path / "VL.pth").exists()


def test_what_has_no_published_name_is_not_written(run_folder, tmp_path, capsys):
    file = run_folder / "checkpoints/last/trainable.safetensors"
    extra = {"branches.video.stages.ln_vision.norm.weight": torch.zeros(48)}
    save_file(load_file(file) | extra, file)
    assert export("--ckpt", run_folder, "--out", tmp_path / "VL.pth") == 2
    assert "no name in the published layout" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    def broken(state, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    out = tmp_path / "VL.pth"
    out.write_text("old")
    monkeypatch.setitem(exporting.FORMATS, "released", broken)
    assert export("--cfg-path", write_run_file(tmp_path), "--out", out) == 2
    assert "no space left on device" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VL.pth", "run.yaml"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--out", "x.safetensors"), "must end in .pth or .pt or .bin"),
        (("--format", "safetensors", "--out", "x.pth"), "must end in .safetensors"),
        (("--branch", "smell", "--out", "x.pth"), "nothing of the branch 'smell'"),
    ],
)
def test_what_cannot_be_done_is_refused(words, text, tmp_path, capsys):
    assert export("--cfg-path", write_run_file(tmp_path), *words) == 2
    assert text in capsys.readouterr().err


def test_without_any_run_file_it_is_refused(capsys, tmp_path):
    assert export("--out", tmp_path / "x.pth") == 2
    assert "--cfg-path" in capsys.readouterr().err
    assert export("--ckpt", FILES / "vl_branch.pth", "--out", tmp_path / "x.pth") == 2
    assert "name it with --cfg-path" in capsys.readouterr().err
