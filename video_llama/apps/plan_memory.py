"""What one GPU of a run has to hold, item by item, and what to change if it cannot.

Weights, gradients and moments are counted exactly; what an engine shards is divided by the number
of GPUs. Activations come from `plan_steps`. What a driver and an allocator take is an allowance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from video_llama.common.gpus import Gpu
from video_llama.common.schema import Config, RunConfig
from video_llama.models.branch import Branch
from video_llama.models.video_llm import VideoLLM
from video_llama.models.weight_sizes import planned_bytes
from video_llama.runners.deepspeed_config import BUCKET_ELEMENTS, zero_settings
from video_llama.runners.optim import accumulation_decides

GIB = 2**30

CONTEXT_BYTES = 1 * GIB
"""Allowance for the CUDA context, the kernels of the libraries and their workspaces."""

FRAGMENTATION = 0.1
"""Allowance for gaps between blocks of the allocator, as a share of activations and gradients."""

MOMENTS_PER_WEIGHT = 2
"""AdamW's, in float32."""

LIVE_ELEMENTS = 1_000_000_000
"""Gathered at once under ZeRO-3, at most: DeepSpeed's default of `stage3_max_live_parameters`."""

NUM_BUCKETS = 2
"""Buffers of gradients or weights on their way that DeepSpeed has at a time."""


@dataclass(frozen=True)
class Sharding:
    """What the ranks of a run divide among themselves.

    Attributes:
        stage: of ZeRO: 0 nothing (DDP), 1 moments, 2 gradients too, 3 weights too.
        world_size: ranks.
        moments_on_host: moments and their update live in the host's memory.
        weights_on_host: weights do.
    """

    stage: int = 0
    world_size: int = 1
    moments_on_host: bool = False
    weights_on_host: bool = False

    @property
    def name(self) -> str:
        """As people say it."""
        host = [
            what
            for what, is_there in (
                ("moments", self.moments_on_host),
                ("weights", self.weights_on_host),
            )
            if is_there
        ]
        offload = f", {' and '.join(host)} on the host" if host else ""
        return f"ZeRO-{self.stage}{offload}" if self.stage else "DDP"


@dataclass(frozen=True)
class Line:
    """One thing a GPU holds."""

    name: str
    size: int
    note: str = ""


@dataclass(frozen=True)
class Weights:
    """Parameters of a model.

    Attributes:
        frozen_bytes: of those that do not learn, by dtype.
        num_trainable: how many learn; they are float32.
        num_params: all.
        largest_head_bytes: of the largest frozen head of a branch, which ZeRO-3 gathers whole.
    """

    frozen_bytes: Mapping[str, int]
    num_trainable: int
    num_params: int
    largest_head_bytes: int = 0

    @property
    def trainable_bytes(self) -> int:
        """Of those that learn."""
        return 4 * self.num_trainable

    @property
    def total_bytes(self) -> int:
        """Of all."""
        return sum(self.frozen_bytes.values()) + self.trainable_bytes


def count_weights(model: VideoLLM) -> Weights:
    """Count the parameters of a model, buffers with the frozen ones."""
    learning = [p for p in model.parameters() if p.requires_grad]
    frozen = Counter(planned_bytes(model))
    for parameter in learning:
        frozen[str(parameter.dtype).removeprefix("torch.")] -= parameter.nbytes
    heads = [_head_bytes(b) for b in model.branches.values() if isinstance(b, Branch)]
    return Weights(
        frozen_bytes={dtype: size for dtype, size in frozen.items() if size},
        num_trainable=sum(parameter.numel() for parameter in learning),
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        largest_head_bytes=max(heads, default=0),
    )


def _head_bytes(branch: Branch) -> int:
    """Return the size of what is frozen and before a branch's frontier."""
    head = [module for _, module, _ in branch.parts()][: branch.num_frozen]
    return sum(parameter.nbytes for module in head for parameter in module.parameters())


def sharding_of(run: RunConfig, *, world_size: int) -> Sharding:
    """Return what a run's engine shards."""
    zero = zero_settings(run)
    if zero is None:
        return Sharding(world_size=world_size)
    return Sharding(
        stage=zero.stage,
        world_size=world_size,
        moments_on_host=zero.offload_optimizer != "none",
        weights_on_host=zero.offload_parameters != "none",
    )


