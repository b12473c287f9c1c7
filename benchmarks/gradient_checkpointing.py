"""What `gradient_checkpointing` and `run.compile` of a frozen decoder save and cost.

    OMP_NUM_THREADS=1 python benchmarks/gradient_checkpointing.py            # toy decoder, measured
    OMP_NUM_THREADS=1 python benchmarks/gradient_checkpointing.py --compile  # needs a C++ compiler
    OMP_NUM_THREADS=1 python benchmarks/gradient_checkpointing.py --counted vicuna7b

Prints rows of `RESULTS.md`. Gradients pass through the decoder to its inputs, as from a bridge that
learns. Bytes are those of the tensors that wait for the backward pass, without weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from video_llama.common.config import load_preset
from video_llama.common.logger import get_logger, start_logging
from video_llama.models.costs import CostMeter
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.layers import compile_layers, recompute_where_asked
from video_llama.models.video_llm import VideoLLM

NUM_STEPS = 7
RECOMPUTED = "model.decoder.gradient_checkpointing=true"


def main() -> None:
    """Print one row without and one with recomputed layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="samples of a batch")
    parser.add_argument("--length", type=int, default=128, help="positions of a sample")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers")
    parser.add_argument("--counted", metavar="MODEL_TYPE", help="count on a preset without weights")
    args = parser.parse_args()
    start_logging()
    if args.counted is not None:
        count(args.counted, rows=args.rows, length=args.length)
        return
    for compiled in (False, True) if args.compile else (False,):
        for options in ([], [RECOMPUTED]):
            part = load_preset("video_llama", "toy", options=options).decoder
            decoder = CausalLM(part).requires_grad_(False)
            recompute_where_asked(decoder, part, where="model.decoder")
            if compiled:
                compile_layers(decoder, backend="inductor")
            step = step_of(decoder, rows=args.rows, length=args.length)
            name = (
                f"{'compiled' if compiled else 'as written'}, {'recomputed' if options else 'kept'}"
            )
            get_logger().info("| %s | %.1f MB | %.3f s |", name, kept_mb(step), seconds(step))


def step_of(decoder: CausalLM, *, rows: int, length: int) -> Callable[[], torch.Tensor]:
    """Return a forward pass over random embeddings, half of them supervised."""
    torch.manual_seed(0)
    embeds = torch.randn(rows, length, decoder.width)
    labels = torch.randint(decoder.vocab_size, (rows, length))
    labels[:, : length // 2] = -100
    mask = torch.ones(rows, length, dtype=torch.bool)

    def forward() -> torch.Tensor:
        fed = embeds.clone().requires_grad_()
        return decoder.loss(fed, attention_mask=mask, labels=labels).token_loss.mean()

    return forward


def kept_mb(forward: Callable[[], torch.Tensor]) -> float:
    """Return the megabytes of the storages that a forward pass leaves to the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    loss.backward()
    return sum(sizes.values()) / 1e6


def seconds(forward: Callable[[], torch.Tensor]) -> float:
    """Return the median CPU seconds of a forward and a backward pass."""
    forward().backward()
    times = []
    for _ in range(NUM_STEPS):
        started_s = time.process_time()
        forward().backward()
        times.append(time.process_time() - started_s)
    return statistics.median(times)


def count(model_type: str, *, rows: int, length: int) -> None:
    """Print what a preset's decoder would keep at full size, from tensors without data."""
    config = load_preset("video_llama", model_type)
    with torch.device("meta"):
        model = VideoLLM(config)
    model.branches.requires_grad_(True)
    meter = CostMeter(model, precision="bf16")
    for where in ("nowhere", "everywhere"):
        meter.recompute(where)
        cost = meter.decoder(rows=rows, length=length, targets=rows * length // 2)
        get_logger().info(
            "| %s, recomputed %s | %.2f GB | peak %.2f GB | %.1f TFLOP |",
            model_type, where, cost.kept_bytes / 1e9, cost.peak_bytes / 1e9,
            cost.total_flops / 1e12,
        )  # fmt: skip


if __name__ == "__main__":
    main()
