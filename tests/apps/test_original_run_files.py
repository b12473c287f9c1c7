"""Run files of the original Video-LLaMA through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_project import MODEL, write_project

from video_llama.apps.checks import missing_weights
from video_llama.apps.main import main
from video_llama.common.config import load

ORIGINALS = Path(__file__).parents[1] / "goldens" / "legacy"
SERVE = ORIGINALS / "video_llama_eval_withaudio.yaml"


@pytest.mark.parametrize("name", ["visionbranch_stage1_pretrain", "audiobranch_stage2_finetune"])
def test_a_dry_run_shows_the_plan_of_an_original_at_full_size(name, capsys):
    assert main(["train", "--cfg-path", str(ORIGINALS / f"{name}.yaml"), "--dry-run"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    learning = {"visionbranch_stage1_pretrain": "22,104,064"}.get(name, "22,855,680")
    assert learning in said
    assert "which is a placeholder" in said


def test_placeholders_left_in_are_named_with_what_to_put_there(capsys):
    path = ORIGINALS / "audiobranch_stage2_finetune.yaml"
    assert main(["train", "--cfg-path", str(path)]) == 2
    said = capsys.readouterr().err
    for key, source in (
        ("model.imagebind_ckpt_path: there is no ckpt/imagebind_path", "imagebind_huge.pth"),
        ("model.ckpt: there is no path/pretrained_audio_branch_ckpt", "Video-LLaMA-Series"),
        ("datasets.llava_instruct.media: there is no path/train2014", "cocodataset.org"),
        ("datasets.webvid_instruct.annotations: there is no path/videochat", "InternVideo"),
    ):
        line = next(line for line in said.splitlines() if key in line)
        assert "which is a placeholder; put the path of your own there; where to get it: " in line
        assert source in line


def test_the_demo_refuses_another_family_than_the_file_s_before_weights_are_read(capsys):
    words = ["demo", "--cfg-path", str(SERVE), "--gpu-id", "0", "--model_type", "llama_v2"]
    assert main([*words, "--options", "model.ckpt", "ckpt/vl.pth"]) == 2
    said = capsys.readouterr().err
    assert "--model_type llama_v2: the model was trained with the template 'vicuna_v0_rel" in said
    assert "placeholder" not in said
    assert "give --model_type vicuna, or leave the flag out; for Video-LLaMA-2 name" in said


def test_the_demo_adds_its_gpu_to_overrides_of_either_style(capsys):
    words = ["demo", "--cfg-path", str(SERVE), "--gpu-id", "0", "--model_type", "vicuna"]
    for options in (["model.ckpt", "no/vl.pth"], ["model.ckpt=no/vl.pth"]):
        assert main([*words, "--options", *options]) == 2
        assert "model.ckpt: there is no no/vl.pth" in capsys.readouterr().err


def test_a_decoder_and_three_checkpoints_are_all_that_the_eval_file_asks_for(tmp_path):
    keys = ("llama_model", "imagebind_ckpt_path", "ckpt", "ckpt_2")
    for key in keys:
        (tmp_path / key).write_bytes(b"")
    options = [f"model.{key}={tmp_path / key}" for key in keys]
    config = load("eval_configs/video_llama_eval_withaudio.yaml", options=options)
    named = {file.key for file in missing_weights(config.model)}
    assert named <= {"model.vit_model", "model.q_former_model", "model.llama_model"}
    assert config.model.template == "vicuna_v0_released"
    assert list(config.model.branches) == ["video", "audio"]


def our_keys(node: dict, above: str) -> list[str]:
    """A tree as overrides."""
    options = []
    for key, value in node.items():
        nested = isinstance(value, dict) and value
        options += (
            our_keys(value, f"{above}.{key}") if nested else [f"{above}.{key}={json.dumps(value)}"]
        )
    return options


def test_an_original_trains(tmp_path):
    write_project(tmp_path)
    original = yaml.safe_load((ORIGINALS / "visionbranch_stage1_pretrain.yaml").read_text())
    del original["datasets"]["cc_sbu_align"]
    original["datasets"]["webvid"]["build_info"] = {
        "anno_dir": str(tmp_path / "clips.csv"),
        "videos_dir": str(tmp_path / "clips"),
    }
    original["run"] |= {
        "max_epoch": 1, "iters_per_epoch": 2, "warmup_steps": 1, "batch_size_train": 2,
        "num_workers": 0, "device": "cpu", "output_dir": str(tmp_path / "run"), "init_lr": 1e-3,
    }  # fmt: skip
    path = tmp_path / "original.yaml"
    path.write_text(yaml.safe_dump(original, sort_keys=False))
    tiny = {key: MODEL[key] for key in ("tokenizer", "decoder")}
    tiny["branches"] = {"video": MODEL["branches"]["video"]}
    options = [*our_keys(tiny, "model"), "model.model_type=toy"]
    assert main(["train", "--cfg-path", str(path), "--options", *options]) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [row["lr"] for row in map(json.loads, rows) if "lr" in row]
    # The published cosine counts the warm-up: after one step of two it has run half its way.
    assert rates[-1] == pytest.approx(8e-5 + (1e-3 - 8e-5) / 2)
    assert (tmp_path / "run" / "checkpoints" / "last").exists()
