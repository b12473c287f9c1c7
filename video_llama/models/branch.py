"""A branch turns pixels or sound into decoder-width tokens: one encoder, then named stages.

The parts before the first one that learns run in eval mode without gradient. Where they end is
the cache frontier: what stands there can be stored and used again. Frozen parts behind the
frontier are part of the graph, so that gradients flow through them.

A stage may be another branch's. It is the same module, and only its owner registers it, so that
it has one set of names wherever parameters are named, counted or saved.

Shapes: M rows, T time steps, N tokens a step, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from video_llama.common.registry import registry
from video_llama.common.schema import BranchConfig, PartConfig
from video_llama.common.types import BranchInput, BranchSpec, Features, MediaItem, Shape
from video_llama.models.branch_shapes import SlotCount, fold_shapes
from video_llama.models.layers import recompute_where_asked
from video_llama.models.precision import own_dtype
from video_llama.models.trainable import PartRow, learns, part_row, set_mode, set_trainable


class Branch(nn.Module):
    """Encoder and stages of one branch; see `build_branches`.

    Args:
        config: what to build.
        name: of the branch, for messages and parameter names.
    """

    def __init__(self, config: BranchConfig, *, name: str) -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.spec = config.encoder.config.media_spec()
        self._shapes = fold_shapes(config, self.spec.num_steps)
        self._borrowed: dict[str, nn.Module] = {}
        self.encoder = _build("encoder", config.encoder)
        self.stages = nn.ModuleDict(
            {
                stage: _build("bridge", part, shape)
                for (stage, part), shape in zip(config.stages.items(), self._shapes, strict=False)
                if part.share is None
            }
        )
        for part_name, module, part in self.own_parts():
            where = f"model.branches.{name}.{part_name}"
            set_trainable(module, part.trainable, where=where)
            recompute_where_asked(module, part, where=where)

    def join(self, others: Mapping[str, Branch]) -> None:
        """Take the stages that are shared from their owners, and find the cache frontier."""
        for stage, part in self.config.stages.items():
            if part.share is not None:
                lender, _, lent = part.share.partition(".")
                self._borrowed[stage] = others[lender].stages[lent]
        modules = [module for _, module, _ in self.parts()]
        self.num_frozen = next((i for i, m in enumerate(modules) if learns(m)), len(modules))
        self.frontier_shape = self._shapes[max(self.num_frozen - 1, 0)]

    @property
    def learns(self) -> bool:
        """Whether any part learns, those of another branch that it runs among them."""
        return any(learns(module) for _, module, _ in self.parts())

    def parts(self) -> Iterator[tuple[str, nn.Module, PartConfig]]:
        """Yield (name below the branch, module, config) in the order of the data's way."""
        yield "encoder", self.encoder, self.config.encoder
        for stage, part in self.config.stages.items():
            module = self.stages[stage] if part.share is None else self._borrowed[stage]
            yield f"stages.{stage}", module, part

    def own_parts(self) -> Iterator[tuple[str, nn.Module, PartConfig]]:
        """Yield what `parts` does, without stages that are another branch's."""
        yield "encoder", self.encoder, self.config.encoder
        for stage, module in self.stages.items():
            yield f"stages.{stage}", module, self.config.stages[stage]

    def branch_spec(self, *, fingerprint: bool = False) -> BranchSpec:
        """Return what the rest of the house may know of this branch.

        Args:
            fingerprint: also hash everything before the frontier (seconds at full size).
        """
        return BranchSpec(
            name=self.name,
            media=self.config.media,
            spec=self.spec,
            frontier=self.frontier_shape,
            slots=SlotCount(self.config),
            frontier_id=self.fingerprint() if fingerprint and self.num_frozen else None,
        )

    def fingerprint(self) -> str:
        """Hash the configs and the very bytes of all parts before the frontier."""
        digest = hashlib.blake2b(digest_size=16)
        for index, (name, module, part) in enumerate(self.parts()):
            if index == self.num_frozen:
                break
            digest.update(f"{name} {part.type} {dataclasses.asdict(part.config)}".encode())
            for key, tensor in module.state_dict().items():
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def rows(self, *, unfilled: str) -> list[PartRow]:
        """Return a row for every part, for the table shown at start.

        Args:
            unfilled: said of parts without a file of their own.
        """
        return [
            part_row(
                module,
                name=f"branches.{self.name}.{name}",
                type_name=part.type,
                weights=part.weights or unfilled,
            )
            for name, module, part in self.own_parts()
        ]

    def train(self, mode: bool = True) -> Branch:
        """Set the mode; a part that does not learn stays in eval."""
        self.training = mode
        for _, module, _ in self.parts():
            set_mode(module, mode)
        return self

    def forward(self, branch_input: BranchInput) -> BranchOutput:
        """Turn a branch's input into tokens.

        Args:
            branch_input: M rows, raw or cached; M may be 0.

        Returns:
            Tokens float[M, T', N', H] at the end of the branch with their mask, and the frontier
            features of the raw rows.
        """
        raw_frontier = self._run_frozen(branch_input)
        features = self._merge_cached(raw_frontier, branch_input)
        for _, module, _ in list(self.parts())[max(self.num_frozen, 1) :]:
            features = _run_stage(module, features)
        return BranchOutput(features=features, frontier=raw_frontier)

    def encode_frontier(self, item: MediaItem) -> Tensor:
        """Return what a loaded item is at the cache frontier, float[T, N, D] of its valid steps.

        Args:
            item: with `pixels` or `mel`; no more steps than the branch's spec.
        """
        row = to_device(row_of(item), next(self.parameters()).device)
        features = self._run_frozen(row)
        return features.tokens[0][features.mask[0].any(dim=-1)]

    def _run_frozen(self, branch_input: BranchInput) -> Features:
        """Bring the raw rows to the frontier, item by item.

        One row at a time, because matrix kernels round differently at other batch sizes: a row's
        features must not depend on its neighbours, or cached and fresh features would differ.
        """
        raw, mask = branch_input.raw, branch_input.raw_mask
        head = [module for _, module, _ in self.parts()][: max(self.num_frozen, 1)]
        if self.num_frozen == 0:
            # Also without any row: an encoder that learns must stay in the graph.
            with own_dtype(head[0]):
                return head[0](raw, mask)
        if len(raw) == 0:
            return _empty(self.frontier_shape, like=next(self.parameters()))
        # Without autocast, so that features in a cache do not depend on who computed them.
        with torch.no_grad(), torch.autocast(raw.device.type, enabled=False):
            rows = []
            for row in range(len(raw)):
                features = head[0](raw[row : row + 1], mask[row : row + 1])
                for module in head[1:]:
                    features = module(features)
                rows.append(features)
        return Features(
            tokens=torch.cat([features.tokens for features in rows]),
            mask=torch.cat([features.mask for features in rows]),
            grid=rows[0].grid,
            num_prefix=rows[0].num_prefix,
        )

    def _merge_cached(self, fresh: Features, branch_input: BranchInput) -> Features:
        """Put fresh and cached rows into the order of the batch."""
        if branch_input.cached is None or branch_input.cached_rows is None:
            return fresh
        assert branch_input.cached_mask is not None
        cached = branch_input.cached.to(fresh.tokens)
        cached_mask = branch_input.cached_mask[..., None].expand(cached.shape[:3])
        order = torch.cat([branch_input.raw_rows, branch_input.cached_rows]).argsort()
        order = order.to(fresh.tokens.device)
        return Features(
            tokens=torch.cat([fresh.tokens, cached])[order],
            mask=torch.cat([fresh.mask, cached_mask.to(fresh.mask.device)])[order],
            grid=fresh.grid,
            num_prefix=fresh.num_prefix,
        )


