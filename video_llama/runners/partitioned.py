"""Calling a model whose weights are divided among the processes (ZeRO-3).

A weight is whole only while it is used: DeepSpeed gathers it when its module is entered and lets
it go behind it. Every rank has to be there, so all must enter the same modules in the same order,
whatever their batches hold. The model does, but for three cases, which are seen to here:

- The frozen head of a branch runs once for every row, and not at all without one. Its weights are
  gathered once for the whole branch, and only if some rank has a row for it.
- Some batches have padding and others none, which decides how a decoder reads that computes none;
  here it computes it.
- Ranks validate on different numbers of batches, and answers differ in length. Losses are computed
  in step with each other; for answers the whole model is gathered.

Nothing here knows of gradients or optimizers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from video_llama.common.dist import any_rank, max_over_ranks
from video_llama.common.errors import ConfigError
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import IGNORE_INDEX, Batch, Features, LossOutput
from video_llama.datasets.collate import EncodedSample, collate
from video_llama.models.branch import Branch
from video_llama.models.video_llm import VideoLLM
from video_llama.tasks.base import StopRule

HELD = "held"
"""Stands among the modules that use a weight while the whole model is gathered."""

DONE, LOSS, ANSWER = range(3)
"""What a rank wants to do next when it validates; the greatest wish of all ranks is granted."""


def divide(model: nn.Module, *, config: dict[str, Any], device: torch.device) -> None:
    """Leave each process its share of every weight, on the device or where `config` says.

    One weight at a time, so that a device need not hold them all.

    Args:
        model: whole, the same on every rank, best on the CPU.
        config: DeepSpeed's.
        device: where buffers go.
    """
    from deepspeed.runtime import zero

    for part in model.modules():
        if getattr(part, "skips_padding", False):
            # Else a batch without padding would be read otherwise than one with it.
            part.skips_padding = False  # type: ignore[assignment]
    zero.Init(module=model, config_dict_or_path=config)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


class FrozenHead:
    """The parts of a branch before its frontier, gathered while the branch runs.

    DeepSpeed must not see these modules: it would gather each at every row.

    Args:
        branch: whose head has been divided.
    """

    def __init__(self, branch: Branch) -> None:
        self.is_held = False
        self._branch = branch
        head = list(branch.parts())[: branch.num_frozen]
        # A stage that is shared is hidden by its owner.
        self._names = [name for name, _, part in head if part.share is None]
        self._parameters = [p for _, module, _ in head for p in module.parameters()]
        self._gathered = contextlib.ExitStack()
        branch.register_forward_pre_hook(self._gather)
        branch.register_forward_hook(self._let_go, always_call=True)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the modules out of the branch for the length of a `with` block."""
        modules = {name: self._branch.get_submodule(name) for name in self._names}
        for name in modules:
            self._branch.set_submodule(name, nn.Identity())
        try:
            yield
        finally:
            for name, module in modules.items():
                self._branch.set_submodule(name, module)

    def _gather(self, branch: nn.Module, args: tuple[Any, ...]) -> None:
        """Ask all ranks for rows; one with rows makes all of them gather."""
        from deepspeed.runtime.zero import GatheredParameters

        if not self.is_held and any_rank(len(args[0].raw) > 0):
            self._gathered.enter_context(GatheredParameters(self._parameters))

    def _let_go(self, *_: object) -> None:
        self._gathered.close()


def frozen_heads(model: nn.Module) -> list[FrozenHead]:
    """Return the heads of all branches that have a frozen one.

    Raises:
        ConfigError: a stage is shared by two branches and in the head of one of them only.
    """
    branches = [module for module in model.modules() if isinstance(module, Branch)]
    in_head: dict[int, bool] = {}
    for branch in branches:
        for index, (name, module, _) in enumerate(branch.parts()):
            is_in_head = index < branch.num_frozen
            if in_head.setdefault(id(module), is_in_head) != is_in_head:
                raise ConfigError(
                    f"model.branches.{branch.name}.{name}: frozen and shared, with something that "
                    "learns before it in one branch and not in the other; run.zero.stage 3 cannot "
                    "divide it; take stage 2, or give each branch its own"
                )
    return [FrozenHead(branch) for branch in branches if branch.num_frozen]


