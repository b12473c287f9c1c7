"""A folder as it was published stands for all its pieces."""

from __future__ import annotations

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.released import take_released

NAMES = (
    "llama-2-7b-chat-hf",
    "VL_LLaMA_2_7B_Finetuned.pth",
    "AL_LLaMA_2_7B_Finetuned.pth",
    "imagebind_huge.pth",
)
KEYS = ("llama_model", "ckpt", "ckpt_2", "imagebind_ckpt_path")
VICUNA = {
    "arch": "video_llama",
    "model_type": "vicuna7b",
    "llama_model": "ckpt/vicuna-7b",
    "vit_model": "ckpt/eva_vit_g.pth",
    "ckpt": "ckpt/finetune-vicuna7b-v2.pth",
}


def folder(tmp_path, *names, called="weights"):
    directory = tmp_path / called
    directory.mkdir()
    for name in names:
        (directory / name).touch()
    return directory


def taken(directory, *, model=VICUNA, options=("model.released",)):
    return take_released({**model, "released": str(directory)}, on_command_line=options)


def test_every_piece_is_found(tmp_path):
    directory = folder(tmp_path, *NAMES)
    model = taken(directory)
    assert {key: model[key] for key in KEYS} == {
        key: str(directory / name) for key, name in zip(KEYS, NAMES, strict=True)
    }
    assert model["model_type"] == "llama2_7b"


@pytest.mark.parametrize("size", ["7B", "13B"])
def test_the_size_decides_the_preset(size, tmp_path):
    names = [name.replace("7B", size).replace("7b", size.lower()) for name in NAMES]
    assert taken(folder(tmp_path, *names))["model_type"] == f"llama2_{size.lower()}"


def test_what_is_not_in_it_is_named_where_it_should_be(tmp_path):
    directory = folder(tmp_path, "imagebind_huge.pth", called="Video-LLaMA-2-13B-Pretrained")
    model = taken(directory)
    assert model["llama_model"] == f"{directory}/llama-2-13b-chat-hf"
    assert model["ckpt"] == f"{directory}/VL_LLaMA_2_13B_Pretrained.pth"
    assert model["ckpt_2"] == f"{directory}/AL_LLaMA_2_13B_Pretrained.pth"


def test_a_folder_of_the_hub_is_spelled_out_before_it_is_fetched():
    model = taken("DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned")
    assert model["model_type"] == "llama2_7b"
    assert model["ckpt"] == "DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned/VL_LLaMA_2_7B_Finetuned.pth"


def test_encoders_beside_the_release_are_taken_from_there(tmp_path):
    directory = folder(tmp_path, *NAMES, "eva_vit_g.pth")
    assert taken(directory)["vit_model"] == str(directory / "eva_vit_g.pth")


def test_encoders_elsewhere_stay_as_the_run_file_has_them(tmp_path):
    directory = folder(tmp_path, *NAMES)
    model = taken(directory)
    assert model["vit_model"] == "ckpt/eva_vit_g.pth"
    assert model["q_former_model"] == f"{directory}/blip2_pretrained_flant5xxl.pth"


def test_keys_of_the_command_line_win(tmp_path):
    options = ("model.released", "model.ckpt")
    assert taken(folder(tmp_path, *NAMES), options=options)["ckpt"] == VICUNA["ckpt"]


def test_keys_beside_a_folder_in_the_run_file_win(tmp_path):
    directory = folder(tmp_path, *NAMES)
    model = taken(directory, options=())
    assert (model["ckpt"], model["model_type"]) == (VICUNA["ckpt"], "vicuna7b")
    assert model["ckpt_2"] == str(directory / NAMES[2])


def test_a_branch_that_is_not_built_needs_nothing(tmp_path):
    model = taken(folder(tmp_path, *NAMES), model={**VICUNA, "branches": {"audio": None}})
    assert "ckpt_2" not in model
    assert "imagebind_ckpt_path" not in model


def test_a_piece_that_is_there_twice_asks_for_one(tmp_path):
    directory = folder(tmp_path, *NAMES, "VL_LLaMA_2_7B_Pretrained.pth")
    with pytest.raises(ConfigError, match=r"VL_LLaMA_2_7B_Finetuned.pth and .*model\.ckpt"):
        taken(directory)
    assert taken(directory, options=("model.released", "model.ckpt"))["ckpt"] == VICUNA["ckpt"]


def test_another_folder_is_refused_with_what_is_in_it(tmp_path):
    with pytest.raises(ConfigError, match=r"holds none of llama-2-.*found: notes.txt"):
        taken(folder(tmp_path, "notes.txt"))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.released: there is no folder"):
        taken(tmp_path / "nowhere")


def test_without_a_folder_nothing_changes():
    assert take_released(dict(VICUNA), on_command_line=()) == VICUNA
