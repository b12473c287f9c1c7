"""Proves from names and shapes alone that a directory of weights fills a decoder.

What is loaded for real goes through transformers; this is for when nothing is to be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

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