def memory_lines(
    weights: Weights, *, sharding: Sharding, activation_bytes: int, logit_bytes: int
) -> list[Line]:
    """Return what one GPU holds at the worst moment of a step.

    Args:
        weights: of the model.
        sharding: by the engine.
        activation_bytes: of the dearest step, logits too.
        logit_bytes: how many of them are logits.
    """
    gradients = weights.trainable_bytes // (sharding.world_size if sharding.stage >= 2 else 1)
    return [
        *_weight_lines(weights, sharding),
        Line("gradients, float32", gradients),
        *_optimizer_lines(weights, sharding),
        Line("activations", activation_bytes - logit_bytes),
        Line("logits", logit_bytes, "with those of the backward pass"),
        Line("CUDA context and libraries", CONTEXT_BYTES, "allowance"),
        Line(
            "fragmentation",
            round(FRAGMENTATION * (activation_bytes + gradients)),
            f"allowance of {FRAGMENTATION:.0%} of activations and gradients",
        ),
    ]


def _weight_lines(weights: Weights, sharding: Sharding) -> Iterator[Line]:
    divided = sharding.stage >= 3
    parts = sharding.world_size if divided else 1
    if not sharding.weights_on_host:
        for dtype, size in sorted(weights.frozen_bytes.items()):
            yield Line(f"frozen weights, {dtype}", size // parts)
        yield Line("trained weights, float32", weights.trainable_bytes // parts)
    if divided:
        share = min(1.0, LIVE_ELEMENTS / weights.num_params)
        live = max(round(weights.total_bytes * share), weights.largest_head_bytes)
        yield Line("weights gathered for use", live, "at most")


def _optimizer_lines(weights: Weights, sharding: Sharding) -> Iterator[Line]:
    if not sharding.stage:
        yield Line("AdamW's moments, float32", MOMENTS_PER_WEIGHT * weights.trainable_bytes)
        return
    if not sharding.moments_on_host:
        # Beside the moments ZeRO steps on a copy of the rank's share of the weights.
        own = (MOMENTS_PER_WEIGHT + 1) * weights.trainable_bytes // sharding.world_size
        yield Line("AdamW's moments and weights, float32", own)
    yield Line("DeepSpeed's buckets", NUM_BUCKETS * 4 * BUCKET_ELEMENTS)


def host_bytes(weights: Weights, *, sharding: Sharding) -> int:
    """Return what a rank puts into the host's memory instead of the GPU's."""
    share = 0
    if sharding.moments_on_host:
        share += (MOMENTS_PER_WEIGHT + 1) * weights.trainable_bytes
    if sharding.weights_on_host:
        share += weights.total_bytes
    return share // sharding.world_size


def total(lines: Sequence[Line]) -> int:
    """Add up what a GPU holds."""
    return sum(line.size for line in lines)


def memory_bytes(gpu: Gpu) -> int:
    """Return what a GPU holds at most."""
    return gpu.memory_mib * 2**20


def largest_batch(lines: Sequence[Line], *, activation_bytes: int, batch: int, gpu: Gpu) -> int:
    """Return how many samples per rank fit; activations grow in proportion.

    Args:
        lines: what a GPU holds.
        activation_bytes: among them, logits too.
        batch: samples per rank they are for.
        gpu: that holds them.
    """
    per_sample = activation_bytes * (1 + FRAGMENTATION) / batch
    fixed = total(lines) - per_sample * batch
    return max(0, int((memory_bytes(gpu) - fixed) / per_sample))


def ways_out(
    config: Config, *, weights: Weights, sharding: Sharding, saved_bytes: int, batch: int
) -> list[str]:
    """Say what makes a run that does not fit smaller.

    Args:
        config: the run file.
        weights: of its model.
        sharding: by its engine.
        saved_bytes: what computing every layer again would save.
        batch: samples per rank that would fit.
    """
    ways = []
    if saved_bytes > 0:
        ways.append(
            f"model.decoder.gradient_checkpointing=true (and in parts of branches that learn) "
            f"saves up to {saved_bytes / GIB:.1f} GiB and costs a second forward pass"
        )
    if batch and accumulation_decides(config.model.compat):
        num_ranks = -(-config.run.batch_size_train * sharding.world_size // batch)
        ways.append(
            f"run.batch_size_train={batch} fits; on {num_ranks} GPUs a step keeps its size (under "
            "model.compat: released accumulation would make another run)"
        )
    elif batch:
        accum = -(-config.run.batch_size_train // batch) * config.run.accum_grad_iters
        ways.append(
            f"run.batch_size_train={batch} fits; with run.accum_grad_iters={accum}, and "
            "iters_per_epoch as many times as large, a step keeps about its size"
        )
    halves = weights.frozen_bytes.get("float32", 0) // 2
    if halves > GIB:
        ways.append(f"dtype: bfloat16 of frozen float32 parts saves up to {halves / GIB:.1f} GiB")
    if sharding.stage < 3 and sharding.world_size > 1:
        ways.append(
            f"run.engine=deepspeed run.zero.stage=3 divides {weights.total_bytes / GIB:.1f} GiB of "
            f"weights by {sharding.world_size}"
        )
    return ways
