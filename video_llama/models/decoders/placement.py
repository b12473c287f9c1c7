"""Where a decoder is loaded to: one device, or several that take its layers in turn.

Several devices are accelerate's work, through transformers: hooks carry the hidden states from
one to the next. Branches and what is generated stay on the model's own device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import DeviceMap, LowResource, ModelConfig
from video_llama.models.decoders.low_resource import refuse_learning

OFFLOADED = ("cpu", "disk")


@dataclass(frozen=True)
class Placement:
    """Where a model is loaded to.

    Attributes:
        device: of the branches, of word embeddings and logits; without a device map of everything.
        device_map: of the decoder, as `run.device_map`.
        max_memory: bytes that `auto` may put on every GPU, by its number.
    """

    device: str = "cpu"
    device_map: DeviceMap = "none"
    max_memory: Mapping[int, int] | None = None

    @property
    def uses_disk(self) -> bool:
        """Whether layers are read from disk at every use."""
        return not isinstance(self.device_map, str) and "disk" in self.device_map.values()

    def is_for(self, low_resource: LowResource) -> bool:
        """Tell whether a decoder is loaded to its place, and not moved there afterwards."""
        return self.device_map != "none" or low_resource != "none"

    def told(self, low_resource: LowResource) -> str | dict[str, str] | None:
        """Return what transformers calls a device map."""
        if self.device_map == "none":
            return {"": self.device} if low_resource != "none" else None
        return self.device_map if isinstance(self.device_map, str) else dict(self.device_map)


def build_decoder(config: ModelConfig, *, placement: Placement | None = None) -> Any:  # noqa: ANN401 - registered
    """Build a model's decoder where it belongs, and in as few bits as asked for.

    Args:
        config: the typed `model` section.
        placement: where to; None for the CPU.

    Raises:
        ConfigError: the decoder is of a kind that knows neither, or would have to learn.
    """
    part, low_resource = config.decoder, config.low_resource
    decoder_class = registry.get_decoder_class(part.type)
    placement = placement or Placement()
    if not placement.is_for(low_resource):
        return decoder_class(part)
    if not getattr(decoder_class, "takes_placement", False):
        raise ConfigError(
            f"model.decoder: a {part.type} knows neither model.low_resource nor run.device_map; "
            "leave both at none"
        )
    decoder = decoder_class(part, low_resource=low_resource, placement=placement)
    if low_resource != "none":
        refuse_learning(decoder.model, part.trainable)
    return decoder


def check_placement(placement: Placement, *, low_resource: LowResource) -> None:
    """Refuse a device map that cannot be followed, before a weight is read.

    Raises:
        ConfigError: with everything that is wrong.
    """
    chosen = placement.device_map
    if chosen == "none":
        return
    problems = []
    if importlib.util.find_spec("accelerate") is None:
        problems.append("run.device_map: needs accelerate; run: pip install accelerate")
    if chosen == "auto" and placement.device not in ("cpu", "cuda", "cuda:0", "xpu", "xpu:0"):
        problems.append(
            f"run.device_map: auto begins with the first GPU, and run.device is "
            f"'{placement.device}'; leave run.device out, or name the modules' devices one by one"
        )
    if not isinstance(chosen, str):
        wrong = [place for place in chosen.values() if not _is_place(place)]
        problems += [
            f"run.device_map: '{place}' is no device; expected cpu, disk, cuda:0, ..."
            for place in dict.fromkeys(wrong)
        ]
        offloaded = sorted({place for place in chosen.values() if place in OFFLOADED})
        if low_resource != "none" and offloaded and set(chosen.values()) != {"cpu"}:
            problems.append(
                f"run.device_map: layers on {' and '.join(offloaded)} cannot be in {low_resource}; "
                "put all on GPUs, or set model.low_resource: none"
            )
    if problems:
        raise ConfigError(problems)


@contextmanager
def map_errors(placement: Placement) -> Iterator[None]:
    """Say of what transformers finds wrong with a device map which key it is about.

    Raises:
        ConfigError: a module is forgotten, or `auto` found too little memory.
    """
    try:
        yield
    except ValueError as error:
        if placement.device_map == "none":
            raise
        raise ConfigError(f"run.device_map: {error}") from error


def check_spread(model: PreTrainedModel, placement: Placement) -> None:
    """Refuse a model whose layers landed where they cannot be used from `placement.device`.

    Raises:
        ConfigError: the word embeddings are elsewhere, or `auto` found too little memory.
    """
    places = getattr(model, "hf_device_map", {})
    left_over = [name for name, place in places.items() if str(place) in OFFLOADED]
    if placement.device_map == "auto" and left_over and placement.device != "cpu":
        raise ConfigError(
            f"run.device_map: the GPUs do not hold the decoder, {len(left_over)} of its modules "
            f"are left over (first: {left_over[0]}); add GPUs, or set model.low_resource: 4bit"
        )
    home = torch.device(placement.device)
    found = next(model.get_input_embeddings().parameters()).device
    if (home.type, home.index or 0) != (found.type, found.index or 0):
        raise ConfigError(
            f"run.device_map: the word embeddings are on '{found}' and run.device is '{home}'; "
            "they must be together"
        )


def memory_for_decoder(
    free: Mapping[int, int], *, branch_bytes: int, reserve_bytes: int
) -> dict[int, int]:
    """Return how much of every GPU `auto` may fill with layers.

    Args:
        free: bytes free on every GPU, by number.
        branch_bytes: weights of the branches, which go to the first.
        reserve_bytes: left free on each for the context and for what is computed.
    """
    first = min(free)
    taken = {gpu: reserve_bytes + (branch_bytes if gpu == first else 0) for gpu in free}
    return {gpu: max(0, size - taken[gpu]) for gpu, size in free.items()}


def _is_place(text: str) -> bool:
    if text in OFFLOADED:
        return True
    kind, _, index = text.partition(":")
    return kind in ("cuda", "xpu", "mps", "cpu") and (not index or index.isdecimal())
