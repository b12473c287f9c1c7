"""`--dry-run` at full size: published parameter counts, slots, and every missing file at once."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from video_llama.apps.checks import named_files
from video_llama.apps.main import main
from video_llama.common.config import load
from video_llama.models.video_llm import VideoLLM

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "train_configs"
LLAMA_7B = 6_738_415_616
"""Parameters of LLaMA-7B (huggyllama/llama-7b, 32,000 words)."""

LLAMA_13B = 13_015_864_320
COUNTS = {
    "branches.video.encoder": 985_894_528,
    # BLIP-2's image Q-Former, as LAVIS counts its network, and its 32 queries of 768.
    "branches.video.stages.image_qformer": 105_137_664 + 32 * 768,
    "branches.video.stages.ln_vision": 2 * 1408,
    # Video-LLaMA's two-layer Q-Formers, their queries, and positions on 32 frames of 768 and 8
    # clips of 1024.
    "branches.video.stages.video_qformer": 18_905_088 + 32 * 768 + 32 * 768,
    "branches.audio.stages.audio_qformer": 19_691_520 + 8 * 768 + 8 * 1024,
    "branches.video.stages.projection": 768 * 4096 + 4096,
}


@pytest.fixture
def dry_run(monkeypatch, tmp_path, capsys):
    """Run it where no file of the recipes exists."""
    monkeypatch.chdir(tmp_path)

    def run(recipe, *options):
        words = ["train", "--cfg-path", str(CONFIGS / recipe), "--dry-run"]
        code = main([*words, "--options", *options] if options else words)
        return code, capsys.readouterr().out

    return run


def sizes(name, *options):
    config = load(CONFIGS / name, options=options)
    with torch.device("meta"):
        model = VideoLLM(config.model)
    return {row.name: row.num_params for row in model.rows()}


@pytest.fixture(scope="module")
def vicuna7b():
    return sizes("audiovisual_stage3_joint.yaml")


@pytest.mark.parametrize("part", COUNTS)
def test_a_part_has_as_many_parameters_as_the_published_one(part, vicuna7b):
    assert vicuna7b[part] == COUNTS[part]


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        # Merging Vicuna's delta adds one word to the table and to the head.
        ("vicuna7b", LLAMA_7B + 2 * 4096),
        ("vicuna13b", LLAMA_13B + 2 * 5120),
        ("llama2_7b", LLAMA_7B),
        ("llama2_13b", LLAMA_13B),
    ],
)
def test_a_preset_builds_the_published_decoder(model_type, expected):
    option = f"model.model_type={model_type}"
    assert sizes("visionbranch_stage1_pretrain.yaml", option)["decoder"] == expected


def test_the_plan_shows_config_parts_slots_and_every_missing_file_in_seconds(dry_run):
    started_s = time.process_time()
    code, said = dry_run("visionbranch_stage1_pretrain.yaml")
    assert time.process_time() - started_s < 20
    assert code == 2
    assert "init_lr: 0.0001" in said
    assert "985,894,528" in said
    assert re.search(r"32 slots of 65 positions \(max_txt_len\); context 2048", said)
    config = load(CONFIGS / "visionbranch_stage1_pretrain.yaml")
    wanted = [path for _, path in named_files(config.model)]
    wanted += [entry.config.annotations for entry in config.datasets.values()]
    wanted += [entry.config.media for entry in config.datasets.values()]
    assert len(wanted) == 8
    for path in wanted:
        assert f"there is no {path}" in said
    assert "eva_vit_g.pth" in said.split("where to get it")[1]
    assert "https://storage.googleapis.com/sfr-vision-language-research" in said


def test_what_a_run_trains_is_counted(dry_run):
    _, said = dry_run("visionbranch_stage1_pretrain.yaml")
    total = COUNTS["branches.video.stages.video_qformer"] + 768 * 4096 + 4096
    assert f"{total:,}" in said


def test_both_branches_share_the_context(dry_run):
    code, said = dry_run("audiovisual_stage3_joint.yaml", "model.max_txt_len=40")
    assert code == 2
    assert "40 positions hold no text beside 40 slots" in said


def test_a_missing_stage_before_is_named(dry_run):
    _, said = dry_run("visionbranch_stage2_finetune.yaml")
    assert "model.ckpt" in said
    assert "there is no output/visionbranch_stage1" in said
