"""What adapter_config.json makes of a decoder."""

from __future__ import annotations

import json

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.lora_bundle import take_lora_bundle


def with_settings(folder, **settings):
    plain = {"r": 16, "lora_alpha": 8, "target_modules": ["q_proj"], "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | settings))
    return take_lora_bundle({"lora_bundle": str(folder)})["decoder"]["lora"]


def test_the_settings_are_read_from_its_config(tmp_path):
    targets = ["up_proj", "self_attn.q_proj"]
    assert with_settings(tmp_path, lora_dropout=0.05, target_modules=targets) == {
        "rank": 16,
        "alpha": 8.0,
        "dropout": 0.05,
        "targets": ["q_proj", "up_proj"],
    }
    # alpha / sqrt(16) = 2 is plain alpha 32 / 16.
    assert with_settings(tmp_path, use_rslora=True)["alpha"] == 32.0


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 2}},
        {"lora_alpha": None},
    ],
    ids=str,
)
def test_adapters_of_another_kind_are_refused_by_name(settings, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        with_settings(tmp_path, **settings)


def test_a_folder_without_adapters_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no adapter_config\.json in it"):
        take_lora_bundle({"lora_bundle": str(tmp_path)})
    with pytest.raises(ConfigError, match="no such folder"):
        take_lora_bundle({"lora_bundle": str(tmp_path / "nowhere")})


def test_a_model_without_a_bundle_stays_as_it_is():
    model = {"lora_bundle": None, "arch": "x"}
    assert take_lora_bundle(model) == model