@dataclass
class BranchOutput:
    """What a branch gives: tokens for the decoder, and what can be cached.

    Attributes:
        features: float[M, T', N', H].
        frontier: features of the raw rows at the cache frontier, in the order of `raw_rows`.
    """

    features: Features
    frontier: Features


def build_branches(configs: Mapping[str, BranchConfig]) -> dict[str, Branch]:
    """Build the branches of a model and let them share what their configs say."""
    branches = {name: Branch(config, name=name) for name, config in configs.items()}
    for branch in branches.values():
        branch.join(branches)
    return branches


def row_of(item: MediaItem) -> BranchInput:
    """Return the input of a branch that holds one loaded item, without padding."""
    raw = item.pixels if item.pixels is not None else item.mel
    assert raw is not None, f"{item.path} was not loaded"
    mask = torch.ones(1, len(raw), dtype=torch.bool)
    return BranchInput(raw=raw[None], raw_mask=mask, raw_rows=torch.zeros(1).long())


def to_device(branch_input: BranchInput, device: torch.device) -> BranchInput:
    """Move what a branch computes with; row numbers stay on the CPU."""
    cached, cached_mask = branch_input.cached, branch_input.cached_mask
    return BranchInput(
        raw=branch_input.raw.to(device, non_blocking=True),
        raw_mask=branch_input.raw_mask.to(device, non_blocking=True),
        raw_rows=branch_input.raw_rows,
        cached=None if cached is None else cached.to(device, non_blocking=True),
        cached_mask=None if cached_mask is None else cached_mask.to(device, non_blocking=True),
        cached_rows=branch_input.cached_rows,
    )


def _build(kind: str, part: PartConfig, *args: object) -> nn.Module:
    """Build a part; what a file will fill is built on the meta device, without initial weights."""
    cls = registry.get(kind, part.type)
    device = "meta" if part.file is not None else torch.get_default_device()
    with torch.device(device):
        module: nn.Module = cls(part.config, *args)
    return module


def _run_stage(module: nn.Module, features: Features) -> Features:
    """Run a stage behind the frontier; without autocast it is fed in its own dtype."""
    tokens = features.tokens
    with own_dtype(module):
        if not torch.is_autocast_enabled(tokens.device.type):
            dtype = next((parameter.dtype for parameter in module.parameters()), tokens.dtype)
            features = dataclasses.replace(features, tokens=tokens.to(dtype))
        return module(features)


def _empty(shape: Shape, *, like: torch.Tensor) -> Features:
    """Return features of no row at all."""
    size = (0, shape.num_steps, shape.num_tokens, shape.width)
    return Features(
        tokens=torch.zeros(size, device=like.device, dtype=torch.float32),
        mask=torch.zeros(size[:3], device=like.device, dtype=torch.bool),
    )
