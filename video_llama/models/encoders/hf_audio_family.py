"""What is asked of a kind of audio trunk of transformers; registers nothing itself.

Shapes: K clips, F mel bins, L mel frames, R rows of a grid (of frequencies), C columns (of time),
D width.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn
from transformers import PretrainedConfig

from video_llama.common.hub import local_path
from video_llama.common.registry import did_you_mean
from video_llama.common.types import AudioSpec
from video_llama.common.weights import KeyMap

NOT_SIZES = ("architectures", "dtype", "id2label", "label2id", "transformers_version")
"""Keys of a config.json that say nothing of the trunk."""

N = TypeVar("N", bound=nn.Module)


class Family(ABC, Generic[N]):
    """One kind of trunk, of stated sizes.

    Args:
        keys: of the trunk's config.
        clip_s: length of a clip in seconds, None for what is usual.

    Raises:
        ValueError: no trunk can be so, or hear clips so long.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    model_types: ClassVar[tuple[str, ...]]
    inside: ClassVar[str] = ""
    """Key of a whole model's config.json under which the trunk's own stand."""
    key_map: ClassVar[KeyMap]

    def __init__(self, keys: Mapping[str, Any], *, clip_s: float | None) -> None:
        self.config: Any = self.config_class(**keys)
        self.clip_s = clip_s
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuse what the trunk cannot be or hear."""

    @abstractmethod
    def build(self) -> N:
        """Return the trunk with random weights."""

    @abstractmethod
    def spec(self, *, num_clips: int, clip_policy: str) -> AudioSpec:
        """Return what the trunk must be fed."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """R and C of what the trunk makes of a clip."""

    @property
    def width(self) -> int:
        """D."""
        return int(self.config.hidden_size)

    @abstractmethod
    def run(self, trunk: N, mels: Tensor) -> Tensor:
        """Turn float[K, 1, F, L] into float[K, R, C, D]."""

    @abstractmethod
    def layers(self, trunk: N) -> list[nn.Module]:
        """Return the layers in their order."""


def read_architecture(found: dict[str, Any] | str, *, family: type[Family[Any]]) -> dict[str, Any]:
    """Return a trunk's keys, from a config.json if a file or directory is named.

    Raises:
        ValueError: no such file, another model's, or a key nobody knows.
    """
    known = family.config_class().to_dict()
    if not isinstance(found, str):
        for key in found:
            if key not in known:
                raise ValueError(
                    f"architecture: {family.config_class.__name__} has no key '{key}'"
                    f"{did_you_mean(key, known) or '.'}"
                )
        return dict(found)
    file = local_path(found)
    file = file / "config.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"architecture: {file} cannot be read ({error}).") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in family.model_types:
        raise ValueError(
            f"architecture: {file} is of a model of type '{kind}', expected "
            f"{' or '.join(family.model_types)}."
        )
    own = content.get(family.inside, content)
    return {key: value for key, value in own.items() if key in known and key not in NOT_SIZES}
