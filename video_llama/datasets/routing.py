"""Which branch takes which kind of media, and how many time steps an item has."""

from __future__ import annotations

from collections.abc import Mapping

from video_llama.common.errors import ConfigError
from video_llama.common.types import BranchSpec, MediaItem, MediaKind


def route(specs: Mapping[str, BranchSpec]) -> dict[MediaKind, str]:
    """Say which branch takes which kind of media.

    Raises:
        ConfigError: two branches want the same kind.
    """
    routes: dict[MediaKind, str] = {}
    for name, spec in specs.items():
        for kind in spec.media:
            if kind in routes:
                raise ConfigError(
                    f"model.branches: '{routes[kind]}' and '{name}' both take {kind}; "
                    f"leave {kind} out of one's media, or set the branch to null"
                )
            routes[kind] = name
    return routes


def branch_of(kind: MediaKind, *, routes: Mapping[MediaKind, str], dataset: str) -> str:
    """Return the branch that takes a kind of media.

    Args:
        kind: of an item.
        routes: as `route` gives them.
        dataset: where the item comes from, for the message.

    Raises:
        ConfigError: none does.
    """
    if kind not in routes:
        raise ConfigError(
            f"datasets.{dataset}: holds {kind}, but no branch takes it (branches take: "
            f"{', '.join(sorted(routes)) or 'nothing'}); change the data set's streams or the "
            "branch's media"
        )
    return routes[kind]


def num_steps(item: MediaItem) -> int:
    """Return T of a loaded item: its frames or sound clips, padding not counted."""
    if item.features is not None:
        return len(item.times_s) or item.features.shape[0]
    raw = item.pixels if item.pixels is not None else item.mel
    assert raw is not None, f"{item.path} was not loaded"
    return raw.shape[0]
