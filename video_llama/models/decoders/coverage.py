"""Proves from names and shapes alone that a directory of weights fills a decoder.

What is loaded for real goes through transformers, whose findings are judged here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import nn

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import Excuse, KeyMap, LoadReport, check_weights, read_state
from video_llama.models.decoders.lora import ADAPTER_MARK

INVERSE_FREQUENCIES = "rotary_emb.inv_freq"
"""Buffers in files of the LLaMA family written by older releases of transformers."""


def check_directory(
    network: nn.Module, directory: str, *, adapted: Sequence[str] = ()
) -> LoadReport:
    """Compare a directory's names and shapes with a network's, both ways.

    Args:
        network: of transformers; may be on the meta device.
        directory: in Hugging Face's layout.
        adapted: names of the layers that LoRA wrapped; the files know nothing of it.

    Raises:
        CheckpointMismatch: they do not cover each other.
    """
    wrapped = tuple(
        (f"**.layers.*.*.{name}.*", f"**.layers.*.*.{name}.base_layer.*") for name in adapted
    )
    key_map = KeyMap(
        renames=(*wrapped, ("**", "**")),
        drops=(
            Excuse(f"**{INVERSE_FREQUENCIES}", "rotary frequencies, computed from config.json"),
        ),
    )
    names = tuple(name for name in network.state_dict() if ADAPTER_MARK not in name)
    state = read_state(directory)
    return check_weights(network, state, key_map=key_map, source=directory, only=names)


def refuse_faults(info: Mapping[str, Collection[object]], *, directory: Path) -> None:
    """Refuse a directory that did not fill its decoder.

    Args:
        info: what transformers found when it loaded.
        directory: it loaded from.

    Raises:
        CheckpointMismatch: a name or shape is left over on either side.
    """
    faults = {
        what: sorted(str(item) for item in info[what])
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[what]
    }
    if not faults:
        return
    lines = [
        f"  {len(items)} {what.replace('_', ' ')}: {', '.join(items[:6])}"
        for what, items in faults.items()
    ]
    raise CheckpointMismatch(
        f"{directory}: config.json and the weights do not fit each other\n"
        + "\n".join(lines)
        + "\n  the directory mixes two models or lacks a file; download it again"
    )
