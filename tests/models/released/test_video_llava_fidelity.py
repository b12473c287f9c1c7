"""Video-LLaVA or something that only looks like it: the verdict, and where it is shown."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_llava import (
    WRITERS,
    original_state,
    tree,
    typed,
    write_hub,
    write_languagebind,
    write_original,
    write_state,
)

from video_llama.apps.main import main
from video_llama.models.fidelity import fidelity_of
from video_llama.models.loading import build_model
from video_llama.models.pretrained import read_folder

DEGRADED = "temporal block missing, quick_gelu"


@pytest.fixture
def inspect(capsys):
    """Inspect paths; return what was found."""

    def run(*paths):
        # What writing the directories printed.
        capsys.readouterr()
        assert main(["weights", "inspect", *map(str, paths), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("layout", "kind", "verdict", "decoder"),
    [
        ("original", "video_llava", "exact", "llama 24 wide, 50 tokens"),
        ("hf", "video_llava_hf", DEGRADED, "llama 24 wide, 64 tokens"),
        ("transformers5", "video_llava_transformers5", DEGRADED, "llama 24 wide, 64 tokens"),
    ],
)
def test_a_directory_is_recognised_and_judged(layout, kind, verdict, decoder, inspect, tmp_path):
    (found,) = inspect(WRITERS[layout](tmp_path / "llava"))
    assert (found["kind"], found["fidelity"], found["keys"]) == (kind, verdict, ["released"])
    assert found["decoder"] == decoder


def test_what_a_config_says_of_the_towers_is_told_and_believed(inspect, tmp_path):
    directory = write_hub(tmp_path / "llava")
    (found,) = inspect(directory)
    assert "config.json says of the towers: nothing" in found["notes"]
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"] |= {"hidden_act": "gelu", "num_frames": 8}
    file.write_text(json.dumps(config))
    (found,) = inspect(directory)
    assert found["fidelity"] == "temporal block missing"
    assert "config.json says of the towers: hidden_act gelu, num_frames 8" in found["notes"]
    judged = fidelity_of(typed(tree(directory, temporal_attention=False)))
    assert "activation is quick_gelu, and" in judged.notes[0]
    assert "hidden_act gelu" in judged.notes[0]


def test_the_other_files_of_the_family_are_recognised(inspect, tmp_path):
    state = original_state()
    torch.save(
        {name: t for name, t in state.items() if ".mm_projector." in name},
        tmp_path / "mm_projector.bin",
    )
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "adapter_config.json").write_text("{}")
    (bundle / "config.json").write_text("{}")
    adapter = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({adapter: torch.ones(2, 2)}, bundle / "adapter_model.safetensors")
    others = {"base_model.model.model.mm_projector.0.weight": torch.ones(2, 2)}
    torch.save(others, bundle / "non_lora_trainables.bin")
    clip = {
        "vision_model.embeddings.patch_embedding.weight": torch.ones(1),
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(1),
    }
    write_state(tmp_path / "clip", clip)
    found = inspect(
        tmp_path / "mm_projector.bin",
        bundle,
        write_languagebind(tmp_path / "LanguageBind_Video_merge"),
        tmp_path / "clip/model.safetensors",
    )
    assert [(item["kind"], item["keys"]) for item in found] == [
        ("mm_projector", ["mm_projector", "ckpt"]),
        ("lora", ["lora_bundle"]),
        ("non_lora_trainables", ["mm_projector", "ckpt"]),
        ("languagebind_video", ["video_tower"]),
        ("clip_vit", ["image_tower"]),
    ]


def test_a_llava_without_a_video_tower_is_another_system(inspect, tmp_path):
    state = original_state()
    state = {name: t for name, t in state.items() if "_tower." not in name}
    write_state(tmp_path / "llava", state)
    (tmp_path / "llava/config.json").write_text("{}")
    assert inspect(tmp_path / "llava")[0]["kind"] == "llava"


def test_a_model_is_judged_by_its_files_and_its_wiring(tmp_path):
    original = write_original(tmp_path / "original")
    hub = write_hub(tmp_path / "hub")
    assert fidelity_of(typed(tree(original))).verdict == "exact"
    off = typed(tree(original, temporal_attention=False))
    assert fidelity_of(off).verdict == "temporal block switched off, quick_gelu"
    assert fidelity_of(typed(tree(hub, temporal_attention=False))).verdict == DEGRADED
    repaired = tree(hub)
    lb = str(write_languagebind(tmp_path / "LanguageBind_Video_merge"))
    repaired["video_tower"] = repaired["branches"]["video"]["encoder"]["weights"] = lb
    assert fidelity_of(typed(repaired)).verdict == "exact"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("original") / "llava")


IMAGE, VIDEO = "branches.image.encoder", "branches.video.encoder"
PROJECTION = "branches.image.stages.projection"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({f"{VIDEO}.select_layer": -1}, f"{VIDEO}.select_layer -1"),
        ({f"{VIDEO}.select_layer": -3}, f"{VIDEO}.select_layer -3"),
        ({f"{VIDEO}.select_layer": 2}, "exact"),
        ({f"{VIDEO}.drop_class_token": True}, f"{VIDEO}.drop_class_token True"),
        ({f"{VIDEO}.num_frames": 2}, f"{VIDEO}.num_frames 2"),
        ({f"{VIDEO}.resize": "squash"}, f"{VIDEO}.resize squash"),
        ({f"{VIDEO}.filter": "bicubic"}, f"{VIDEO}.filter bicubic"),
        ({f"{VIDEO}.frame_policy": "segment_start"}, f"{VIDEO}.frame_policy segment_start"),
        ({f"{VIDEO}.activation": "quick_gelu"}, "quick_gelu"),
        ({f"{VIDEO}.dtype": "bfloat16"}, "exact"),
        ({f"{IMAGE}.mean": [0.5, 0.5, 0.5]}, f"{IMAGE}.mean (0.5, 0.5, 0.5)"),
        ({f"{IMAGE}.std": [0.5, 0.5, 0.5]}, f"{IMAGE}.std (0.5, 0.5, 0.5)"),
        ({f"{IMAGE}.select_layer": -1}, f"{IMAGE}.select_layer -1"),
        ({f"{IMAGE}.num_frames": 2}, f"{IMAGE}.num_frames 2"),
        ({"branches.video": None}, "no branch video"),
        ({f"{PROJECTION}.activation": "relu"}, f"{PROJECTION}.activation relu"),
        (
            {"branches.video.stages.positions": {"type": "frame_positions", "num_positions": 4}},
            "branches.video.stages.positions of type frame_positions",
        ),
        ({f"{PROJECTION}.weights": "mm_projector.bin"}, "projector of another file"),
        ({"decoder.weights": "vicuna"}, "decoder of another file, projector of another file"),
        ({f"{PROJECTION}.weights": "fresh"}, "projector of another file"),
        ({"ckpt": "output/run"}, "trained on top (ckpt)"),
        ({"ckpt": "run", "lora_bundle": "bundle"}, "trained on top (lora_bundle, ckpt)"),
        (
            {f"{IMAGE}.resize": "squash", f"{VIDEO}.select_layer": -1},
            f"{IMAGE}.resize squash, {VIDEO}.select_layer -1",
        ),
    ],
)
def test_what_is_not_as_published_is_named(change, verdict, original):
    section = tree(original)
    for key, value in change.items():
        *above, last = key.split(".")
        node = section
        for name in above:
            node = node[name]
        if value is None:
            del node[last]
        else:
            node[last] = value
    assert fidelity_of(typed(section)).verdict == verdict


def test_the_port_is_judged_by_its_own_preset_too(tmp_path):
    section = tree(write_hub(tmp_path / "hub"), temporal_attention=False)
    section["branches"]["image"]["encoder"]["resize"] = "squash"
    verdict = fidelity_of(typed(section)).verdict
    assert verdict == f"{DEGRADED}, branches.image.encoder.resize squash"


def test_a_llava_of_one_tower_with_its_projector_is_not_judged(inspect, tmp_path):
    state = {n: t for n, t in original_state().items() if "_tower." not in n}
    state["model.vision_tower.vision_tower.vision_model.post_layernorm.bias"] = torch.ones(2)
    write_state(tmp_path / "llava", state)
    (tmp_path / "llava/config.json").write_text(json.dumps({"model_type": "llava"}))
    assert inspect(tmp_path / "llava")[0]["fidelity"] == ""


def test_the_activation_of_a_family_counts_where_none_is_named(tmp_path):
    section = tree(write_original(tmp_path / "original"))
    section["branches"]["image"]["encoder"]["activation"] = None
    # That of openai's CLIP.
    assert fidelity_of(typed(section)).verdict == "quick_gelu"


def test_another_tower_is_named(tmp_path):
    section = tree(write_original(tmp_path / "original"))
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2}
    section["branches"]["image"]["encoder"] = {"type": "eva_vit_g", **sizes}
    assert fidelity_of(typed(section)).verdict == "a tower of type eva_vit_g"


@pytest.mark.parametrize("temporal_attention", [True, False])
def test_a_model_that_was_saved_whole_is_judged_by_its_wiring(temporal_attention, tmp_path):
    writer = write_original if temporal_attention else write_hub
    directory = writer(tmp_path / "llava")
    section = tree(directory, temporal_attention=temporal_attention)
    build_model(typed(section)).model.save_pretrained(tmp_path / "saved", full=True)
    judged = fidelity_of(read_folder(tmp_path / "saved"))
    assert (judged and judged.verdict) == (None if temporal_attention else DEGRADED)


def test_a_model_of_other_files_is_not_judged(tmp_path):
    assert fidelity_of(typed(tree())) is None
