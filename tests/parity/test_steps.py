"""Four iterations of the published training loop, from the published weights, through our runner.

The numbers come from the published optimizer, schedule and loop, with dropout set to zero.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
from closeness import GRADIENTS, assert_close
from tiny_released import published_names, tree, typed

from video_llama.common.dist import World
from video_llama.common.schema import Config, RunConfig
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.templates import get_template
from video_llama.datasets.collate import LoadedBatch
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.datasets.stream import Plan
from video_llama.models.loading import build_model
from video_llama.runners.engine import TorchEngine
from video_llama.runners.folder import RunFolder
from video_llama.runners.metrics import read_lines
from video_llama.runners.optim import build_optimizer
from video_llama.runners.resume import Start
from video_llama.runners.runner import Runner
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

BRANCHES = {
    "vl": {"branches": ("video",)},
    "al": {"branches": ("audio",), "trunk": "vision"},
}


class Batches:
    """Four given batches; the run is asked to stop when the last one has been used."""

    has_valid = False

    def __init__(self, batches, run):
        self.batches = batches
        batch_size, accum = run.batch_size_train, run.accum_grad_iters
        length = batch_size * len(batches)
        self.plan = Plan(
            seed=run.seed, datasets={"captions": (length, 1.0)}, batch_size=batch_size, accum=accum
        )

    def train_batches(self, start_step):
        yield from map(LoadedBatch, self.batches)

    def keep(self, frontier, loaded):
        assert frontier == {}
        if loaded.batch is self.batches[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

    def flush(self):
        pass


def captions(images, texts):
    """Caption samples of a published [B, C, T, H, W]."""
    return [
        Sample(
            text,
            [Message("assistant", [MediaItem("video", "v", pixels=pixels), text])],
            "",
            "caption",
        )
        for pixels, text in zip(images.transpose(1, 2), texts, strict=True)
    ]


@pytest.mark.parametrize("case", ["vl", "al", "vl_accum2"])
def test_four_iterations_end_at_the_published_weights(case, record, tensors, tokenizer, tmp_path):
    golden, published = record("training/train_steps")[case], tensors("training/train_steps")
    config = typed(tree(learn=True, dropout=0.0, **BRANCHES[case[:2]]))
    model = build_model(config).model
    text = TextSettings(get_template(config.template), tokenizer, max_len=128)
    prompter = Prompter(SampleEncoder(model.branch_specs(), text=text, reader=None))
    batches = [
        prompter.collate(captions(published[f"batch{index}.image"], texts))
        for index, texts in enumerate(golden["texts"])
    ]
    known = RunConfig.__dataclass_fields__.keys()
    run = RunConfig(
        **{key: value for key, value in golden["run"].items() if key in known},
        output_dir=str(tmp_path),
        grad_clip_norm=None,
        log_freq=1,
        ledger=False,
    )
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
        data=Batches(batches, run),
        engine=engine,
        folder=RunFolder(tmp_path, start=Start()),
    ).train()
    check_log(read_lines(tmp_path / "metrics.jsonl"), golden, num_accumulated=run.accum_grad_iters)
    parameters = dict(model.named_parameters())
    names = published_names(model)
    compared = {key.split("::")[1] for key in published if key.startswith(f"{case}::")}
    assert compared == set(names.values()) or (case == "vl_accum2" and len(compared) == 4)
    norms = golden["final_param_norms"]
    for ours, theirs in names.items():
        # A key's bias has no gradient but rounding, which AdamW turns into whole steps.
        if theirs.endswith("key.bias"):
            continue
        if theirs in compared:
            expected = published[f"{case}::{theirs}"]
            assert_close(parameters[ours], expected, kind="steps: parameters", limit=GRADIENTS)
        if theirs in norms:
            norm = parameters[ours].detach().double().norm()
            assert_close(norm, norms[theirs], kind="steps: parameters", limit=GRADIENTS)


def check_log(lines, golden, *, num_accumulated):
    """Rates are those of the iteration that steps; losses those before the step."""
    rates = golden["lrs"][num_accumulated - 1 :: num_accumulated]
    assert [line["lr"] for line in lines] == pytest.approx(rates, rel=1e-5)
    if num_accumulated == 1:
        for line, loss in zip(lines, golden["losses"], strict=True):
            assert_close(line["loss"], loss, kind="steps: losses")
