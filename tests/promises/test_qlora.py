"""Promise: adapters learn beside a decoder in 4 bits as they do beside whole weights.

Everything is Video-LLaVA's wiring at tiny size. Runs of one process, and of two with DDP and ZeRO,
share one project; the two ranks share one start.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import tiny_llava
import torch
import yaml
from apps.tiny_project import NUM_CLIPS, TOKENIZER, write_clips
from promises.launch import as_torchrun, run_ranks
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.apps.loading import load_model
from video_llama.apps.train import build_runner, train
from video_llama.common.config import load
from video_llama.common.dist import process_group
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.data import open_readers
from video_llama.runners.folder import RunFolder
from video_llama.runners.metrics import read_lines
from video_llama.runners.resume import Start

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow

NUM_STEPS, HALF = 12, 6
RANK, ALPHA = 4, 8
WIDTH, INNER, LAYERS = 64, 128, 2
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE = LlamaConfig(
    hidden_size=WIDTH,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    vocab_size=1000,
    max_position_embeddings=160,
)
TOWER = {
    "image_size": tiny_llava.SIDE,
    "patch_size": 8,
    "width": tiny_llava.WIDTH,
    "depth": tiny_llava.LAYERS,
    "num_heads": 2,
    "ffn_width": 32,
    "dtype": "float32",
}
FRAMES = {"num_frames": tiny_llava.FRAMES, "num_positions": tiny_llava.FRAMES}
PROJECTION = "branches.image.stages.projection"


def write_run(folder: Path) -> Path:
    """Write clips, conversations, a decoder and the run file; return the last."""
    clips = write_clips(folder / "clips")
    rows = [
        {
            "id": str(number),
            "video": f"page/{number}.mp4",
            "conversations": [
                {"from": "human", "value": "<video>\nWhat moves?"},
                {"from": "gpt", "value": f"A red ball moves, number {number}."},
            ],
        }
        for number in range(NUM_CLIPS)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    tiny_llava.write_original(folder / "release")
    torch.manual_seed(0)
    LlamaForCausalLM(BASE).save_pretrained(folder / "llama")
    model = {
        "arch": "video_llava",
        "model_type": "vicuna7b",
        "low_resource": "4bit",
        "llama_model": str(folder / "llama"),
        "image_tower": str(folder / "release"),
        "video_tower": str(folder / "release"),
        "tokenizer": str(TOKENIZER),
        "max_txt_len": 128,
        "branches": {
            "image": {
                "encoder": TOWER,
                "stages": {"projection": {"trainable": True, "lr": 1.0e-3}},
            },
            "video": {"encoder": {**TOWER, **FRAMES}},
        },
        "decoder": {
            "architecture": BASE.to_dict() | {"model_type": "llama"},
            "dtype": "float32",
            "trainable": ["*lora_*"],
            "lora": {"rank": RANK, "alpha": ALPHA, "dropout": 0.1, "targets": list(TARGETS)},
        },
    }
    run = {
        "task": "video_text_pretrain", "output_dir": str(folder / "alone"), "device": "cpu",
        "init_lr": 1.0e-2, "iters_per_epoch": NUM_STEPS, "save_freq": f"{HALF} steps",
        "batch_size_train": 4, "keep_last": 9, "log_freq": 1, "weight_decay": 0.0,
    }  # fmt: skip
    rows_entry = {"annotations": str(folder / "rows.json"), "media": str(clips)}
    data = {"rows": {"type": "llava_conversations", **rows_entry}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": model, "datasets": data, "run": run}))
    return path


def train_ranks(file: Path, jobs: dict[str, list[str]]) -> None:
    """Train runs one after the other, in every rank of them."""
    with process_group("cpu", also_alone=True) as world:
        for name, options in jobs.items():
            config = load(file, options=[f"run.output_dir={file.parent / name}", *options])
            runner = build_runner(
                config,
                readers=open_readers(config),
                folder=RunFolder(file.parent / name, start=Start()),
                world=world,
                device="cpu",
            )
            runner.train()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The run file; `alone` beside it is done."""
    file = write_run(tmp_path_factory.mktemp("qlora"))
    assert train(load(file)).is_finished
    return file


def model_of(file, *options):
    """Load what the run of one process left."""
    out = f"model.ckpt={file.parent / 'alone'}"
    return load_model(load(file, options=[out, *options])).model


@pytest.fixture(scope="module")
def trained(file):
    return model_of(file)


def checkpoint(file, name="alone", step=NUM_STEPS):
    """Return weights and moments of a run."""
    folder = file.parent / name / "checkpoints" / f"step_{step:07d}"
    files = ("trainable.safetensors", "optimizer.safetensors")
    return {key: tensor for part in files for key, tensor in load_file(folder / part).items()}


def losses(file, name="alone"):
    return [line["loss"] for line in read_lines(file.parent / name / "metrics.jsonl")]


