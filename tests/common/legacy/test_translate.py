"""Every key of an original run file is honoured, or refused with what to do about it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

from video_llama.common.config import load
from video_llama.common.errors import ConfigError

GOLDENS = Path(__file__).parents[2] / "goldens" / "legacy"
VISION_1 = GOLDENS / "visionbranch_stage1_pretrain.yaml"
VISION_2 = GOLDENS / "visionbranch_stage2_finetune.yaml"
AUDIO_1 = GOLDENS / "audiobranch_stage1_pretrain.yaml"
AUDIO_2 = GOLDENS / "audiobranch_stage2_finetune.yaml"
SERVE = GOLDENS / "video_llama_eval_withaudio.yaml"


def decoder_folder(tmp_path: Path, **config) -> str:
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "decoder")


def refusal(path: Path, *options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, options=options)
    return str(caught.value)


# --- single keys


@pytest.mark.parametrize(
    ("option", "place", "value"),
    [
        ("model.image_size=336", "encoder.image_size", 336),
        ("model.drop_path_rate=0.1", "encoder.drop_path_rate", 0.1),
        ("model.vit_precision=fp16", "encoder.dtype", "bfloat16"),
        ("model.vit_precision=fp32", "encoder.dtype", "float32"),
        ("model.num_query_token=16", "image_qformer.num_queries", 16),
        ("model.num_video_query_token=24", "video_qformer.num_queries", 24),
        ("model.max_frame_pos=64", "video_qformer.num_positions", 64),
        ("datasets.webvid.vis_processor.train.n_frms=16", "encoder.num_frames", 16),
    ],
)
def test_a_size_reaches_its_part(option, place, value):
    options = [option]
    if "image_size" in option:
        sets = ("webvid", "cc_sbu_align")
        options += [f"datasets.{name}.vis_processor.train.image_size=336" for name in sets]
    branch = load(VISION_1, options=options).model.branches["video"]
    part, key = place.split(".")
    config = branch.encoder.config if part == "encoder" else branch.stages[part].config
    assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("value", "bits"), [("False", "none"), ("True", "8bit"), ("8bit", "8bit"), ("4bit", "4bit")]
)
def test_low_resource_is_eight_bits_and_four_can_be_asked_for(value, bits):
    assert load(SERVE, options=[f"model.low_resource={value}"]).model.low_resource == bits


def test_recomputing_the_encoder_is_a_key_of_every_part():
    branch = load(VISION_1, options=["model.use_grad_checkpoint=True"]).model.branches["video"]
    assert branch.encoder.gradient_checkpointing


def test_queries_of_the_audio_branch_count_in_the_length_too():
    config = load(AUDIO_1, options=["model.num_audio_query_token=4", "model.max_txt_len=40"])
    stages = config.model.branches["audio"].stages
    assert stages["audio_qformer"].config.num_queries == 4
    assert config.model.max_txt_len == 1 + 4 + 40


def test_thawed_parts_learn_and_a_thawed_encoder_keeps_full_precision():
    config = load(VISION_1, options=["model.freeze_vit=False", "model.freeze_qformer=False"])
    branch = config.model.branches["video"]
    assert branch.encoder.trainable
    assert branch.encoder.config.dtype == "float32"
    assert all(part.trainable for part in branch.stages.values())


def test_the_flags_of_the_vision_branch_are_its_parts():
    branch = load(VISION_1, options=["model.frozen_llama_proj=True"]).model.branches["video"]
    learning = [name for name, part in branch.stages.items() if part.trainable]
    assert learning == ["video_qformer"]


def test_with_both_branches_frozen_the_projection_alone_trains():
    config = load(VISION_1, options=["model.frozen_video_Qformer=True"])
    branch = config.model.branches["video"]
    assert [name for name, part in branch.stages.items() if part.trainable] == ["projection"]


def test_the_published_encoders_are_those_that_the_original_fetches():
    paths = load(VISION_1).model.paths
    assert paths["vit_model"].endswith("LAVIS/models/BLIP2/eva_vit_g.pth")
    assert paths["q_former_model"].endswith("BLIP2/blip2_pretrained_flant5xxl.pth")
    options = ["model.vit_model=eva_clip_g", "model.q_former_model=ckpt/blip2.pth"]
    again = load(VISION_1, options=options).model.paths
    assert (again["vit_model"], again["q_former_model"]) == (paths["vit_model"], "ckpt/blip2.pth")


def test_the_audio_branch_alone_starts_from_the_second_checkpoint(caplog):
    model = load(AUDIO_2, options=["model.ckpt=ckpt/vl.pth", "model.ckpt_2=ckpt/al.pth"]).model
    assert (model.ckpt, model.ckpt_2) == ("ckpt/al.pth", None)
    assert "'ckpt/vl.pth' is left out" in caplog.text


def test_the_demo_takes_both_checkpoints_in_their_order():
    model = load(SERVE, options=["model.ckpt=ckpt/vl.pth", "model.ckpt_2=ckpt/al.pth"]).model
    assert (model.ckpt, model.ckpt_2) == ("ckpt/vl.pth", "ckpt/al.pth")


def test_processors_decide_about_crops_and_frames():
    config = load(
        VISION_1,
        options=[
            "datasets.webvid.vis_processor.train.name=alpro_video_eval",
            "datasets.cc_sbu_align.vis_processor.train.name=blip2_image_eval",
        ],
    )
    assert [entry.augment for entry in config.datasets.values()] == ["none", "none"]
    assert config.model.branches["video"].encoder.config.frame_policy == "segment_start"


def test_captions_of_clips_are_cleaned_only_if_the_file_says_so():
    key = "datasets.webvid.text_processor"
    assert load(VISION_1).datasets["webvid"].config.cleaning == "blip"
    assert load(VISION_1, options=[f"{key}=null"]).datasets["webvid"].config.cleaning == "none"
    kept = load(VISION_1, options=[f"{key}.train.max_words=7"])
    assert kept.datasets["webvid"].config.max_words == 7


def test_without_a_ratio_at_the_first_data_set_all_count_alike(caplog):
    config = load(VISION_1, options=["datasets.webvid.sample_ratio=null"])
    assert [entry.sample_ratio for entry in config.datasets.values()] == [1.0, 1.0]
    assert "24 is not used" in caplog.text


def test_chinese_conversations_are_not_told_seconds():
    config = load(VISION_2, options=["datasets.webvid_instruct.data_type=video_cn"])
    assert config.datasets["webvid_instruct"].config.frame_times is False
    assert load(VISION_2).datasets["webvid_instruct"].config.frame_times is True


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("run.log_freq=null", "log_freq", 50),
        ("run.iters_per_epoch=null", "iters_per_epoch", 10_000),
        ("run.warmup_lr=null", "warmup_lr", 1e-4),
        ("run.warmup_lr=-1", "warmup_lr", 1e-4),
        ("run.amp=False", "precision", "bf16"),
        ("run.beta2=0.98", "beta2", 0.98),
        ("run.accum_grad_iters=2", "accum_grad_iters", 2),
        ("run.output_dir=null", "output_dir", "output/visionbranch_stage1_pretrain"),
    ],
)
def test_the_schedule_has_the_original_s_own_defaults(option, key, value):
    assert getattr(load(VISION_1, options=[option]).run, key) == value


# --- prompts


def test_prompts_are_read_from_the_file_if_it_is_there(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("<Image><ImageHere></Image> What is it?\nnot a prompt\n")
    config = load(VISION_2, options=[f"model.prompt_path={file}"])
    assert config.datasets["cc_sbu_align"].config.prompts == ("What is it?",)


def test_the_published_prompts_need_no_file():
    prompts = load(VISION_2).datasets["cc_sbu_align"].config.prompts
    # Lengths of the published lines less those of `<Image><ImageHere></Image> `.
    assert [len(prompt) + 27 for prompt in prompts] == [57, 82, 80, 80]


def test_a_line_feed_lost_in_single_quotes_is_accepted_and_told(caplog):
    options = [
        "model.model_type=pretrain_llama_v2",
        r"model.prompt_template='[INST] <<SYS>>\n \n<</SYS>>\n\n{} [/INST] '",
        "model.end_sym=</s>",
        *(f"datasets.{name}.model_type=llama_v2" for name in ("llava_instruct", "webvid_instruct")),
    ]
    assert load(VISION_2, options=options).model.template == "llama_2_released"
    assert "a backslash and an n" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model.end_sym=</s>"], "model.end_sym: '</s>'; captions behind a prompt end in '###'"),
        (["model.prompt_path=null"], "model.end_sym: '###'; captions without a prompt end in"),
        (["model.prompt_template='{} '"], "model.prompt_template: '{} '; only the published"),
        (["model.prompt_path=none.txt"], "model.prompt_path: there is no none.txt"),
    ],
)
def test_a_text_that_no_template_has_is_refused(options, said):
    assert said in refusal(VISION_2, *options)


def test_prompts_that_do_not_open_with_the_picture_are_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Look: <Image><ImageHere></Image>\n")
    assert "expected lines that open with" in refusal(VISION_2, f"model.prompt_path={file}")


# --- the decoder


@pytest.mark.parametrize(
    ("model_type", "hidden_size", "preset"),
    [
        ("pretrain_vicuna", 4096, "vicuna7b"),
        ("pretrain_vicuna", 5120, "vicuna13b"),
        ("pretrain_llama_v2", 4096, "llama2_7b"),
        ("pretrain_llama_v2", 5120, "llama2_13b"),
    ],
)
def test_the_decoder_s_own_size_chooses_the_preset(tmp_path, model_type, hidden_size, preset):
    folder = decoder_folder(tmp_path, hidden_size=hidden_size)
    options = [f"model.model_type={model_type}", f"model.llama_model={folder}"]
    assert load(SERVE, options=options).model.model_type == preset


@pytest.mark.parametrize(
    ("folder", "preset"), [("ckpt/vicuna-13b/", "vicuna13b"), ("ckpt/Vicuna_7B", "vicuna7b")]
)
def test_without_the_decoder_s_file_its_name_says_the_size_and_the_log_says_so(
    folder, preset, caplog
):
    config = load(SERVE, options=[f"model.llama_model={folder}"])
    assert config.model.model_type == preset
    assert "to read the size from" in caplog.text


def test_a_decoder_of_unknown_size_is_refused(tmp_path):
    assert "does not say 7b or 13b" in refusal(SERVE, "model.llama_model=ckpt/llama")
    folder = decoder_folder(tmp_path, hidden_size=2048)
    said = refusal(SERVE, f"model.llama_model={folder}")
    assert "hidden_size 2048, expected 4096 (7B) or 5120 (13B)" in said


def test_one_of_our_presets_may_stand_for_the_model_type():
    assert load(SERVE, options=["model.model_type=vicuna13b"]).model.model_type == "vicuna13b"
    assert "did you mean 'vicuna7b'?" in refusal(SERVE, "model.model_type=vicuna7")


def test_data_sets_of_another_family_than_the_decoder_are_refused():
    said = refusal(VISION_2, "datasets.llava_instruct.model_type=llama_v2")
    assert "datasets.llava_instruct.model_type: 'llama_v2', but model.model_type is" in said
    assert "expected 'vicuna'" in said


def test_a_tokenizer_elsewhere_is_taken_and_two_are_refused():
    keys = [f"datasets.{name}.tokenizer_name" for name in ("llava_instruct", "webvid_instruct")]
    config = load(VISION_2, options=[f"{key}=ckpt/words/" for key in keys])
    assert config.model.tokenizer == "ckpt/words"
    assert load(VISION_2).model.tokenizer is None
    assert "'ckpt/words', but another data set has" in refusal(VISION_2, f"{keys[1]}=ckpt/words")


@pytest.mark.parametrize("name", ["cc_sbu", "laion"])
def test_data_sets_in_tars_are_read_from_their_pattern(name):
    entry = f"datasets.{name}"
    options = [
        f"{entry}.build_info.storage=data/{name}/{{00000..01255}}.tar",
        f"{entry}.vis_processor.train.name=blip2_image_train",
        f"{entry}.text_processor.train.name=blip_caption",
        f"{entry}.sample_ratio=14",
    ]
    ours = load(VISION_1, options=options).datasets[name]
    assert ours.type == name
    assert ours.config.shards == f"data/{name}/{{00000..01255}}.tar"
    assert (ours.config.cleaning, ours.augment, ours.sample_ratio) == ("blip", "random_crop", 14)


# --- mistakes


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        (VISION_1, ["model.freez_vit=True"], "did you mean 'model.freeze_vit'?"),
        (VISION_1, ["datasets.webvid.vis_procesor.train.n_frms=8"], "webvid.vis_processor.train"),
        (VISION_1, ["datasets.web.data_type=video"], "datasets.web: unknown, the original has"),
        (VISION_1, ["datasets.laion.data_type=images"], "laion.build_info: missing, expected sto"),
        (VISION_1, ["run.seed=null"], "run.seed: missing, the original has no default for it"),
        (VISION_1, ["run.evalute=False"], "did you mean 'run.evaluate'?"),
        (VISION_1, ["run.evaluate=True"], "run.evaluate: expected False, found True; evaluate.py"),
        (VISION_1, ["run.train_splits=[val]"], "run.train_splits: expected ['train']"),
        (VISION_1, ["run.runner=runner_iter"], "run.runner: expected 'runner_base'"),
        (VISION_1, ["model.low_resource=2bit"], "model.low_resource: expected true or false"),
        (VISION_1, ["model.freeze_vit=maybe"], "model.freeze_vit: expected true or false"),
        (VISION_1, ["model.frozen_video_Qformer=0"], "frozen_video_Qformer: expected true or"),
        (VISION_1, ["model.max_txt_len=long"], "model.max_txt_len: expected an integer"),
        (VISION_1, ["model.model_type=pretrain_vicuna or pretrain_llama_v2"], "choice open; keep"),
        (VISION_1, ["model.model_type=null"], "model.model_type: missing, expected one of"),
        (VISION_1, ["model.frozen_audio_Qformer=False"], "cannot train both"),
        (AUDIO_1, ["model.equip_audio_branch=False"], "there is nothing to train"),
        (VISION_1, ["datasets.webvid.build_info=null"], "expected anno_dir and videos_dir"),
        (VISION_1, ["datasets.webvid.vis_processor.train.image_size=256"], "encoder takes 224"),
        (VISION_1, ["datasets.webvid.vis_processor.train.min_scale=0.8"], "expected 0.5, found"),
        (VISION_1, ["datasets.webvid.vis_processor.train.mean=[0,0,0]"], "but weights expect"),
        (VISION_1, ["datasets.webvid.vis_processor.train.name=blip2_image_train"], "alpro_video_t"),
        (
            VISION_1,
            ["datasets.webvid.text_processor.train.prompt=a photo of"],
            "expected '', found",
        ),
        (VISION_1, ["datasets.cc_sbu_align.sample_ratio=null"], "missing, the first data set has"),
        (
            VISION_2,
            ["datasets.webvid_instruct.num_video_query_token=8"],
            "branch, which trains, ma",
        ),
        (AUDIO_2, ["datasets.llava_instruct.num_video_query_token=32"], "32, but the audio branch"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_a_way_out(path, options, said):
    text = refusal(path, *options)
    assert said in text
    assert options[0].split("=")[0].rsplit(".", 1)[0].split(".train")[0].split(".build")[0] in text


def test_all_mistakes_are_shown_together():
    said = refusal(VISION_1, "model.freez_vit=True", "run.evaluate=True", "model.max_txt_len=x")
    assert "3 problems" in said


def test_a_file_of_both_forms_is_refused_naming_keys_of_both(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(VISION_1.read_text().replace("    sample_ratio: 24", "    media: data/x", 1))
    said = refusal(file)
    assert "model.freeze_vit" in said
    assert "datasets.cc_sbu_align.media" in said


def test_an_original_key_for_one_of_our_files_is_refused_with_its_name_here():
    said = refusal(Path("eval_configs/toy/only_vl.yaml"), "model.freeze_vit=False")
    assert "model.freeze_vit: a key of the original" in said
    assert "model.branches.video.encoder.trainable" in said


# --- overrides and log


def test_overrides_in_our_form_are_set_after_the_translation():
    options = ["model.compat=corrected", "model.branches.video.encoder.num_frames=4", "run.seed=7"]
    config = load(VISION_1, options=options)
    assert config.model.compat == "corrected"
    assert config.model.branches["video"].encoder.config.num_frames == 4
    assert config.run.seed == 7


def test_a_data_set_can_be_left_out_by_an_override():
    assert list(load(VISION_1, options=["datasets.cc_sbu_align=null"]).datasets) == ["webvid"]


def test_the_log_shows_every_key_and_names_those_without_effect(caplog):
    with caplog.at_level(logging.INFO, logger="video_llama"):
        load(VISION_1)
    translation = caplog.messages[0]
    assert "model.freeze_vit: true -> model.branches.video.encoder.trainable: false" in translation
    warning = next(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "model.fusion_head_layers (the original never reads it" in warning
    assert "run.batch_size_eval (the original evaluates nothing)" in warning
    assert all(
        key in translation + warning for key in written_keys(yaml.safe_load(VISION_1.read_text()))
    )


def written_keys(tree, above=""):
    """Every dotted key of a file that has a value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from written_keys(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}"
