"""What a model's weights take in memory: as planned from a model without any, and as they are.

Buffers count as weights. A layer in fewer bits counts with its scales and tables; what shares its
memory with another tensor, tied embeddings say, counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from video_llama.common.schema import LowResource
from video_llama.models.decoders.low_resource import reduced_bytes, reduced_layers
from video_llama.models.video_llm import VideoLLM

STATE_PARTS = ("absmax", "code", "offset", "state2")
"""Of bitsandbytes' QuantState, whose `state2` is another one."""


def planned_bytes(model: VideoLLM, *, low_resource: LowResource | None = None) -> dict[str, int]:
    """Return what the weights of a model will take, by what they are kept in.

    Args:
        model: on the meta device, built from the config it will be loaded by.
        low_resource: in place of its config's own.

    Returns:
        Bytes by dtype, and by `8bit` or `4bit` for what `low_resource` makes smaller.
    """
    low_resource = low_resource or model.config.low_resource
    sizes: Counter[str] = Counter()
    reduced: set[int] = set()
    if low_resource != "none" and hasattr(model.decoder, "takes_placement"):
        for _, layer in reduced_layers(model.decoder.model):
            sizes[low_resource] += reduced_bytes(layer, low_resource)
            reduced.add(id(layer.weight))
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in reduced:
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return dict(sizes)


def held_bytes(module: nn.Module) -> int:
    """Return what a module's weights take where they are, every piece of memory once."""
    pieces = {}
    for tensor in _tensors(module):
        storage = tensor.untyped_storage()
        pieces[storage.device, storage.data_ptr()] = storage.nbytes()
    return sum(pieces.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers with what bitsandbytes keeps beside them."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield tensor
        yield from _of_state(getattr(tensor, "quant_state", None))
        yield from _named(tensor, ("CB", "SCB"))
    for layer in module.modules():
        # An 8-bit layer moves its scales here when it is used first.
        yield from _named(getattr(layer, "state", None), ("CB", "SCB"))


def _of_state(state: Any) -> Iterator[Tensor]:  # noqa: ANN401 - a class of bitsandbytes
    for name in STATE_PARTS if state is not None else ():
        value = getattr(state, name, None)
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _of_state(value)


def _named(owner: object, names: tuple[str, ...]) -> Iterator[Tensor]:
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, Tensor):
            yield value
