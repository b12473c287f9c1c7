"""Beside a decoder in 4 bits bridges and adapters learn, are saved alone, and talk again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from apps.tiny_project import write_project
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama import load_chat
from video_llama.apps.loading import load_model
from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.models.sources import find_checkpoint

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The file of a run of four steps that is over; a checkpoint and a validation after two."""
    folder = tmp_path_factory.mktemp("reduced")
    path = write_project(folder)
    tree = yaml.safe_load(path.read_text())
    decoder = tree["model"]["decoder"]
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**decoder["architecture"]))
    llama.save_pretrained(folder / "llama")
    decoder |= {
        "weights": str(folder / "llama"),
        "lora": {"rank": 2, "targets": ["q_proj", "v_proj"]},
        "trainable": ["*lora_*"],
    }
    tree["model"]["low_resource"] = "4bit"
    tree["datasets"]["seen"] = {**tree["datasets"]["clips"], "split": "valid"}
    tree["run"] |= {"max_epoch": 2, "init_lr": 0.05, "num_workers": 0}
    path.write_text(yaml.safe_dump(tree))
    assert train(load(path)).is_finished
    return path


def learned(path):
    return load_file(find_checkpoint(load(path).run.output_dir))


def test_what_learned_is_saved_and_nothing_of_the_decoder_else(path):
    names = [name for name in learned(path) if name.startswith("decoder.")]
    assert len(names) == 2 * 2
    assert all(".lora_" in name for name in names)
    assert {tensor.dtype for tensor in learned(path).values()} == {torch.float32}


def test_adapters_moved_after_a_validation_too(path):
    # B starts at zero; after the validation at step 2 come two steps more.
    first = load_file(
        Path(load(path).run.output_dir) / "checkpoints/step_0000002/trainable.safetensors"
    )
    last = learned(path)
    for name in (name for name in last if "lora_B" in name):
        assert first[name].abs().max() > 0
        assert not first[name].equal(last[name])


def test_the_run_s_folder_talks_in_as_many_bits_or_in_others(path):
    for bits, kept_in in ((None, torch.uint8), ("8bit", torch.int8), ("none", None)):
        chat = load_chat(load(path).run.output_dir, low_resource=bits)
        assert isinstance(chat.ask("What is there?"), str)
        dtypes = {p.dtype for p in chat.model.decoder.parameters()}
        assert dtypes == {torch.float32} | ({kept_in} if kept_in else set())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["run.device_map=auto"], "run.device_map: auto is for talking to a model"),
        (
            ["run.engine=deepspeed", "run.zero.stage=3"],
            "run.zero.stage: 3 would divide weights in 4bit .* set run.zero.stage: 2",
        ),
    ],
)
def test_a_training_refuses_what_nobody_tried(path, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        train(load(path, options=[*options, f"run.output_dir={tmp_path / 'new'}"]))


def test_what_was_saved_is_loaded_again_bit_for_bit(path):
    out = load(path).run.output_dir
    weights = learned(path)
    model = load_model(load(path, options=[f"model.ckpt={out}"])).model
    state = model.state_dict()
    assert all(state[name].equal(tensor) for name, tensor in weights.items())
