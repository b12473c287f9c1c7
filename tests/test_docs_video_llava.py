"""The page of Video-LLaVA is so: its tables repeat run files and flags, its examples run."""

from __future__ import annotations

import argparse
import doctest
import re

import pytest
import torch
import yaml
from narrow_video_llava import write_files
from pages import ROOT, blocks, table

from video_llama.apps import chat, demo, predict
from video_llama.common.config import load
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.engines import refuse_unusable

PAGE = ROOT / "docs" / "video_llava.md"
RECIPES = ("stage1_align", "stage2_finetune", "stage2_lora", "stage2_qlora")
TALK = "eval_configs/video_llava_eval.yaml"
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# scripts/v1_5/{pretrain,finetune,finetune_lora}.sh at 984e65b, eight GPUs: rate, rate of the
# projector, samples of a step, square or padded, grouped by length.
PUBLISHED = {
    "stage1_align": (1e-3, None, 256, "short_side_crop", False),
    "stage2_finetune": (2e-5, None, 128, "pad_square", True),
    "stage2_lora": (2e-4, 2e-5, 128, "pad_square", True),
}


def recipe(name, *options):
    return load(ROOT / "train_configs" / f"video_llava_{name}.yaml", options=options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_numbers_of_the_published_script(name):
    config = recipe(name)
    run, image = config.run, config.model.branches["image"]
    assert PUBLISHED[name] == (
        run.init_lr,
        image.stages["projection"].lr,
        run.batch_size_train * run.accum_grad_iters * 8,
        image.encoder.config.resize,
        run.group_by_length,
    )
    assert (run.warmup_ratio, run.weight_decay, run.min_lr, run.warmup_lr) == (0.03, 0, 0, 0)
    assert (run.max_epoch, run.iters_per_epoch, run.precision) == (1, "auto", "bf16")
    assert (run.grad_clip_norm, run.beta2, run.lr_sched) == (1, 0.999, "linear_warmup_cosine_lr")
    assert config.model.decoder.gradient_checkpointing
    assert config.model.max_txt_len == 3072
    assert config.model.template == "vicuna_v1"


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_offers_in_its_head_can_be_asked_of_it(name):
    text = (ROOT / "train_configs" / f"video_llava_{name}.yaml").read_text("utf-8")
    head = text.partition("\nmodel:")[0]
    offered = re.findall(r"\b(?:run|model)\.[\w.]+=[^\s,;]+", head)
    assert offered
    changed, as_written = recipe(name, *offered), recipe(name)
    assert (changed.model, changed.run) != (as_written.model, as_written.run)
    refuse_unusable(changed, device="cuda")


def test_adapters_are_those_of_the_published_script_with_and_without_4_bits():
    whole, reduced = recipe("stage2_lora"), recipe("stage2_qlora")
    lora = whole.model.decoder.config.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)
    assert list(lora.targets) == LLAMA
    assert reduced.model.decoder == whole.model.decoder
    assert reduced.model.branches == whole.model.branches
    assert (whole.model.low_resource, reduced.model.low_resource) == ("none", "4bit")
    assert reduced.run.batch_size_train * reduced.run.accum_grad_iters == 128


@pytest.mark.parametrize("column", range(4), ids=RECIPES)
def test_the_recipes_of_the_page_are_those_of_the_run_files(column):
    rows = table(PAGE, "| | stage 1, align |")
    config = recipe(RECIPES[column])
    run, image = config.run, config.model.branches["image"]
    said = {name: cells[column] for name, cells in rows.items()}
    with torch.device("meta"):
        learning = sum(row.num_trainable for row in VideoLLM(config.model).rows())
    own = image.stages["projection"].lr
    num_gpus = 1 if RECIPES[column] == "stage2_qlora" else 8
    assert int(said["parameters that learn"].replace(",", "")) == learning
    assert float(said["`run.init_lr`"]) == run.init_lr
    assert said["of the projector"] == (
        "the same" if own is None else f"{own:.0e}".replace("-0", "-")
    )
    samples = run.batch_size_train * run.accum_grad_iters * num_gpus
    assert int(said["samples of a step on 8 GPUs, or 1"]) == samples
    assert (said["pictures"] == "padded") == (image.encoder.config.resize == "pad_square")
    assert (said["batches by length"] == "yes") == run.group_by_length
    assert ("ZeRO 2" in said["engine"]) == (run.engine == "deepspeed")
    first = (ROOT / "train_configs" / f"video_llava_{RECIPES[column]}.yaml").read_text()
    assert said["planned for"].lower() in first.splitlines()[0].lower()


