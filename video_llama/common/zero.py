"""How DeepSpeed divides a run among its processes; see docs/deepspeed.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Zero:
    """The `run.zero` block (ZeRO, Rajbhandari et al. 2020; Ren et al. 2021 for what is offloaded).

    Attributes:
        stage: what every process has only its share of: 1 the optimizer's moments, 2 the gradients
            as well, 3 the weights too, frozen ones among them.
        offload_optimizer: cpu keeps the moments in the machine's memory and steps there.
        offload_parameters: cpu keeps the weights there; stage 3 only.
    """

    stage: Literal[1, 2, 3] = 2
    offload_optimizer: Literal["none", "cpu"] = "none"
    offload_parameters: Literal["none", "cpu"] = "none"

    def __post_init__(self) -> None:
        if self.offload_parameters != "none" and self.stage != 3:
            raise ValueError(
                f"offload_parameters: {self.offload_parameters} needs stage 3, found stage "
                f"{self.stage}, where every process has all weights; set stage: 3, or "
                "offload_parameters: none"
            )
