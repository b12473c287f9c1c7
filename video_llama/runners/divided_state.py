"""Weights and moments that are divided among the processes, brought together and divided again.

Tensors are gathered one by one and kept by rank zero alone, on its CPU; in the other direction each
process picks its share. So nobody holds more than one whole copy of what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from video_llama.runners.optimizer_state import SEPARATOR

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, beside the number of steps, which all parameters share."""


class DividedState:
    """What DeepSpeed trains, by our names; every rank must make every call.

    Args:
        parameters: trained ones by name; whole in the stages 1 and 2, divided in stage 3.
        optimizer: DeepSpeed's, around an AdamW of torch.
        stage: of ZeRO.
        is_main: whether this is rank zero.
    """

    def __init__(
        self, parameters: Mapping[str, Any], *, optimizer: Any, stage: int, is_main: bool
    ) -> None:
        self._parameters = parameters
        self._optimizer = optimizer
        self._stage = stage
        self._is_main = is_main

    def shapes(self) -> dict[str, torch.Size]:
        """Return the whole shape of every parameter."""
        return {
            name: getattr(parameter, "ds_shape", parameter.shape)
            for name, parameter in self._parameters.items()
        }

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the parameters on rank zero, nothing elsewhere."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self._stage == 3:
            return self._gather(safe_get_full_fp32_param)
        return self._gather(lambda parameter: parameter.detach().clone())

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Put parameters back, from whole ones."""
        for name, parameter in self._parameters.items():
            if self._stage == 3:
                parameter.partition()
                parameter.ds_tensor.data.copy_(_share(parameter, state[name]))
            else:
                parameter.data.copy_(state[name])
        self._optimizer.refresh_fp32_params()

    def moments(self) -> dict[str, Tensor]:
        """Return copies of the moments on rank zero, nothing elsewhere or before a first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        made = [entry for entry in self._optimizer.state.values() if entry]
        if not made:
            return {}
        self._link_moments()
        state = {}
        for key in MOMENTS:
            read = partial(safe_get_full_optimizer_state, optim_state_key=key)
            for name, whole in self._gather(read).items():
                state[f"{name}{SEPARATOR}{key}"] = whole
                state[f"{name}{SEPARATOR}step"] = made[0]["step"].clone()
        return state

    def load_moments(self, by_name: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put moments back, from whole ones by parameter."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._make_moments(next(iter(by_name.values()))["step"])
        for name, moments in by_name.items():
            parameter = self._parameters[name]
            for key in MOMENTS:
                if self._stage == 3:
                    # The call for whole tensors fails where they cannot be divided evenly.
                    share = _share(parameter, moments[key])
                    safe_set_local_optimizer_state(parameter, share, key)
                else:
                    safe_set_full_optimizer_state(parameter, moments[key], key)

    def _gather(self, read: Callable[[Any], Tensor]) -> dict[str, Tensor]:
        """Bring one tensor of every parameter together."""
        state = {}
        for name, parameter in self._parameters.items():
            whole = read(parameter)
            if self._is_main:
                state[name] = whole.cpu().contiguous()
        return state

    def _make_moments(self, step: Tensor) -> None:
        """Give the divided parameters moments to be filled, as a first step would."""
        stage_3 = self._stage == 3
        attribute = "fp32_partitioned_groups_flat" if stage_3 else "single_partition_of_fp32_groups"
        for flat in getattr(self._optimizer, attribute):
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self._optimizer.state[flat] = {"step": step.clone().cpu(), **moments}
        self._link_moments()

    def _link_moments(self) -> None:
        """Tell parameters where their moments are; DeepSpeed forgets all groups but the first."""
        if self._stage < 3:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _share(parameter: Any, whole: Tensor) -> Tensor:
    """Return this process's share of a tensor divided like a parameter, the last one padded."""
    length, rank = parameter.partition_numel(), parameter.ds_zero_partition_rank
    share = torch.zeros(length, dtype=whole.dtype)
    mine = whole.flatten()[length * rank : length * (rank + 1)]
    share[: len(mine)] = mine
    return share
