"""The JSON Schema that editors use accepts what the parser accepts, and points at typos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from video_llama.apps.main import main
from video_llama.apps.schema import attribute_notes, run_file_schema
from video_llama.common.registry import registry
from video_llama.common.schema import RunConfig

ROOT = Path(__file__).parents[2]
RUN_FILES = sorted([*ROOT.glob("train_configs/**/*.yaml"), *ROOT.glob("eval_configs/**/*.yaml")])


@pytest.fixture(scope="module")
def validator():
    Draft202012Validator.check_schema(run_file_schema())
    return Draft202012Validator(run_file_schema())


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_run_file_is_accepted(path, validator):
    errors = [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))]
    assert not errors


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.seeed", 1),
        ("run.seed", "many"),
        ("run.engine", "horovod"),
        ("model.llama_modle", "x"),
        ("model.model_type", "vicuna"),
        ("model.branches.video.encodr", {}),
        ("model.branches.video.stages.video_qformer", {"num_querys": 3}),
        ("model.branches.video.stages.video_qformer", {"type": "q_former"}),
        ("model.branches.video.stages.video_qformer", {"share": 3}),
        ("model.branches.video.stages.video_qformer", {"share": "audio.audio_qformer", "width": 4}),
        ("model.branches.video.encoder", {"type": "eva_vit_g", "share": "audio.encoder"}),
        ("model.branches.video.encoder", {"type": "eva_vit_g", "trunk": "audio"}),
        ("model.branches.video.media", ["smell"]),
        ("model.decoder", {"type": "causal_lm", "lr": "fast"}),
        ("model.decoder", {"type": "causal_lm", "gradient_checkpointing": 2}),
        ("model.decoder", {"type": "causal_lm", "attention": "flash"}),
        ("run.compile", "gcc"),
        ("datasets.webvid.type", "webvids"),
        ("datasets.webvid.streams", ["smell"]),
        ("datsets", {}),
    ],
)
def test_a_typo_is_pointed_at(key, value, validator):
    tree = yaml.safe_load((ROOT / "train_configs/visionbranch_stage1_pretrain.yaml").read_text())
    node = tree
    *above, last = key.split(".")
    for name in above:
        node = node.setdefault(name, {})
    node[last] = value
    assert list(validator.iter_errors(tree))


def test_how_parts_learn_is_known_to_the_editor(validator):
    decoder = {"type": "causal_lm", "trainable": True, "lr": 2e-5, "gradient_checkpointing": True}
    model = {"arch": "video_llama", "model_type": "toy", "decoder": decoder}
    for compile in (True, False, "aot_eager"):
        run = {"task": "x", "output_dir": "y", "compile": compile}
        assert validator.is_valid({"model": model, "run": run})


def test_a_branch_may_name_one_kind_of_media_without_a_list(validator):
    branches = {"video": {"media": "video"}}
    model = {"arch": "video_llama", "model_type": "toy", "branches": branches}
    assert validator.is_valid({"model": model, "run": {"task": "x", "output_dir": "y"}})


@pytest.mark.parametrize(
    "stage",
    [
        {"share": "image.projection"},
        {"share": "image.projection", "type": None},
        {"share": None, "type": "mlp", "width": 4},
        {"share": None},
        None,
    ],
)
def test_a_stage_may_be_another_branchs(stage, validator):
    branches = {"video": {"stages": {"projection": stage}}}
    model = {"arch": "video_llava", "model_type": "vicuna7b", "branches": branches}
    assert validator.is_valid({"model": model, "run": {"task": "x", "output_dir": "y"}})


def test_what_the_docstring_says_of_a_key_is_shown_by_the_editor(validator):
    key = validator.schema["properties"]["run"]["properties"]["warmup_steps"]
    assert key["description"] == "optimizer steps of warm-up."
    assert key["default"] == 0


def test_every_key_of_the_run_section_is_explained():
    assert set(attribute_notes(RunConfig)) == set(RunConfig.__dataclass_fields__)


def test_the_verb_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(run_file_schema()))


def test_keys_that_an_encoder_shares_with_others_are_explained():
    for name in ("clip_vit", "languagebind"):
        config = registry.get_encoder_class(name).Config
        assert set(attribute_notes(config)) == set(config.__dataclass_fields__)
