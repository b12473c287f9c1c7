"""Which model the flags of chat, demo and predict mean, and whether it is of the family named."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from released_project import write_released_folder

from video_llama.apps.talk import add_talk_arguments, check_family, config_of
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config

SERVE = "eval_configs/video_llama_eval_withaudio.yaml"


def config(*words: str) -> Config:
    parser = argparse.ArgumentParser()
    add_talk_arguments(parser)
    return config_of(parser.parse_args(list(words)))


@pytest.mark.parametrize(
    ("model_type", "template", "told"),
    [
        ("llama_v2", "vicuna_v0", "give --model_type vicuna, or leave the flag out"),
        ("vicuna", "llama_2_released", "give --model_type llama_v2, or leave the flag out"),
        ("vicuna", "ziya", "'ziya'; leave the flag out"),
        ("llama_v2", "billa", "--options model.released=DIR"),
    ],
)
def test_a_family_that_does_not_fit_is_told_what_does(
    model_type: str, template: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"--model_type {model_type}: ") as caught:
        check_family(model_type, template=template)
    assert told in str(caught.value)


def test_the_published_words_for_video_llama_2_need_its_folder_and_nothing_else(
    tmp_path: Path,
) -> None:
    words = ["--cfg-path", SERVE, "--model_type", "llama_v2", "--gpu-id", "0"]
    with pytest.raises(ConfigError, match=r"--options model\.released=DIR"):
        config(*words)
    folder = write_released_folder(tmp_path)
    model = config(*words, "--options", f"model.released={folder}").model
    alone = config("--model-path", str(folder), *words[2:]).model
    for found in (model, alone):
        assert (found.model_type, found.template) == ("llama2_7b", "llama_2_released")
        assert found.ckpt == str(folder / "VL_LLaMA_2_7B_Finetuned.pth")
        assert found.ckpt_2 == str(folder / "AL_LLaMA_2_7B_Finetuned.pth")
        assert found.decoder.weights == str(folder / "llama-2-7b-chat-hf")
