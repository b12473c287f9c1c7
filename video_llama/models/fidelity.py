"""How near a model is to the one that was published: what its system has to say about it.

A system registers a function from the typed `model` section to a `Fidelity`, or to None where
there is nothing to compare, as the kind `fidelity` under its arch; and one from a directory and the
names of its tensors, as the kind `directory_fidelity`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig

EXACT = "exact"


@dataclass(frozen=True)
class Fidelity:
    """A verdict on a model, or on a directory of weights.

    Attributes:
        verdict: "exact", or everything in which it differs from what was published.
        notes: what else is worth knowing, as sentences.
    """

    verdict: str
    notes: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs."""
        return self.verdict == EXACT

    def __str__(self) -> str:
        return "; ".join((self.verdict, *self.notes))


def fidelity_of(config: ModelConfig) -> Fidelity | None:
    """Return what a model's system says of it; None if it says nothing."""
    if not registry.knows("fidelity", config.arch):
        return None
    found: Fidelity | None = registry.get("fidelity", config.arch)(config)
    return found


def fidelity_of_directory(directory: str | Path, names: Iterable[str]) -> Fidelity | None:
    """Return what the system whose directory it is says of it; None if it is no system's.

    Args:
        directory: the directory.
        names: of its tensors.

    Raises:
        CheckpointMismatch: its config.json cannot be read.
    """
    held = set(names)
    judged = (
        registry.get("directory_fidelity", arch)(directory, held)
        for arch in registry.names("directory_fidelity")
    )
    return next((found for found in judged if found is not None), None)
