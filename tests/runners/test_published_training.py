"""Four iterations of the published training loop, from the published weights, at tiny size.

The numbers come from DAMO-NLP-SG/Video-LLaMA at 64888c0: its optimizer, schedule and loop around
its model, with dropout set to zero.
"""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_llama.common.dist import World
from video_llama.common.schema import Config, RunConfig
from video_llama.common.sections import parse_model
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem, BranchInput
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.collate import LoadedBatch
from video_llama.models.loading import build_model
from video_llama.runners.engine import TorchEngine
from video_llama.runners.folder import RunFolder
from video_llama.runners.metrics import read_lines
from video_llama.runners.optim import build_optimizer
from video_llama.runners.resume import Start
from video_llama.runners.runner import Runner
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

GOLDENS = Path(__file__).parents[1] / "goldens"
NUM_SLOTS = 6
QFORMER = {"type": "qformer", "width": 64, "num_heads": 4, "ffn_width": 128, "dropout": 0.0}
NAMES = {
    "llama_proj.weight": "branches.video.stages.projection.linear.weight",
    "llama_proj.bias": "branches.video.stages.projection.linear.bias",
    "video_query_tokens": "branches.video.stages.video_qformer.queries",
}


def model_section():
    published = {
        role: str(GOLDENS / "models" / name)
        for role, name in {
            "vit_model": "eva_vit_g_tiny.pth",
            "q_former_model": "blip2_pretrained_tiny.pth",
            "llama_proj_model": "pretrained_minigpt4_tiny.pth",
        }.items()
    }
    encoder = {"type": "eva_vit_g", "weights": published["vit_model"], "image_size": 56}
    encoder |= {"width": 48, "depth": 3, "num_heads": 4}
    image = {"weights": published["q_former_model"], "num_queries": 8, "num_layers": 4}
    image |= {"cross_attention_frequency": 2, "over": "step"}
    stages = {
        "ln_vision": {"type": "layer_norm", "weights": published["q_former_model"]},
        "image_qformer": {**QFORMER, **image},
        "video_qformer": {**QFORMER, "num_queries": 6, "num_layers": 2, "num_positions": 32},
        "projection": {"type": "projection", "width": 64},
    }
    stages["video_qformer"]["trainable"] = stages["projection"]["trainable"] = True
    return published | {
        "arch": "video_llama",
        "model_type": "tiny",
        "template": "vicuna_v0_released",
        "branches": {"video": {"media": ["video"], "encoder": encoder, "stages": stages}},
        "decoder": {"type": "causal_lm", "weights": str(GOLDENS / "models" / "llama")},
        "ckpt": str(GOLDENS / "models" / "vl_branch.pth"),
        "compat": "released",
    }


def batch_of(image, texts, tokenizer):
    """Beginning, clip, caption and line feed, as the published caption batch."""
    rows = [tokenizer.encode_run(text + "\n").ids for text in texts]
    length = 1 + NUM_SLOTS + max(map(len, rows))
    shape = (len(rows), length)
    ids, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORE_INDEX)
    mask, slots = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.int32)
    ids[:, 0] = tokenizer.bos_id
    for index, row in enumerate(rows):
        end = 1 + NUM_SLOTS + len(row)
        ids[index, 1 + NUM_SLOTS : end] = labels[index, 1 + NUM_SLOTS : end] = torch.tensor(row)
        slots[index, 1 : 1 + NUM_SLOTS] = index + 1
        mask[index, :end] = True
    pixels = image.float().transpose(1, 2)
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        slots=slots,
        items=[BatchItem("video", i, NUM_SLOTS, i) for i in range(len(rows))],
        media={
            "video": BranchInput(
                raw=pixels,
                raw_mask=torch.ones(pixels.shape[:2], dtype=torch.bool),
                raw_rows=torch.arange(len(rows)),
            )
        },
        keys=list(texts),
        dataset="captions",
    )


class Batches:
    """Four given batches; the run is asked to stop in the step that uses the last one."""

    has_valid = False

    def __init__(self, batches):
        self.batches = batches

    def train_batches(self, start_step):
        for batch in self.batches[:-1]:
            yield LoadedBatch(batch)
        os.kill(os.getpid(), signal.SIGTERM)
        yield LoadedBatch(self.batches[-1])

    def keep(self, frontier, loaded):
        assert frontier == {}

    def flush(self):
        pass


@pytest.mark.parametrize("case", ["vl", "vl_accum2"])
def test_four_iterations_end_at_the_published_weights(case, tmp_path):
    golden = json.loads((GOLDENS / "training" / "train_steps.json").read_text())[case]
    tensors = load_file(GOLDENS / "training" / "train_steps.safetensors")
    tokenizer = load_tokenizer(GOLDENS / "conversation" / "llama")
    batches = [
        batch_of(tensors[f"batch{index}.image"], texts, tokenizer)
        for index, texts in enumerate(golden["texts"])
    ]
    problems = []
    section = model_section()
    config = parse_model(section, preset_keys=set(section), problems=problems)
    assert not problems
    known = RunConfig.__dataclass_fields__.keys()
    run = RunConfig(
        **{key: value for key, value in golden["run"].items() if key in known},
        output_dir=str(tmp_path),
        grad_clip_norm=None,
        log_freq=1,
    )
    model = build_model(config).model
    engine = TorchEngine(
        model,
        optimizer=build_optimizer(model, run),
        world=World(),
        device=torch.device("cpu"),
        precision="fp32",
    )
    Runner(
        Config(config, {}, run),
        model=model,
        task=VideoTextPretrain(),
        data=Batches(batches),
        engine=engine,
        folder=RunFolder(tmp_path, start=Start()),
    ).train()
    lines = read_lines(tmp_path / "metrics.jsonl")
    used = golden["lrs"][run.accum_grad_iters - 1 :: run.accum_grad_iters]
    assert [line["lr"] for line in lines] == pytest.approx(used, rel=1e-5)
    if run.accum_grad_iters == 1:
        assert [line["loss"] for line in lines] == pytest.approx(golden["losses"], abs=1e-4)
    trained = dict(model.named_parameters())
    for published, ours in NAMES.items():
        torch.testing.assert_close(
            trained[ours].detach(), tensors[f"{case}::{published}"], atol=1e-4, rtol=1e-4
        )
