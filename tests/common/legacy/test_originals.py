"""The original's own run files are accepted, and mean what our files of the same names say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from video_llama.common.config import load

ROOT = Path(__file__).parents[3]
ORIGINALS = sorted((ROOT / "tests" / "goldens" / "legacy").glob("*.yaml"))
NAMES = [path.name for path in ORIGINALS]
TRAINING = [name for name in NAMES if "eval" not in name]
SERVING = [name for name in NAMES if "eval" in name]

LOCATIONS = re.compile(
    r"model\.(paths\.\w+|ckpt(_2)?|.*\.weights)|datasets\.\w+\.config\.(annotations|media)"
    r"|run\.output_dir"
)
"""Where files lie; the originals hold placeholders."""

ALLOWED = {
    "run.device": "cuda, where ours takes whatever there is",
    "run.log_freq": "lines in the log",
    "run.save_freq": "ours loses less when it is killed",
}
ALLOWED_IN_SERVING = {
    "datasets": "ours asks a set of questions too, the original evaluates nothing",
    "run.task": "as above",
    "run.num_workers": "as above",
    "run.batch_size_eval": "as above",
}
"""Keys in which an original and our file of its name may differ, and why."""


def original(name: str, **kwargs):
    return load(ROOT / "tests" / "goldens" / "legacy" / name, **kwargs)


def clean(name: str):
    folder = "eval_configs" if "eval" in name else "train_configs"
    return load(ROOT / folder / name, options=["model.compat=released"])


def leaves(node, above="") -> dict[str, object]:
    """Every value of a config by dotted key."""
    if dataclasses.is_dataclass(node):
        node = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    if not isinstance(node, dict):
        return {above[:-1]: node}
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= leaves(value, f"{above}{key}.")
    return found


def contents(config) -> dict[str, object]:
    """A config by dotted key, data sets by what reads them."""
    datasets = {entry.type: entry for entry in config.datasets.values()}
    return leaves({"model": config.model, "datasets": datasets, "run": config.run})


def differences(name: str) -> set[str]:
    """Keys in which the two files differ, locations left out."""
    theirs, ours = contents(original(name)), contents(clean(name))
    differing = {
        key
        for key in theirs.keys() | ours.keys()
        if theirs.get(key, "nothing") != ours.get(key, "nothing")
    }
    return {key for key in differing if not LOCATIONS.fullmatch(key)}


def test_all_six_files_are_here():
    assert set(NAMES) == {
        "audiobranch_stage1_pretrain.yaml",
        "audiobranch_stage2_finetune.yaml",
        "video_llama_eval_only_vl.yaml",
        "video_llama_eval_withaudio.yaml",
        "visionbranch_stage1_pretrain.yaml",
        "visionbranch_stage2_finetune.yaml",
    }


@pytest.mark.parametrize("name", TRAINING)
def test_an_original_and_our_file_train_the_same_model_on_the_same_data(name):
    assert differences(name) == set(ALLOWED)


@pytest.mark.parametrize("name", SERVING)
def test_an_original_and_our_file_serve_the_same_model(name):
    found = {key.split(".")[0] if key.startswith("datasets") else key for key in differences(name)}
    assert found == set(ALLOWED_IN_SERVING)


@pytest.mark.parametrize("name", TRAINING)
def test_the_data_sets_stand_in_the_same_order_which_is_that_of_the_draws(name):
    theirs, ours = (
        [(entry.type, entry.sample_ratio) for entry in config.datasets.values()]
        for config in (original(name), clean(name))
    )
    assert theirs == ours


@pytest.mark.parametrize("name", NAMES)
def test_an_original_has_the_original_s_quirks(name):
    assert original(name).model.compat == "released"


# Flags, steps and lengths from the table of the published files.
@pytest.mark.parametrize(
    ("name", "branch", "warmup", "iters", "positions"),
    [
        ("visionbranch_stage1_pretrain.yaml", "video", 2500, 2500, 1 + 32 + 32),
        ("audiobranch_stage1_pretrain.yaml", "audio", 5000, 5000, 1 + 8 + 32),
        ("visionbranch_stage2_finetune.yaml", "video", 1000, 1000, 512),
        ("audiobranch_stage2_finetune.yaml", "audio", 400, 1000, 512),
    ],
)
def test_a_training_file_trains_one_branch_for_the_published_steps(
    name, branch, warmup, iters, positions
):
    config = original(name)
    assert list(config.model.branches) == [branch]
    learning = [key for key, part in config.model.branches[branch].stages.items() if part.trainable]
    assert learning == [f"{branch}_qformer", "projection"]
    assert config.model.branches[branch].media == ("video", "image")
    assert (config.run.warmup_steps, config.run.iters_per_epoch) == (warmup, iters)
    assert config.model.max_txt_len == positions
    assert config.run.grad_clip_norm is None


@pytest.mark.parametrize("name", SERVING)
def test_a_serving_file_builds_what_is_equipped_and_trains_nothing(name):
    model = original(name).model
    assert list(model.branches) == (["video", "audio"] if "withaudio" in name else ["video"])
    parts = [part for branch in model.branches.values() for part in branch.stages.values()]
    assert not any(part.trainable for part in parts)
    assert "withaudio" not in name or model.branches["audio"].media == ("audio",)
