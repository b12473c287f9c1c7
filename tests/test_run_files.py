"""Every shipped run file loads, fits every preset, says what it is for, and is what it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from golden.update import GOLDEN, ROOT, resolved, run_files

from video_llama.common.config import SHIPPED_RUN_FILES, list_presets, load
from video_llama.models.branch_shapes import fold_shapes
from video_llama.models.video_llm import VideoLLM

RUN_FILES = run_files()
RECIPES = [path for path in RUN_FILES if "toy" not in path.parts]
PUBLISHED = {
    "train_configs/visionbranch_stage1_pretrain.yaml",
    "train_configs/visionbranch_stage2_finetune.yaml",
    "train_configs/audiobranch_stage1_pretrain.yaml",
    "train_configs/audiobranch_stage2_finetune.yaml",
    "train_configs/audiovisual_stage3_joint.yaml",
    "eval_configs/video_llama_eval_withaudio.yaml",
    "eval_configs/video_llama_eval_only_vl.yaml",
}
"""The published names, and the recipe for both branches together."""

WIDTHS = {
    "vicuna7b": 4096,
    "vicuna7b_hf_compat": 4096,
    "llama2_7b": 4096,
    "billa7b": 4096,
    "vicuna13b": 5120,
    "llama2_13b": 5120,
    "ziya13b": 5120,
    "toy": 128,
}
"""Hidden sizes of the decoders (Touvron et al. 2023, table 2); the toy's is ours."""


def test_the_published_names_are_there():
    assert {str(path) for path in RECIPES} >= PUBLISHED


@pytest.mark.parametrize("path", RUN_FILES, ids=str)
def test_a_run_file_is_what_it_was_when_it_was_last_reviewed(path):
    assert resolved(path) == (GOLDEN / path).read_text(encoding="utf-8"), (
        "a key or a default changed; if it was meant: python tests/golden/update.py"
    )


def test_no_copy_is_left_of_a_run_file_that_is_gone():
    assert sorted(path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.yaml")) == RUN_FILES


@pytest.mark.parametrize("path", RUN_FILES, ids=str)
def test_a_run_file_opens_with_its_purpose_and_its_command(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert re.match(r"# \w.*[.?]", head[0])
    assert any(re.match("#   (python|torchrun|video-llama) ", line) for line in head)


@pytest.mark.parametrize("path", RUN_FILES, ids=str)
def test_the_sections_of_a_run_file_stand_in_one_order(path):
    sections = list(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))
    assert sections == [name for name in ("model", "datasets", "run") if name in sections]


def arch_of(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["model"]["arch"]


@pytest.mark.parametrize(
    ("path", "model_type"),
    [(path, name) for path in RECIPES for name in list_presets()[arch_of(path)]],
    ids=str,
)
def test_every_recipe_goes_with_every_preset_of_its_system(path, model_type):
    model = load(ROOT / path, options=[f"model.model_type={model_type}"]).model
    for branch in model.branches.values():
        steps = branch.encoder.config.media_spec().num_steps
        assert fold_shapes(branch, steps)[-1].width == WIDTHS[model_type]


def learners(path, model):
    """The parts that published recipes train."""
    if path.parts[0] != "train_configs":
        return set()
    if arch_of(path) == "video_llava":
        # The projector alone is aligned; then the decoder learns with it, whole or by adapters.
        shared = "branches.image.stages.projection"
        return {shared} if "stage1" in path.stem else {shared, "decoder"}
    return {
        f"branches.{name}.stages.{stage}"
        for name in ("video", "audio")
        if name in model.branches
        for stage in (f"{name}_qformer", "projection")
    }


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_only_what_the_recipe_names_learns(path):
    with torch.device("meta"):
        model = VideoLLM(load(ROOT / path).model)
    learning = {row.name for row in model.rows() if row.num_trainable}
    assert learning == learners(path, model)


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_slots_and_text_fit_the_context(path):
    model = load(ROOT / path).model
    slots = sum(
        fold_shapes(branch, branch.encoder.config.media_spec().num_steps)[-1].num_slots
        for branch in model.branches.values()
    )
    assert slots < model.max_txt_len <= model.decoder.config.architecture["max_position_embeddings"]


def test_a_run_file_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load("train_configs/visionbranch_stage1_pretrain.yaml").run.init_lr == 1e-4
    assert Path(ROOT) in SHIPPED_RUN_FILES
