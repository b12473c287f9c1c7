"""How the layers of a part run while a model learns: recomputed, compiled, or both.

A part that repeats a layer names its layers by a method `repeated_layers`. Recomputing (gradient
checkpointing, Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") keeps only what
goes into a layer and computes the rest again in the backward pass, in frozen layers too: gradients
pass through a frozen decoder, so it keeps as much as one that learns. Compiling is torch.compile,
layer by layer, so that equal layers are compiled once.

Both stand behind a layer's own `forward`: no module is wrapped, names of parameters do not change.
Where no gradients are recorded, and behind a cache of what was read before, layers run as written.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.schema import CompileBackend, PartConfig, RunConfig

COMPILERS = {"cpu": ("CXX", ("g++", "clang++")), "cuda": ("CC", ("gcc", "clang"))}
"""What torch.compile calls: the variable that names it, else the first of these that is there."""

MAX_VARIANTS = 32
"""Of a kind of layer, beyond which it runs as written. Lengths and numbers of rows need one each
until torch takes them for variable; no row, one or several need one each for good, and so do
padding or none and each size of a part."""


@runtime_checkable
class HasLayers(Protocol):
    """A part whose layers can be recomputed and compiled."""

    def repeated_layers(self) -> Sequence[nn.Module]:
        """Return the layers in their order; empty if this network has none."""
        ...


class LearningForward:
    """Stands in place of a layer's `forward`.

    Args:
        layer: the layer.

    Attributes:
        recomputes: keep only the inputs for the backward pass.
        compiled: the compiled `forward` of the layer's class, None for the one that was written.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.recomputes = False
        self.compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        # A cache would take in the same tokens again when the layer is recomputed.
        has_cache = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if not torch.is_grad_enabled() or has_cache:
            return type(self._layer).forward(self._layer, *args, **kwargs)
        run = self.compiled or type(self._layer).forward
        if not self.recomputes:
            return run(self._layer, *args, **kwargs)
        return checkpoint(run, self._layer, *args, use_reentrant=False, **kwargs)


def recompute_where_asked(module: nn.Module, part: PartConfig, *, where: str) -> None:
    """Let a part's layers be recomputed in the backward pass if its config says so.

    A part that runs without gradients keeps nothing anyway, and recomputes nothing.

    Raises:
        ConfigError: the part has no layers that could be.
    """
    if not part.gradient_checkpointing:
        return
    layers = module.repeated_layers() if isinstance(module, HasLayers) else ()
    if not layers:
        raise ConfigError(
            f"{where}.gradient_checkpointing: this {part.type} has no layers that could be "
            "recomputed; take the key out"
        )
    for layer in layers:
        learning_forward(layer).recomputes = True


def compile_backend(run: RunConfig, *, device: str) -> CompileBackend | None:
    """Return the backend of torch.compile that `run.compile` asks for, None for none.

    Raises:
        ConfigError: nothing could compile for the device.
    """
    if run.compile is False:
        return None
    backend: CompileBackend = "inductor" if run.compile is True else run.compile
    if backend == "inductor":
        _require_compiler(torch.device(device).type)
    return backend


def compile_layers(model: nn.Module, *, backend: CompileBackend) -> None:
    """Compile the layers of every part of a model for the time gradients are recorded.

    Parts before the cache frontier run without gradients and stay as written: compiled code rounds
    differently, and what they compute may come from a cache.

    Args:
        model: with its weights, on its device.
        backend: of torch.compile.
    """
    from torch._dynamo import config as limits

    limits.recompile_limit = max(limits.recompile_limit, MAX_VARIANTS)
    layers = [layer for part in _parts_with_layers(model) for layer in part.repeated_layers()]
    for layer in layers:
        learning_forward(layer).compiled = _compiled(type(layer).forward, backend)
    get_logger().info("%d layers are compiled (%s) when they first learn", len(layers), backend)


def _require_compiler(kind: str) -> None:
    """Refuse to compile where nothing could."""
    if kind not in COMPILERS:
        raise ConfigError(f"run.compile: not for device '{kind}'; set run.compile: false")
    variable, names = COMPILERS[kind]
    wanted = [os.environ[variable]] if os.environ.get(variable) else list(names)
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"run.compile: needs a compiler on device '{kind}' and found none of "
            f"{', '.join(wanted)}; install one (apt-get install g++), name it in ${variable}, or "
            "set run.compile: false"
        )


def learning_forward(layer: nn.Module) -> LearningForward:
    """Return what stands in place of a layer's `forward`, put there if need be."""
    if not isinstance(layer.forward, LearningForward):
        layer.forward = LearningForward(layer)
    return layer.forward


def _parts_with_layers(model: nn.Module) -> Iterator[HasLayers]:
    return (module for module in model.modules() if isinstance(module, HasLayers))


@functools.cache
def _compiled(forward: Callable[..., Any], backend: CompileBackend) -> Callable[..., Any]:
    """Compile the `forward` of a class once for all layers of it."""
    compiled: Callable[..., Any] = torch.compile(forward, backend=backend)
    return compiled