ASSIGNMENT = re.compile(r"`((?:model|run|datasets)\.[\w.]+=[^`]+)`")


def test_every_assignment_of_the_tables_is_a_key_that_loads():
    text = PAGE.read_text("utf-8").partition("## The command line")[0]
    found = [word for word in ASSIGNMENT.findall(text) if not word.endswith("...")]
    assert len(found) > 35
    for word in found:
        beside = ["run.engine=deepspeed"] if word.startswith("run.zero") else []
        after = recipe("stage2_lora", word, *beside)
        name, _, value = word.partition("=")
        node = after.resolved
        for key in name.split("."):
            node = node[key]
        assert node == yaml.safe_load(value), word


def test_every_flag_of_the_published_scripts_is_in_the_table():
    rows = table(PAGE, "## Training flags\n\n| there |")
    said = set(re.findall(r"--(\w+)", " ".join(rows)))
    # Of the three scripts, and of ModelArguments, DataArguments and TrainingArguments beside them.
    scripts = """deepspeed model_name_or_path version data_path image_folder image_tower
        video_folder
        video_tower mm_projector_type tune_mm_mlp_adapter mm_vision_select_layer
        mm_use_im_start_end mm_use_im_patch_token bf16 output_dir num_train_epochs
        per_device_train_batch_size per_device_eval_batch_size
        gradient_accumulation_steps evaluation_strategy save_strategy save_steps
        save_total_limit learning_rate weight_decay warmup_ratio lr_scheduler_type
        logging_steps tf32 model_max_length tokenizer_model_max_length
        gradient_checkpointing dataloader_num_workers lazy_preprocess report_to
        cache_dir pretrain_mm_mlp_adapter image_aspect_ratio group_by_modality_length
        lora_enable lora_r lora_alpha mm_projector_lr"""
    code = """freeze_backbone vision_tower mm_vision_select_feature is_multimodal num_frames optim
        remove_unused_columns freeze_mm_mlp_adapter mpt_attn_impl double_quant quant_type bits
        lora_dropout lora_weight_path lora_bias"""
    assert set(scripts.split()) | set(code.split()) <= said


def test_every_flag_of_the_published_command_line_is_in_the_table_and_ours_exist():
    rows = table(PAGE, "## The command line\n\n| `python -m videollava.serve.cli` |")
    theirs = set(re.findall(r"--[a-z][\w-]+", " ".join(rows)))
    assert theirs == {
        "--model-path", "--model-base", "--cache-dir", "--file", "--device", "--conv-mode",
        "--temperature", "--max-new-tokens", "--load-8bit", "--load-4bit", "--debug",
    }  # fmt: skip
    ours = set(re.findall(r"--[a-z][\w-]+", " ".join(row[0] for row in rows.values())))
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    assert {"--file", "--load-4bit", "--temperature"} <= ours <= set(parser._option_string_actions)
    for app, flags in ((demo, {"--load-8bit", "--votes"}), (predict, {"--input"})):
        parser = argparse.ArgumentParser()
        app.add_arguments(parser)
        assert flags <= set(parser._option_string_actions)


def test_the_python_examples_run_as_they_stand(tmp_path, monkeypatch):
    # The shipped run file with narrow random weights in its place, so that nothing is fetched.
    narrow = [*write_files(tmp_path / "files"), "model.released=null", "run.precision=fp32"]
    config = load(ROOT / TALK, options=[*narrow, "run.device=cpu"])
    (tmp_path / "eval_configs").mkdir()
    (tmp_path / TALK).write_text(yaml.safe_dump(dict(config.resolved)))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks(PAGE, "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    results = doctest.DocTestRunner().run(test, out=said.append)
    assert results.failed == 0, "".join(said)
    assert results.attempted >= 18