def adapters():
    """Names that the seven targets of every layer bring, by the paper's rule: A and B."""
    blocks = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in TARGETS}
    return {
        f"decoder.model.model.layers.{layer}.{blocks[name]}.{name}.lora_{matrix}.default.weight"
        for layer in range(LAYERS)
        for name in TARGETS
        for matrix in "AB"
    }


def projection():
    return {f"{PROJECTION}.layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}


def test_the_loss_falls(file):
    found = losses(file)
    assert len(found) == NUM_STEPS
    assert max(found[-3:]) < min(found[:3]) - 0.4


def test_adapters_of_the_decoder_and_the_projection_learn_and_nothing_else(trained):
    learning = {name for name, p in trained.named_parameters() if p.requires_grad}
    assert learning == adapters() | projection()


@pytest.mark.parametrize(("bits", "dtype"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_linear_layers_of_the_blocks_alone_are_in_fewer_bits(file, bits, dtype):
    model = model_of(file, f"model.low_resource={bits}")
    reduced = {name for name, p in model.named_parameters() if p.dtype is dtype}
    blocks = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in TARGETS}
    assert reduced == {
        f"decoder.model.model.layers.{layer}.{blocks[name]}.{name}.base_layer.weight"
        for layer in range(LAYERS)
        for name in TARGETS
    }
    # Towers and projection, bit for bit what their files hold.
    kinds = {type(m) for m in model.branches.modules() if isinstance(m, nn.Linear)}
    assert kinds == {nn.Linear}
    learnt = checkpoint(file)
    assert all(model.get_parameter(name).equal(learnt[name]) for name in projection())
    published = tiny_llava.original_state()
    weight = "encoder.layers.0.mlp.fc1.weight"
    for branch in ("image", "video"):
        ours = model.branches[branch].encoder.state_dict()
        theirs = published[f"model.{branch}_tower.{branch}_tower.{weight}"]
        assert any(
            tensor.shape == theirs.shape and tensor.equal(theirs) for tensor in ours.values()
        )


@pytest.mark.parametrize("step", [HALF, NUM_STEPS])
def test_every_checkpoint_holds_adapters_projection_and_their_moments(file, step):
    state = checkpoint(file, step=step)
    moments = {name.partition("::")[0] for name in state if "::" in name}
    assert moments == adapters() | projection()
    assert {name for name in state if "::" not in name} >= moments
    assert all(state[name].abs().max() > 0 for name in adapters())


def test_a_run_that_goes_on_is_the_same_to_the_bit(file):
    half = file.parent / "alone" / "checkpoints" / f"step_{HALF:07d}"
    again = [f"run.output_dir={file.parent / 'again'}", f"run.resume_ckpt_path={half}"]
    assert train(load(file, options=again)).is_finished
    ours, theirs = checkpoint(file, "again"), checkpoint(file)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_merged_into_whole_weights_they_are_base_plus_adapters(file, tmp_path):
    model = model_of(file, "model.low_resource=none")
    model.merge_adapters()
    base, learnt = load_file(file.parent / "llama" / "model.safetensors"), checkpoint(file)
    now = model.decoder.model.state_dict()
    assert now.keys() == base.keys()
    adapted = 0
    for name, tensor in base.items():
        layer = f"decoder.model.{name.removesuffix('.weight')}"
        expected = tensor
        if f"{layer}.lora_A.default.weight" in learnt:
            up, down = (learnt[f"{layer}.lora_{matrix}.default.weight"] for matrix in "BA")
            expected = tensor + up @ down * (ALPHA / RANK)
            assert not torch.allclose(expected, tensor, atol=1e-4)
            adapted += 1
        torch.testing.assert_close(now[name], expected, rtol=1e-5, atol=1e-6)
    assert adapted == LAYERS * len(TARGETS)
    again = VideoLLM.from_pretrained(model.save_pretrained(tmp_path / "merged", full=True))
    assert all(torch.equal(again.decoder.model.state_dict()[name], now[name]) for name in now)


def test_two_ranks_learn_what_one_process_learns_with_ddp_and_zero(file):
    half = ["run.batch_size_train=2", "model.decoder.lora.dropout=0"]
    jobs = {
        "ddp": half,
        **{
            f"zero_{stage}": [*half, "run.engine=deepspeed", f"run.zero.stage={stage}"]
            for stage in (1, 2)
        },
    }
    run_ranks(partial(train_ranks, file, jobs), worlds=as_torchrun(2), logs=file.parent / "logs")
    whole = [f"run.output_dir={file.parent / 'whole'}", "model.decoder.lora.dropout=0"]
    assert train(load(file, options=whole)).is_finished
    expected = losses(file, "whole")
    for name in jobs:
        assert losses(file, name) == pytest.approx(expected, rel=1e-4)
