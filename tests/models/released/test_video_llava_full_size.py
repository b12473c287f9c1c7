"""The presets at full size against the names and shapes that transformers' port has, on meta.

The original's names are made from them, with a temporal block in each of 24 layers: 4.209 million
parameters, four maps with bias, one norm and a table of 8 frames, 1024 wide.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from tiny_llava import hub_name, original_name
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from video_llama.common.config import load
from video_llama.models import sources
from video_llama.models.decoders import coverage
from video_llama.models.fidelity import fidelity_of
from video_llama.models.loading import check_model
from video_llama.models.released import video_llava

WIDTH, LAYERS, FRAMES = 1024, 24, 8
BLOCK = {
    "temporal_embedding": (1, FRAMES, WIDTH),
    **{f"temporal_layer_norm1.{kind}": (WIDTH,) for kind in ("weight", "bias")},
    **{f"temporal_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")},
    **{f"temporal_attn.{part}_proj.bias": (WIDTH,) for part in ("q", "k", "v", "out")},
}
TEXT = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
TEXT |= {"rms_norm_eps": 1e-5}


@pytest.fixture(scope="module")
def port():
    with torch.device("meta"):
        return VideoLlavaForConditionalGeneration(VideoLlavaConfig(text_config=TEXT)).state_dict()


def original(port):
    state = {original_name(name): tensor for name, tensor in port.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.empty(32000, 4096, device="meta")
    for layer in range(LAYERS):
        prefix = f"model.video_tower.video_tower.encoder.layers.{layer}"
        state |= {f"{prefix}.{n}": torch.empty(s, device="meta") for n, s in BLOCK.items()}
    return state


def hub(port):
    return {hub_name(name): tensor for name, tensor in port.items()}


ORIGINAL_CONFIG = {"model_type": "llava", **TEXT, "vocab_size": 32000, "hidden_size": 4096}
CASES = {
    # As published: 7.467 and 7.366 billion parameters.
    "vicuna7b": (original, ORIGINAL_CONFIG | {"model_type": "llava"}, 7.467e9, "exact"),
    "vicuna7b_hf_compat": (
        hub,
        {"model_type": "video_llava", "text_config": TEXT},
        7.366e9,
        "temporal block missing, quick_gelu",
    ),
}


@pytest.mark.parametrize("model_type", CASES)
def test_every_name_and_shape_of_a_preset_is_the_published_one(
    model_type, port, tmp_path, monkeypatch
):
    make, config, count, verdict = CASES[model_type]
    state = make(port)
    assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(count, abs=1e6)
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_file = tmp_path / "run.yaml"
    run = {"task": "video_text_pretrain", "output_dir": str(tmp_path)}
    run_file.write_text(yaml.safe_dump({"model": {"arch": "video_llava"}, "run": run}))
    for module in (sources, coverage, video_llava):
        monkeypatch.setattr(module, "read_state", lambda path: state)
    # The directory says which preset it goes with.
    typed = load(run_file, options=[f"model.released={tmp_path}"]).model
    assert typed.model_type == model_type
    loaded, problems = check_model(typed)
    assert problems == []
    assert fidelity_of(typed).verdict == verdict
    rows = {row.name: row.num_params for row in loaded.model.rows()}
    assert rows["decoder"] == sum(
        t.numel() for n, t in state.items() if "_tower" not in n and "projector" not in n
    )
    assert rows["branches.image.stages.projection"] == 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    # One layer of 24 and the norm behind it are not built.
    tower = sum(t.numel() for n, t in state.items() if ".video_tower." in f".{n}")
    unused = sum(
        tensor.numel()
        for name, tensor in state.items()
        if ".video_tower." in f".{name}" and ("layers.23." in name or "post_layernorm" in name)
    )
    assert rows["branches.video.encoder"] == tower - unused


def test_a_temporal_block_is_as_large_as_published():
    count = sum(torch.empty(shape, device="meta").numel() for shape in BLOCK.values())
    assert count == pytest.approx(4.209e6, abs=1e3)
