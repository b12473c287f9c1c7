"""`weights inspect` through the command line, on files in the layouts they are published in."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from key_lists import meta_state
from released_project import AL, FILES, VL, write_released_folder
from safetensors.torch import save_file
from tiny_released import ROLES

from video_llama.apps.main import main
from video_llama.models.released import inspection
from video_llama.models.released.releases import RELEASES


@pytest.fixture
def inspect(capsys):
    """Inspect paths; return exit code and what was found."""

    def run(*paths):
        code = main(["weights", "inspect", *map(str, paths), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("file", "kind", "keys", "count"),
    [
        (VL, "vl", ["ckpt"], 62),
        (AL, "al", ["ckpt_2"], 68),
        (FILES / ROLES["vit_model"], "eva_vit_g", ["vit_model"], 60),
        (FILES / ROLES["q_former_model"], "blip2", ["q_former_model"], 92),
        (FILES / ROLES["llama_proj_model"], "llama_proj", ["llama_proj_model"], 2),
        (FILES / ROLES["imagebind_ckpt_path"], "imagebind", ["imagebind_ckpt_path"], 100),
        (FILES / "llama", "decoder", ["llama_model"], 23),
    ],
)
def test_a_published_file_is_recognised_and_counted(file, kind, keys, count, inspect):
    code, (found,) = inspect(file)
    assert code == 0
    assert (found["kind"], found["keys"], found["num_tensors"]) == (kind, keys, count)
    assert sum(found["dtypes"].values()) == count


def test_values_and_bytes_are_those_of_the_tensors(inspect):
    _, (found,) = inspect(VL)
    tensors = torch.load(VL, weights_only=True)["model"].values()
    assert found["num_values"] == sum(tensor.numel() for tensor in tensors)
    assert found["num_bytes"] == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.file)
def test_a_release_is_named_with_its_decoder_and_whether_it_hears(release, monkeypatch, tmp_path):
    size = "13b" if "13B" in release.decoder else "7b"
    (tmp_path / release.file).touch()
    names = meta_state(f"{'vl' if release.branch == 'video' else 'al'}_{size}")
    monkeypatch.setattr(inspection, "read_state", lambda path: names)
    monkeypatch.setattr(inspection, "read_notes", lambda path: {})
    (found,) = inspection.inspect_path(str(tmp_path / release.file))
    assert found.release == f"{release.title} (by its name)"
    assert found.decoder == release.decoder
    assert found.needs[0] == f"{release.decoder}, preset {release.preset}"
    hears = "7B" in release.decoder and "BiLLa" not in release.decoder or "LLaMA-2" in release.title
    assert found.hears.startswith("with ") == hears


def test_a_name_that_contradicts_the_content_is_not_believed(inspect, tmp_path):
    shutil.copy(AL, tmp_path / "finetune-vicuna7b-v2.pth")
    _, (found,) = inspect(tmp_path / "finetune-vicuna7b-v2.pth")
    assert (found["kind"], found["release"]) == ("al", "")
    assert "it is not" in found["notes"][0]


def test_a_folder_is_told_piece_by_piece(inspect, tmp_path):
    release = write_released_folder(tmp_path)
    code, found = inspect(release)
    assert code == 0
    assert {item["path"].split("/")[-1]: item["kind"] for item in found} == {
        "AL_LLaMA_2_7B_Finetuned.pth": "al",
        "VL_LLaMA_2_7B_Finetuned.pth": "vl",
        "blip2_pretrained_flant5xxl.pth": "blip2",
        "eva_vit_g.pth": "eva_vit_g",
        "imagebind_huge.pth": "imagebind",
        "llama-2-7b-chat-hf": "decoder",
    }


def test_what_the_training_code_wrote_beside_the_weights_is_told(inspect):
    _, (found,) = inspect(VL)
    assert found["notes"] == ["saved after epoch 0", "trained with llama_model llama"]


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("videollama2_mistral", "video_llama_2"),
        ("videollama2_qwen2", "video_llama_2"),
        ("videollama3_qwen2", "video_llama_3"),
    ],
)
def test_other_systems_of_the_same_name_are_told_apart(model_type, kind, inspect, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tensors = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    _, (found,) = inspect(tmp_path)
    assert (found["kind"], found["keys"]) == (kind, [])
    assert "another system" in found["text"]


def test_metas_own_layout_is_recognised(inspect, tmp_path):
    names = ("tok_embeddings.weight", "layers.0.attention.wq.weight")
    torch.save({name: torch.zeros(2, 2) for name in names}, tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text("{}")
    _, (found,) = inspect(tmp_path)
    assert found["kind"] == "meta_llama"


def test_a_run_of_ours_is_recognised(inspect, tmp_path):
    folder = tmp_path / "checkpoints" / "last"
    folder.mkdir(parents=True)
    weights = {"branches.video.stages.projection.linear.weight": torch.zeros(8, 4)}
    save_file(weights, folder / "trainable.safetensors")
    _, (found,) = inspect(tmp_path)
    assert (found["kind"], found["decoder"]) == ("run", "LLaMA 8 wide")


def test_something_else_is_said_to_be_unknown(inspect, tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    code, (found,) = inspect(tmp_path / "resnet.safetensors")
    assert (code, found["kind"]) == (0, "unknown")


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(inspect, tmp_path):
    (tmp_path / "x.pth").write_bytes(VL.read_bytes()[:1000])
    code, found = inspect(tmp_path / "x.pth", AL)
    assert code == 2
    assert [item["kind"] for item in found] == ["broken", "al"]
    assert "not a complete file of weights" in found[0]["notes"][0]


def test_without_json_it_is_a_table(capsys):
    assert main(["weights", "inspect", str(VL)]) == 0
    said = capsys.readouterr().out
    assert "Video-LLaMA's vision branch (VL)" in said
    assert "62 tensors, 108,240 values" in said
