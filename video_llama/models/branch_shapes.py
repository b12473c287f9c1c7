"""What the parts of a branch make of an item, from configs alone; no weight is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from video_llama.common.errors import ConfigError
from video_llama.common.schema import BranchConfig, ModelConfig
from video_llama.common.types import Shape


@dataclass(frozen=True)
class SlotCount:
    """Number of decoder positions of an item, from configs alone; can travel to data workers."""

    config: BranchConfig
    _known: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, num_steps: int) -> int:
        """Return the slots of an item of `num_steps` frames or sound clips."""
        if num_steps not in self._known:  # Asked for every sample; few numbers ever come.
            self._known[num_steps] = fold_shapes(self.config, num_steps)[-1].num_slots
        return self._known[num_steps]


def fold_shapes(config: BranchConfig, num_steps: int) -> list[Shape]:
    """Return the shape behind the encoder and behind every stage."""
    shapes = [config.encoder.config.out_shape(num_steps)]
    for part in config.stages.values():
        shapes.append(part.config.out_shape(shapes[-1]))
    return shapes


def check_branches(config: ModelConfig, *, width: int) -> None:
    """Check by shapes alone that branches and decoder fit together.

    Raises:
        ConfigError: they do not; all mistakes together.
    """
    problems = []
    claimed: dict[str, str] = {}
    shapes: dict[str, list[Shape]] = {}
    for name, branch in config.branches.items():
        steps = branch.encoder.config.media_spec().num_steps
        try:
            shapes[name] = fold_shapes(branch, steps)
        except ConfigError as error:
            problems += [f"model.branches.{name}: {text}" for text in error.problems]
            continue
        last = shapes[name][-1]
        if last.width != width:
            problems.append(
                f"model.branches.{name}: its last stage is {last.width} wide, the decoder "
                f"{width}; end the branch with a projection of width {width}"
            )
        for kind in branch.media:
            if kind in claimed:
                problems.append(
                    f"model.branches.{name}.media: '{kind}' goes to branch '{claimed[kind]}' "
                    f"already; set one of the two branches to null or change its media"
                )
            claimed[kind] = name
    problems += _unlike_owners(config, shapes)
    if problems:
        raise ConfigError(problems)


def _unlike_owners(config: ModelConfig, shapes: Mapping[str, list[Shape]]) -> Iterator[str]:
    """Say which shared stages would be given tokens of another width than their owner gets."""
    widths = {
        f"{name}.{stage}": shape.width
        for name in shapes
        for stage, shape in zip(config.branches[name].stages, shapes[name], strict=False)
    }
    for name in shapes:
        for stage, part in config.branches[name].stages.items():
            here, there = widths[f"{name}.{stage}"], widths.get(part.share or "")
            if there is not None and here != there:
                yield (
                    f"model.branches.{name}.stages.{stage}.share: tokens are {here} wide here and "
                    f"{there} at '{part.share}', one module cannot read both; choose encoders of "
                    "one width, or give the stage a type of its own in place of share"
                )
