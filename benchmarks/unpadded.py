"""What a decoder saves that computes no padding, against the same one as transformers pads it.

    OMP_NUM_THREADS=1 python benchmarks/unpadded.py

Prints rows of `RESULTS.md`. Gradients pass through the toy decoder, frozen, to its inputs, as from
a bridge that learns. Both take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from video_llama.common.config import load_preset
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.decoders.causal_lm import CausalLM

NUM_TURNS = 30
BATCHES = {
    "captions": [21, 21, 19, 22, 16, 19, 19, 22, 14, 22, 21, 21, 23, 21, 22, 21] * 2,
    "questions": [58, 72, 29, 74, 56, 56, 56, 58, 54, 57, 77, 74],
    "pictures, clips and text": [24, 31, 180, 28, 64, 200, 35, 90],
}
"""Positions of the samples of batches: two of the toy recipes, and a mix of what differs more."""


def main() -> None:
    """Print a row for every batch."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    start_logging()
    decoder = CausalLM(load_preset("video_llama", "toy").decoder).requires_grad_(False)
    for name, lengths in BATCHES.items():
        step = step_of(decoder, lengths)
        turns = [
            (seconds(step, skips_padding=False), seconds(step, skips_padding=True))
            for _ in range(NUM_TURNS)
        ]
        padded, without = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
        padding = 1 - sum(lengths) / (len(lengths) * max(lengths))
        get_logger().info(
            "| %s | %.0f %% | %.0f ms | %.0f ms | %.2f |",
            *(name, 100 * padding, padded, without, without / padded),
        )


def step_of(decoder: CausalLM, lengths: Sequence[int]) -> Callable[..., None]:
    """Return a forward and a backward pass; the last third of every sample is supervised."""
    torch.manual_seed(0)
    ends, columns = torch.tensor(lengths)[:, None], torch.arange(max(lengths))
    mask = columns < ends
    embeds = torch.randn(*mask.shape, decoder.width)
    labels = torch.randint(decoder.vocab_size, mask.shape)
    labels = torch.where(mask & (columns >= ends * 2 // 3), labels, IGNORE_INDEX)

    def step(*, skips_padding: bool) -> None:
        decoder.skips_padding = skips_padding
        fed = embeds.clone().requires_grad_()
        decoder.loss(fed, attention_mask=mask, labels=labels).token_loss.mean().backward()

    return step


def seconds(step: Callable[..., None], *, skips_padding: bool) -> float:
    """Return the CPU seconds of one step."""
    start = time.process_time()
    step(skips_padding=skips_padding)
    return time.process_time() - start


if __name__ == "__main__":
    main()
