"""Counts what passes by when a network is run on tensors without data; see `costs`."""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_counter.flop_registry,
    # Attention on a CPU; the same products as in the kernels that torch's table knows.
    aten._scaled_dot_product_flash_attention_for_cpu: flop_counter.sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_counter.sdpa_backward_flop,
}


class Counter(TorchDispatchMode):
    """Counts what is run below it; answers what tensors without data cannot.

    Every mask is taken for full, or for `num_true` full places: rows of full length are the dear
    ones, and a network that asks more of its data than that cannot be planned.
    """

    def __init__(self, weights: Iterable[Tensor], *, num_true: int | None) -> None:
        super().__init__()
        self.flops: collections.Counter[str] = collections.Counter()
        self.alive = 0
        self.most_alive = 0
        self._num_true = num_true
        # Operations also return views of weights.
        self._known = weakref.WeakSet(weight.untyped_storage() for weight in weights)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's interface
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        output = self._answer(func, args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            dtype = str(tensors[0].dtype).removeprefix("torch.")
            self.flops[dtype] += formula(*args, **(kwargs or {}), out_val=output)
        for tensor in tensors:
            self._watch(tensor.untyped_storage())
        return output

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:  # noqa: ANN401
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten.nonzero.default:
            (mask,) = args
            return mask.new_empty((self._size_of(mask), mask.ndim), dtype=torch.int64)
        masks = [m for m in args[1] if _is_mask(m)] if func in _INDEXING else []
        if not masks:
            return func(*args, **kwargs)
        if func is aten.index.Tensor:
            source, (mask,) = args
            return source.new_empty((self._size_of(mask), *source.shape[mask.ndim :]))
        return args[0].clone() if func is aten.index_put.default else args[0]

    def _size_of(self, mask: Tensor) -> int:
        return mask.numel() if self._num_true is None else self._num_true

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.alive -= size


_INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool


def replace_by_fakes(model: nn.Module) -> None:
    """Put weights without data on a CPU in place of a model's own; ties stay."""
    fakes: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                        if fake.requires_grad:
                            fake.register_post_accumulate_grad_hook(_drop_gradient)
                    fakes[id(tensor)] = fake
                table[name] = fakes[id(tensor)]  # type: ignore[assignment]


def _drop_gradient(parameter: Tensor) -> None:
    """Forget a gradient; gradients are counted with the parameters."""
    parameter.grad = None
