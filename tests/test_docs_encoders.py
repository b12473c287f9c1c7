"""The encoders of the docs: all there are, with keys that parse and sizes that are so."""

from __future__ import annotations

import json

import pytest
import yaml
from pages import ROOT, blocks, table

from video_llama.common.parsing import parse
from video_llama.common.registry import registry
from video_llama.common.types import VideoSpec

PAGE = ROOT / "docs" / "encoders.md"
BLOCKS = [yaml.safe_load(block)["encoder"] for block in blocks(PAGE, "yaml")]
PUBLISHED = {
    "whisper": {
        "model_type": "whisper",
        "d_model": 1280,
        "num_mel_bins": 128,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
    },
    "ast": {"model_type": "audio-spectrogram-transformer", "max_length": 1024},
    "clap": {"model_type": "clap", "audio_config": {"hidden_size": 768}},
}
"""What stands in the config.json files that the page names, as far as it matters."""


def config_of(keys, folder):
    keys = {key: value for key, value in keys.items() if key not in ("type", "weights")} | (
        {"architecture": str(folder)} if "architecture" in keys else {}
    )
    if "family" in keys and keys["family"] in PUBLISHED:
        (folder / "config.json").write_text(json.dumps(PUBLISHED[keys["family"]]))
    return keys


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["type"])
def test_every_block_parses_and_gives_what_the_table_says(block, tmp_path):
    cls = registry.get_encoder_class(block["type"])
    problems = []
    config = parse(cls.Config, config_of(block, tmp_path), where="encoder", problems=problems)
    assert not problems
    shape = config.out_shape(1)
    assert shape.num_slots == block.get("num_tokens", shape.num_slots)
    kind, said = config.media_spec(), table(PAGE, "| `type` |")[f"`{block['type']}`"][1]
    usual = {"eva_vit_g", "imagebind", "languagebind"}
    if block["type"] in usual:
        assert f"{shape.num_tokens} token" in said
        assert f"of {shape.width}" in said
    assert isinstance(kind, VideoSpec) == (block["type"] not in ("imagebind", "hf_audio"))


def test_the_table_has_every_encoder_there_is():
    assert set(table(PAGE, "| `type` |")) == {f"`{name}`" for name in registry.list_encoders()}


def test_the_numbers_of_tokens_of_sounds_are_those_of_the_table(tmp_path):
    said = table(PAGE, "| `type` |")["`hf_audio`"][1]
    cls, found = registry.get_encoder_class("hf_audio"), []
    for family in PUBLISHED:
        keys = config_of({"family": family, "architecture": ""}, tmp_path)
        found.append(cls.Config(**keys).out_shape(1).num_slots)
    assert said.startswith("{}, {} or {} tokens".format(*found))
