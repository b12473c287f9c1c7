"""What one device has to hold while a model talks, item by item, before a weight is read.

Weights and key-values are counted exactly; what is computed on the way is measured on the network
itself without data, see `models.costs`. What a driver and an allocator take is an allowance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from video_llama.apps.checks import meta_model
from video_llama.apps.plan_memory import CONTEXT_BYTES, FRAGMENTATION, GIB, Line, total
from video_llama.common.schema import LowResource, ModelConfig
from video_llama.conversation.compat import ChatCompat
from video_llama.models.costs import CostMeter
from video_llama.models.decoders.low_resource import reduced_layers
from video_llama.models.video_llm import VideoLLM
from video_llama.models.weight_sizes import planned_bytes

SUM_BYTES = 4
"""Of a sum in the kernels for 8 bits, which add up in int32."""

BITS: tuple[LowResource, ...] = get_args(LowResource)
NAMES = {"4bit": "nf4 with scales", "8bit": "int8 with scales"}


@dataclass(frozen=True)
class ChatPlan:
    """What one conversation takes.

    Attributes:
        positions: of the decoder that it may fill, prompt and answer together.
        weights: a line for everything they are kept in.
        cache_bytes: key-values of all positions.
        working: what is computed, and allowances.
    """

    positions: int
    weights: tuple[Line, ...]
    cache_bytes: int
    working: tuple[Line, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All of it."""
        cache = Line(f"key-values of {self.positions:,} positions", self.cache_bytes)
        return (*self.weights, cache, *self.working)

    @property
    def weight_bytes(self) -> int:
        """Of all weights."""
        return total(self.weights)

    @property
    def total_bytes(self) -> int:
        """Most that is there at once."""
        return total(self.lines)

    def num_caches(self, free_bytes: int, *, most: int) -> int:
        """Return of how many conversations the key-values fit, at least of one.

        Args:
            free_bytes: of the device once the weights are there.
            most: that are wanted.
        """
        room = free_bytes - total(self.working)
        return max(1, min(most, room // max(1, self.cache_bytes)))

    def __str__(self) -> str:
        parts = ", ".join(f"{line.name} {line.size / GIB:.2f}" for line in self.lines)
        return f"{self.total_bytes / GIB:.2f} GiB ({parts})"


class ChatPlanner:
    """Measures a model once and plans its conversations.

    Args:
        config: the typed `model` section.
        positions: of the decoder in use, None for as many as a conversation may fill.

    Raises:
        ConfigError: the parts do not fit together.
        Uncountable: a part cannot be run without data.
    """

    def __init__(self, config: ModelConfig, *, positions: int | None = None) -> None:
        model = meta_model(config)
        longest = model.max_context
        limit = ChatCompat.named(config.compat).max_length or longest
        self.positions = min(positions or limit, longest)
        self._low_resource = config.low_resource
        self._weights = {bits: planned_bytes(model, low_resource=bits) for bits in BITS}
        self._scratch = {bits: self._scratch_bytes(model, bits) for bits in BITS}
        # Nothing learns while it talks.
        model.requires_grad_(False)
        meter = CostMeter(model, precision="fp32")
        reading = meter.reading(length=self.positions)
        self._cache_bytes = reading.kept_bytes
        self._peaks = {"reading a prompt": reading.peak_bytes - reading.kept_bytes}
        for name in config.branches:
            self._peaks[f"encoding for branch '{name}'"] = meter.branch(name, raw=1).peak_bytes

    def plan(self, *, low_resource: LowResource | None = None, on_gpu: bool = True) -> ChatPlan:
        """Plan the memory of one conversation.

        Args:
            low_resource: in place of the config's own.
            on_gpu: with what CUDA and its libraries take.
        """
        bits = low_resource or self._low_resource
        weights = tuple(
            Line(f"weights, {NAMES.get(kept_in, kept_in)}", size)
            for kept_in, size in sorted(self._weights[bits].items())
        )
        dearest = max(self._peaks, key=self._peaks.__getitem__)
        computed = Line(dearest, self._peaks[dearest])
        working = _working(computed, scratch=self._scratch[bits], on_gpu=on_gpu)
        return ChatPlan(self.positions, weights, self._cache_bytes, tuple(working))

    def _scratch_bytes(self, model: VideoLLM, low_resource: LowResource) -> int:
        """Return what layers in fewer bits need while they compute.

        A 4-bit layer is written out in full, an 8-bit layer sums up in int32.
        """
        if low_resource == "none" or not hasattr(model.decoder, "takes_placement"):
            return 0
        layers = [layer for _, layer in reduced_layers(model.decoder.model)]
        if low_resource == "4bit":
            return max(layer.weight.nbytes for layer in layers)
        return max(SUM_BYTES * self.positions * layer.out_features for layer in layers)


def _working(computed: Line, *, scratch: int, on_gpu: bool) -> Iterator[Line]:
    """Yield what is there besides weights and key-values."""
    yield Line(computed.name, computed.size, "the most that is computed at once")
    if scratch:
        yield Line("kernels for fewer bits", scratch, "the largest layer")
    if on_gpu:
        yield Line("CUDA context and libraries", CONTEXT_BYTES, "allowance")
    gaps = round(FRAGMENTATION * (computed.size + scratch))
    yield Line("fragmentation", gaps, f"allowance of {FRAGMENTATION:.0%} of what is computed")