def show_features(model: nn.Module) -> None:
    """Let DeepSpeed gather the weights of a part again for its backward pass.

    It marks the tensors that go into a module and come out of it, alone or in tuples, to be told
    when gradients reach them. The parts of a branch hand on `Features`, into which it does not
    look; here their tokens get the same marks.

    Args:
        model: divided, and known to DeepSpeed.
    """
    parts: dict[int, nn.Module] = {}
    for branch in [module for module in model.modules() if isinstance(module, Branch)]:
        # By identity: a stage that two branches share is marked once.
        parts |= {id(part): part for _, part, _ in list(branch.parts())[branch.num_frozen :]}
    for part in parts.values():
        part.register_forward_pre_hook(_mark_input)
        part.register_forward_hook(_mark_output)


def _mark_input(part: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_marked(value, part.post_bwd_fn) for value in args)


def _mark_output(part: Any, args: tuple[Any, ...], output: Any) -> Any:
    return _marked(output, part.pre_bwd_fn)


def _marked(value: Any, mark: Any) -> Any:
    if not isinstance(value, Features):
        return value
    return dataclasses.replace(value, tokens=mark.apply(value.tokens))


class EvaluatedModel:
    """A divided model between two epochs, when ranks have different things to ask it.

    Before every call all ranks say what they want to do next. While it is losses, each computes
    one; a rank that has no batch reads a made-up one. When the first of them wants an answer,
    all gather the whole model, and from there on each goes its own way.

    Args:
        model: in evaluation mode.
        loss: computes the loss of a batch as in training, gathering as it goes.
        gathered: context in which the whole model is there and nothing is exchanged.
    """

    def __init__(
        self,
        model: VideoLLM,
        *,
        loss: Callable[[Batch], LossOutput],
        gathered: contextlib.AbstractContextManager[None],
    ) -> None:
        self._model = model
        self._loss = loss
        self._gathered = gathered
        self._is_whole = False
        self._resources = contextlib.ExitStack()

    def __call__(self, batch: Batch) -> LossOutput:
        """See `tasks.base.Model`."""
        self._agree(LOSS)
        return self._model(batch) if self._is_whole else self._loss(batch)

    def generate(
        self, batch: Batch, *, settings: GenerationSettings, stop: StopRule | None = None
    ) -> list[list[int]]:
        """See `tasks.base.Model`."""
        self._agree(ANSWER)
        return self._model.generate(batch, settings=settings, stop=stop)

    def score(self, prompts: Batch, *, continuations: Batch, rows: Sequence[int]) -> LossOutput:
        """See `tasks.base.Model`."""
        self._agree(ANSWER)
        return self._model.score(prompts, continuations=continuations, rows=rows)

    def meet(self) -> None:
        """Keep the other ranks company until all are here."""
        while not self._is_whole and self._agree(DONE) == LOSS:
            self._loss(_smallest_batch(self._model))

    def close(self) -> None:
        """Leave each process its share again."""
        self._resources.close()

    def _agree(self, wish: int) -> int:
        """Hear what is to be done next, and gather the model if that is it."""
        if self._is_whole:
            return wish
        agreed = int(max_over_ranks(torch.tensor(wish)))
        if agreed == ANSWER:
            self._resources.enter_context(self._gathered)
            self._is_whole = True
        return agreed


@contextlib.contextmanager
def whole_model(model: nn.Module, *, optimizer: Any, heads: Sequence[FrozenHead]) -> Iterator[None]:
    """Gather all weights and hold them; modules are entered and left without any exchange.

    Args:
        model: divided.
        optimizer: DeepSpeed's.
        heads: of the model.
    """
    from deepspeed.runtime.zero import GatheredParameters

    parameters = list(model.parameters())
    order = optimizer.parameter_offload.get_param_coordinator()
    if not order.is_invalid_trace():
        # The order of modules that it learnt, and would compare among the ranks, ends here.
        order._invalidate_trace()
    with GatheredParameters(parameters):
        _hold(parameters, heads, is_held=True)
        try:
            yield
        finally:
            _hold(parameters, heads, is_held=False)


def _hold(parameters: Sequence[Any], heads: Sequence[FrozenHead], *, is_held: bool) -> None:
    for parameter in parameters:
        users = parameter.ds_active_sub_modules
        (users.add if is_held else users.discard)(HELD)
    for head in heads:
        head.is_held = is_held


def _smallest_batch(model: VideoLLM) -> Batch:
    """Return a batch of one token, with every branch and no row."""
    sample = EncodedSample(key="", dataset="", input_ids=[0], labels=[IGNORE_INDEX], slots=[0])
    return collate([sample], specs=model.branch_specs(), pad_id=0)
