"""What a step costs, found by running the real network on tensors without data.

Nothing is known here of layers or their formulas: floating point operations and bytes are counted
as the operations pass by, forward and backward, so parts registered elsewhere, adapters,
checkpointing and frozen modules come out right by themselves. What passes by is what a CPU would
do; a GPU's kernels keep the same tensors, and their scratch memory is not seen.

Shapes: B batch, L text, S supervised positions of a batch, M rows, T time steps, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from video_llama.common.errors import VideoLlamaError
from video_llama.common.schema import Precision
from video_llama.common.types import BranchInput
from video_llama.models.branch import Branch
from video_llama.models.cost_counter import Counter, replace_by_fakes
from video_llama.models.layers import HasLayers, learning_forward
from video_llama.models.precision import autocast
from video_llama.models.trainable import learns
from video_llama.models.video_llm import VideoLLM

Recomputing = Literal["as written", "nowhere", "everywhere"]
"""Where layers are computed again in the backward pass instead of keeping what they computed."""


class Uncountable(VideoLlamaError):
    """A network decides by the values of its data what it computes, or cannot run on a CPU."""


@dataclass(frozen=True)
class Cost:
    """Of running something forward and backward once.

    Attributes:
        flops: floating point operations by the dtype they are computed in; a multiply-add is two.
        forward_flops: how many of them are the forward pass's.
        kept_bytes: tensors that wait for the backward pass when the forward pass is over.
        peak_bytes: most bytes alive at once, without parameters and their gradients.
    """

    flops: Mapping[str, float] = field(default_factory=dict)
    forward_flops: float = 0
    kept_bytes: int = 0
    peak_bytes: int = 0

    @property
    def total_flops(self) -> float:
        """Over all dtypes."""
        return sum(self.flops.values())


def add_flops(
    first: Mapping[str, float], second: Mapping[str, float], *, times: float = 1
) -> dict[str, float]:
    """Return `first + times * second`, dtype by dtype."""
    return {
        dtype: first.get(dtype, 0) + times * second.get(dtype, 0)
        for dtype in sorted({*first, *second})
    }


class CostMeter:
    """Runs parts of one model without data and counts.

    Args:
        model: its weights may be on the meta device; they are not changed. The model cannot be
            used for anything else afterwards.
        precision: of the run.

    Everything that counts raises `Uncountable` for a network that cannot be.
    """

    def __init__(self, model: VideoLLM, *, precision: Precision) -> None:
        self._model = model
        self._precision = precision
        self._fake = FakeTensorMode()
        with self._fake:
            replace_by_fakes(model)
        model.train()
        forwards = [
            learning_forward(layer)
            for part in model.modules()
            if isinstance(part, HasLayers)
            for layer in part.repeated_layers()
        ]
        self._layers = {forward: forward.recomputes for forward in forwards}

    def decoder(self, *, rows: int, length: int, targets: int) -> Cost:
        """Count reading B rows of L positions, S of them supervised over all rows."""
        decoder = self._model.decoder
        reaches_back = any(learns(branch) for branch in self._branches().values())

        def run() -> Tensor:
            embeds = torch.empty(rows, length, decoder.width, requires_grad=reaches_back)
            mask = torch.ones(rows, length, dtype=torch.bool)
            labels = torch.zeros(rows, length, dtype=torch.int64)
            loss: Tensor = decoder.loss(embeds, attention_mask=mask, labels=labels).token_loss
            return loss

        return self._count(run, num_true=targets)

    def reading(self, *, length: int) -> Cost:
        """Count reading one prompt of L positions and predicting what follows.

        Returns:
            Its `kept_bytes` are those of the key-values, which a conversation holds on to.
        """
        decoder = self._model.decoder
        caches = []

        def run() -> Tensor:
            cache = decoder.new_cache()
            caches.append(cache)
            embeds = decoder.embed(torch.zeros(1, length, dtype=torch.int64))
            logits: Tensor = decoder.step(embeds, attention_mask=None, cache=cache)
            return logits

        with torch.no_grad():
            cost = self._count(run)
        logits_bytes = 4 * int(decoder.vocab_size)
        return replace(cost, kept_bytes=cost.kept_bytes - logits_bytes)

    def branch(self, name: str, *, raw: int, cached: int = 0, steps: int | None = None) -> Cost:
        """Count M rows of a branch.

        Args:
            name: of the branch.
            raw: rows that start as pixels or sound.
            cached: rows that start at the cache frontier.
            steps: real ones among the T of a row, None for all of them.
        """
        branch = self._branches()[name]
        most, front = branch.spec.num_steps, branch.frontier_shape

        def run() -> Tensor:
            media = BranchInput(
                raw=torch.empty(raw, most, *branch.spec.step_shape),
                raw_mask=torch.ones(raw, most, dtype=torch.bool),
                raw_rows=torch.arange(raw),
            )
            if cached:
                media.cached = torch.empty(cached, front.num_steps, front.num_tokens, front.width)
                media.cached_mask = torch.ones(cached, front.num_steps, dtype=torch.bool)
                media.cached_rows = torch.arange(raw, raw + cached)
            tokens: Tensor = branch(media).features.tokens
            return tokens

        # An encoder is run on real steps alone, and a row before the frontier by itself.
        together = 1 if self.has_frontier(name) else raw
        return self._count(run, num_true=together * (steps or most))

    def recompute(self, where: Recomputing) -> None:
        """Choose the layers that are computed again in the backward pass, from now on."""
        for layer, as_written in self._layers.items():
            layer.recomputes = as_written if where == "as written" else where == "everywhere"

    def has_frontier(self, name: str) -> bool:
        """Tell whether a branch begins with parts that do not learn."""
        return self._branches()[name].num_frozen > 0

    def num_steps(self, name: str) -> int:
        """Return T, the most steps a branch's encoder is fed."""
        return self._branches()[name].spec.num_steps

    def _branches(self) -> dict[str, Branch]:
        found = self._model.branches.items()
        return {name: branch for name, branch in found if isinstance(branch, Branch)}

    def _count(self, run: Callable[[], Tensor], *, num_true: int | None = None) -> Cost:
        weights = [*self._model.parameters(), *self._model.buffers()]
        counter = Counter(weights, num_true=num_true)
        try:
            with self._fake, counter:
                with autocast(self._precision, device="cpu"):
                    output = run()
                forward, kept = sum(counter.flops.values()), counter.alive
                if output.requires_grad:
                    output.sum().backward()
        except Exception as error:
            raise Uncountable(
                f"a part cannot be run on tensors without data: {error}; it looks at values, or "
                "has kernels of its own"
            ) from error
        return Cost(
            flops=dict(counter.flops),
            forward_flops=forward,
            kept_bytes=kept,
            peak_bytes=counter.most_alive,
        )
