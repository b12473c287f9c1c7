"""`model.lora_bundle`: adapters as peft writes them, and what learnt beside them.

    adapter_config.json         rank, scale and layers; read by `common.lora_bundle`
    adapter_model.safetensors   or `.bin`: the adapters; they become the decoder's own (`lora`), so
                                that they can be trained on or merged
    non_lora_trainables.bin     as code of the LLaVA family writes it: what else learnt, by the
                                published names of the system's checkpoints

Which decoder they are for is not said in it but for its name; the sizes must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.key_map import FileTable, KeyMap
from video_llama.common.lora_bundle import CONFIG_FILE as CONFIG_FILE
from video_llama.common.lora_bundle import KEY
from video_llama.models.decoders.lora import ADAPTER_MARK

BUNDLE_KEY = KEY
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OTHERS_FILE = "non_lora_trainables.bin"

PLAIN_NAMES = KeyMap(
    renames=(("base_model.model.**.lora_*.weight", "decoder.model.**.lora_*.default.weight"),)
)
"""peft leaves out the adapter's name, which the layers have."""

ADAPTER_NAMES = KeyMap(
    renames=tuple(
        (
            f"base_model.model.{within}.**.lora_*.weight",
            "decoder.model.model.**.lora_*.default.weight",
        )
        for within in ("model.language_model", "language_model.model")
    )
).join(PLAIN_NAMES)
"""The same, also for adapters of a language model inside a model of transformers."""


@dataclass(frozen=True)
class BundleFile:
    """One file of weights in a bundle.

    Attributes:
        path: of the file.
        holds_adapters: or what learnt beside them.
    """

    path: Path
    holds_adapters: bool


def bundle_files(directory: str | Path) -> Iterator[BundleFile]:
    """Yield the files of weights in a bundle.

    Raises:
        CheckpointMismatch: there are no adapters in it.
    """
    folder = local_path(directory)
    adapters = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()]
    if not adapters:
        raise CheckpointMismatch(
            f"model.{BUNDLE_KEY}: no {' or '.join(ADAPTER_FILES)} in {directory}; expected a "
            "directory of adapters as peft writes it"
        )
    yield BundleFile(adapters[0], holds_adapters=True)
    if (folder / OTHERS_FILE).is_file():
        yield BundleFile(folder / OTHERS_FILE, holds_adapters=False)


def adapter_table(names: Iterable[str]) -> FileTable:
    """Return where a file of adapters goes; it must fill just what it names.

    Args:
        names: in the file.
    """
    ours = (ADAPTER_NAMES.translate(name) for name in names)
    return FileTable(ADAPTER_NAMES, parts=tuple(name for name in ours if name is not None))


def refuse_gaps(model: nn.Module, filled: Iterable[str], *, source: Path) -> None:
    """Refuse a file that leaves adapters of the model empty; they would do nothing.

    Args:
        model: with adapters; may be on the meta device.
        filled: names of what the file filled.
        source: the file.

    Raises:
        CheckpointMismatch: some are empty.
    """
    wanted = {name for name in model.state_dict() if ADAPTER_MARK in name}
    empty = sorted(wanted - set(filled))
    if empty:
        raise CheckpointMismatch(
            f"{source}: lacks {len(empty)} of {len(wanted)} adapters that adapter_config.json "
            f"asks for on this decoder (first: {empty[0]}); they are for a smaller decoder, or the "
            "file is not whole"
        )
