"""Proves from names and shapes alone that a directory of weights fills a decoder.

What is loaded for real goes through transformers, whose findings are judged here too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers.utils import logging as hf_logging

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.weights import Excuse, KeyMap, LoadReport, check_weights, read_state
from video_llama.models.decoders.composite import select_decoder
from video_llama.models.decoders.lora import ADAPTER_MARK

INVERSE_FREQUENCIES = "rotary_emb.inv_freq"
"""Buffers in files of the LLaMA family written by older releases of transformers."""

NOT_OURS = "not the decoder's"
"""Why a composite directory's other tensors are left out."""


def check_directory(
    network: nn.Module, directory: str, *, adapted: Sequence[str] = ()
) -> LoadReport:
    """Compare a directory's names and shapes with a network's, both ways.

    Args:
        network: of transformers; may be on the meta device.
        directory: in Hugging Face's layout; may hold more than the decoder, see `composite`.
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
    whole = read_state(directory)
    state = select_decoder(whole, local_path(directory))
    report = check_weights(network, state, key_map=key_map, source=directory, only=names)
    return replace(report, dropped={**report.dropped, **left_over(whole, state)})


def left_over(whole: Collection[str], selected: Collection[str]) -> dict[str, int]:
    """Return how many names of a directory are of other parts, by reason as in a `LoadReport`."""
    count = len(whole) - len(selected)
    return {NOT_OURS: count} if count else {}


def refuse_faults(
    info: Mapping[str, Collection[object]], *, directory: Path, ours: Collection[str]
) -> None:
    """Refuse a directory that did not fill its decoder.

    Args:
        info: what transformers found when it loaded.
        directory: it loaded from.
        ours: the names in it that are the decoder's; others may be left over.

    Raises:
        CheckpointMismatch: a name or shape is left over on either side.
    """
    faults = {
        what: sorted(str(item) for item in info[what])
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    faults["unexpected_keys"] = [name for name in faults["unexpected_keys"] if name in ours]
    faults = {what: items for what, items in faults.items() if items}
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting while it loads: what it found is said by us, with a cure."""
    shows_progress, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if shows_progress:
            hf_logging.enable_progress_bar()
