"""A whole run in miniature: real plan, collator, engine, folder and loop around a tiny model."""

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from video_llama.common.schema import Config as RunFile
from video_llama.common.schema import ModelConfig, PartConfig, RunConfig
from video_llama.common.types import (
    IGNORE_INDEX,
    BranchSpec,
    LossOutput,
    MediaItem,
    Shape,
    VideoSpec,
)
from video_llama.datasets.collate import Collator, EncodedSample, RoutedItem, Skip
from video_llama.datasets.stream import Plan, PlanSampler, in_order
from video_llama.runners.engine import TorchEngine
from video_llama.runners.folder import RunFolder
from video_llama.runners.optim import build_optimizer
from video_llama.runners.resume import plan_start
from video_llama.runners.runner import Runner
from video_llama.runners.signals import leave_signals_to_parent
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

SPEC = BranchSpec(
    name="video",
    media=("video",),
    spec=VideoSpec(num_frames=2, image_size=2, mean=(0, 0, 0), std=(1, 1, 1)),
    frontier=Shape(num_steps=2, num_tokens=1, width=6),
    slots=lambda num_steps: 1,
)
LENGTHS = {"clips": 7, "talks": 5}


class TinyModel(nn.Module):
    """A frozen encoder, a trained bridge with dropout, and words predicted from words."""

    def __init__(self, dropout):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Linear(12, 6).requires_grad_(False)
        self.bridge = nn.Linear(6, 6)
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, batch):
        rows = self.dropout(self.bridge(self.encoder(batch.media["video"].raw.flatten(2)))).mean(1)
        clip = torch.zeros(len(batch.keys), 6)
        sample = torch.tensor([item.sample for item in batch.items], dtype=torch.int64)
        clip = clip.index_add(0, sample, rows[[item.row for item in batch.items]].float())
        hidden = self.norm(self.words(batch.input_ids) + clip[:, None])
        logits = self.head(self.dropout(hidden))[:, :-1]
        targets = batch.labels[:, 1:]
        loss = nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none"
        )
        counts = (targets != IGNORE_INDEX).sum(1)
        return LossOutput(loss.sum(), counts.sum(), loss.sum(1).detach(), counts)


class TinyDataset(Dataset):
    """Samples of different lengths, some without a clip, made up from their place in the set."""

    def __init__(self, *, broken=(), poisoned=()):
        self.broken = set(broken)
        self.poisoned = set(poisoned)

    def __getitem__(self, ref):
        key = f"{ref.dataset}-{ref.index}"
        generator = torch.Generator().manual_seed(ref.index + 100 * len(ref.dataset))
        ids = torch.randint(1, 11, (3 + ref.index % 4,), generator=generator).tolist()
        media = ()
        if ref.dataset == "clips":
            pixels = torch.rand(2, 3, 2, 2, generator=generator)
            if key in self.poisoned:
                pixels[0] = float("nan")
            item = MediaItem("video", f"{key}.mp4", pixels=pixels, times_s=(0.0, ref.index / 8))
            media = (RoutedItem(item, "video", 1),)
        skips = ()
        if key in self.broken:
            skip = Skip(ref.dataset, key, f"{key}.mp4", "no video stream", ref.position, ref.index)
            skips = (skip,)
        return EncodedSample(
            key=key,
            dataset=ref.dataset,
            input_ids=[0, *ids],
            labels=[IGNORE_INDEX, *ids],
            slots=[1 if media else 0] + [0] * len(ids),
            media=media,
            skips=skips,
            position=ref.position,
            index=ref.index,
        )


class TinyData:
    """Stands for RunData; before `stop_before_step` it asks its own process to stop."""

    def __init__(self, run, world, dataset, *, stop_before_step=None, has_valid=True):
        self.run = run
        self.world = world
        self.dataset = dataset
        self.stop_before_step = stop_before_step
        self.has_valid = has_valid
        self.collator = Collator({"video": SPEC}, pad_id=0)
        self.plan = Plan(
            seed=run.seed,
            datasets={name: (length, 1.0) for name, length in LENGTHS.items()},
            batch_size=run.batch_size_train,
            world_size=world.size,
            accum=run.accum_grad_iters,
        )

    def train_batches(self, start_step):
        num_steps = run_steps(self.run) - start_step
        sampler = PlanSampler(
            self.plan, rank=self.world.rank, start_step=start_step, num_steps=num_steps
        )
        loader = DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=self.run.num_workers,
            worker_init_fn=leave_signals_to_parent if self.run.num_workers else None,
        )
        for index, loaded in enumerate(loader):
            step = start_step + index // self.run.accum_grad_iters
            if step == self.stop_before_step and self.world.rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                self.stop_before_step = None
            yield loaded

    def valid_batches(self):
        refs = in_order("talks", 5, batch_size=2, rank=self.world.rank, world_size=self.world.size)
        for batch in refs:
            yield self.collator([TinyDataset()[ref] for ref in batch])

    def keep(self, frontier, loaded):
        assert frontier == {}

    def flush(self):
        pass


def run_steps(run):
    return run.max_epoch * run.iters_per_epoch // run.accum_grad_iters


def config_of(out, *, compat="corrected", **changes):
    values = {
        "task": "video_text_pretrain",
        "output_dir": str(out),
        "init_lr": 0.05,
        "max_epoch": 2,
        "iters_per_epoch": 4,
        "batch_size_train": 4,
        "log_freq": 1,
        "device": "cpu",
        **changes,
    }
    model = ModelConfig("tiny", "tiny", {}, PartConfig("tiny", None), "none", compat=compat)
    return RunFile(model, {}, RunConfig(**values), resolved={"run": values})


def build(config, world, *, dropout=0.1, task=None, dataset=None, **data_keys):
    model = TinyModel(dropout)
    run = config.run
    path = Path(run.output_dir)
    start = plan_start(
        path / "checkpoints", run=run, resolved=config.resolved, world_size=world.size
    )
    engine = TorchEngine(
        model,
        optimizer=build_optimizer(model, run),
        world=world,
        device=torch.device("cpu"),
        precision=run.precision,
    )
    data = TinyData(run, world, dataset or TinyDataset(), **data_keys)
    return Runner(
        config,
        model=model,
        task=task or VideoTextPretrain(),
        data=data,
        engine=engine,
        folder=RunFolder(path, start=start),
    )
