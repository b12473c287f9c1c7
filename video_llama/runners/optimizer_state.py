"""The names under which an optimizer's state stands in a checkpoint, whatever the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch

SEPARATOR = "::"
"""Between a parameter's name and its optimizer moment in a checkpoint."""

SCALER = f"loss_scaling{SEPARATOR}"
"""Before the names of the loss scaling's state, beside the moments; no parameter is called so."""

SCALE, NUM_GOOD_STEPS = f"{SCALER}scale", f"{SCALER}num_good_steps"


def moments_by_name(
    state: Mapping[str, Tensor], *, names: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    """Sort an optimizer's state by parameter.

    Args:
        state: from `Engine.optimizer_state`.
        names: of the trainable parameters.

    Returns:
        Moments by parameter; empty if all steps so far were left out, so that there are none yet.

    Raises:
        CheckpointMismatch: they belong to other parameters.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for key in state:
        if not key.startswith(SCALER):
            name, _, moment = key.rpartition(SEPARATOR)
            by_name.setdefault(name, {})[moment] = state[key]
    odd = sorted(set(names) ^ set(by_name))
    if odd and by_name:
        raise CheckpointMismatch(
            f"optimizer state: {len(odd)} parameters are only in the checkpoint or only in "
            f"the model, first {odd[0]}; start a new run from the weights by model.ckpt"
        )
    return by_name
