"""An original run file while it is translated: what it says, and what has become of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VIDEO = "model.branches.video"
AUDIO = "model.branches.audio"

_BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
VIT_FILE = f"{_BLIP2}/eva_vit_g.pth"
Q_FORMER_FILE = f"{_BLIP2}/blip2_pretrained_flant5xxl.pth"
"""What the original fetches, the second unless told otherwise."""

FAMILIES = {"pretrain_vicuna": "vicuna", "pretrain_llama_v2": "llama_v2"}
"""The model's `model_type`, and that of its data sets."""

CAPTIONS = ("webvid", "cc_sbu_align", "cc_sbu", "laion")
"""Data sets whose samples are a single text; the others hold conversations."""


@dataclass
class Original:
    """An original run file and what has become of it so far.

    Attributes:
        path: where it lies.
        keys: its values by dotted key; what is null is left out.
        ours: our values by dotted key.
        problems: what is wrong, each opening with the key.
        notes: what is not quite as in the original.
    """

    path: Path
    keys: Mapping[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def trains(self) -> bool:
        """Whether it is a file for training; the others serve the demo."""
        return "run.max_epoch" in self.keys

    @property
    def datasets(self) -> list[str]:
        """Names of its data sets in file order."""
        keys = (key.split(".") for key in self.keys if key.startswith("datasets."))
        return list(dict.fromkeys(parts[1] for parts in keys))

    @property
    def conversations(self) -> list[str]:
        """Names of the data sets that hold conversations."""
        return [name for name in self.datasets if name not in CAPTIONS]

    @property
    def hears(self) -> bool:
        """Whether the audio branch is the one that trains."""
        return self.trains and not self.flag("model.frozen_audio_Qformer", default=True)

    @property
    def num_slots(self) -> int:
        """Decoder positions of a clip or picture in the branch that trains."""
        key, default = ("num_audio_query_token", 8) if self.hears else ("num_video_query_token", 32)
        return self.number(f"model.{key}", default=default)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a key that is true or false."""
        value = self.keys.get(key, default)
        if isinstance(value, bool):
            return value
        self.refuse(key, f"expected true or false, found {value!r}")
        return default

    def number(self, key: str, *, default: int) -> int:
        """Return a key that is a whole number."""
        value = self.keys.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self.refuse(key, f"expected an integer, found {value!r}")
        return default

    def refuse(self, key: str, reason: str) -> None:
        """Note what is wrong with a key, once."""
        problem = f"{key}: {reason}"
        if problem not in self.problems:
            self.problems.append(problem)

    @property
    def family(self) -> str | None:
        """`vicuna` or `llama_v2`; None for a preset of ours."""
        return FAMILIES.get(str(self.keys.get("model.model_type")))

    def of(self, dataset: str, key: str, default: Any = None) -> Any:
        """Return a key of a data set."""
        return self.keys.get(f"datasets.{dataset}.{key}", default)
