"""The table of the original's keys is whole, and the documentation repeats it."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from pages import ROOT, table

from video_llama.common.config import list_presets, read_preset
from video_llama.common.legacy.data import ITERS_PER_EPOCH, LOG_FREQ
from video_llama.common.legacy.keys import RULES
from video_llama.common.legacy.model import CAPTION_LENGTH
from video_llama.common.schema import DatasetEntry, ModelConfig, RunConfig
from video_llama.common.yaml_files import read_yaml
from video_llama.datasets.video_instruct import VideoInstruct
from video_llama.datasets.webvid import WebVid

PAGE = ROOT / "docs" / "original_configs.md"

# From `from_config` of the model, the processors and the runner, and from the data sets' builders.
MODEL = """arch model_type vit_model q_former_model image_size drop_path_rate use_grad_checkpoint
vit_precision freeze_vit freeze_qformer num_query_token llama_model prompt low_resource device_8bit
prompt_path prompt_template max_txt_len end_sym frozen_llama_proj frozen_video_Qformer
frozen_audio_Qformer llama_proj_model fusion_header_type fusion_head_layers max_frame_pos
num_video_query_token num_audio_query_token imagebind_ckpt_path equip_audio_branch ckpt ckpt_2"""
DATASET = """data_type build_info.storage build_info.anno_dir build_info.videos_dir
vis_processor.train.name vis_processor.train.n_frms vis_processor.train.image_size
vis_processor.train.mean vis_processor.train.std vis_processor.train.min_scale
vis_processor.train.max_scale vis_processor.eval text_processor.train.name
text_processor.train.prompt text_processor.train.max_words text_processor.eval sample_ratio type
num_video_query_token tokenizer_name model_type"""
RUN = """task lr_sched init_lr min_lr max_epoch weight_decay batch_size_train batch_size_eval
num_workers seed output_dir device distributed evaluate dist_url runner warmup_lr warmup_steps
lr_decay_rate beta2 iters_per_epoch accum_grad_iters log_freq amp resume_ckpt_path train_splits
valid_splits test_splits use_dist_eval_sampler world_size rank gpu dist_backend"""


def test_the_table_has_every_key_of_the_original_and_no_other():
    expected = {f"model.{key}" for key in MODEL.split()}
    expected |= {f"datasets.*.{key}" for key in DATASET.split()}
    expected |= {f"run.{key}" for key in RUN.split()}
    assert set(RULES) == expected | {"preprocess"}


def test_the_documentation_repeats_the_table():
    rows = table(PAGE, "| original key |")
    said = {
        key.strip("`"): (tuple(re.findall(r"`([^`]+)`", ours)), note)
        for key, (ours, note) in rows.items()
    }
    assert said == {key: (rule.ours, rule.note) for key, rule in RULES.items()}


@pytest.mark.parametrize("key", sorted({name for rule in RULES.values() for name in rule.ours}))
def test_what_a_key_becomes_is_a_key_of_ours(key):
    section, *below = key.split(".")
    if section == "run":
        assert below[0] in {field.name for field in fields(RunConfig)}
    elif section == "datasets":
        readers = (DatasetEntry, WebVid.Config, VideoInstruct.Config)
        assert below[1] in {field.name for part in readers for field in fields(part)}
    else:
        known = {field.name for field in fields(ModelConfig)} | set(
            read_preset("video_llama", "vicuna7b")
        )
        assert below[0] in known


def test_the_numbers_of_the_original_s_own_defaults_are_in_the_documentation():
    text = " ".join(PAGE.read_text("utf-8").split())
    assert f"`log_freq` {LOG_FREQ}, `iters_per_epoch` {ITERS_PER_EPOCH}" in text
    assert f"`max_txt_len` {CAPTION_LENGTH}" in text


def test_our_own_files_have_no_key_of_an_original():
    names = {
        key.split(".")[1] for key, rule in RULES.items() if not rule.shared and "model." in key
    }
    for model_type in list_presets()["video_llama"]:
        assert not names & set(read_preset("video_llama", model_type))
    for path in ROOT.glob("*_configs/*.yaml"):
        assert not names & set(read_yaml(path)["model"])
