"""Looks at a file or directory of weights and says what it is, from names, shapes and dtypes.

No value is read. What a name alone suggests (which release a file is) is said to come from the
name, because contents do not tell a Vicuna's branch from a LLaMA-2's of the same size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.state_files import SUFFIXES, read_notes, read_state
from video_llama.common.weights import LLAMA_WIDTHS
from video_llama.models.decoders.composite import read_composite, read_config
from video_llama.models.decoders.readiness import why_not_ready
from video_llama.models.fidelity import fidelity_of_directory
from video_llama.models.lora_bundle import CONFIG_FILE as ADAPTER_CONFIG
from video_llama.models.released.recognise import Kind, recognise
from video_llama.models.released.releases import ENCODERS, Release, find_release
from video_llama.models.sources import RUN_CHECKPOINTS, WEIGHTS_FILE

UNKNOWN = Kind("unknown", "nothing this framework knows", ())
EMBEDDINGS = (
    "model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "tok_embeddings.weight",
)
PROJECTIONS = (
    "llama_proj.weight",
    "audio_llama_proj.weight",
    "branches.video.stages.projection.linear.weight",
    "branches.audio.stages.projection.linear.weight",
    *EMBEDDINGS,
)
"""Tensors that show the decoder's width; the embedding of a decoder has it in its second side."""


@dataclass
class Inspection:
    """What is known of one file or directory.

    Attributes:
        path: as it was named.
        kind: short name, see `recognise.KINDS`; "broken" if it cannot be read.
        text: the same for people.
        release: title of the release its name stands for, "" if none.
        branch: of the model that it fills.
        decoder: it is or was trained for, as far as it is known.
        fidelity: how near it is to what was published, "" where nothing is known.
        hears: whether this release hears, and with which file; "" where that makes no sense.
        keys: of the `model` section where it belongs.
        needs: what else must be there to use it.
        num_tensors: how many.
        num_values: their elements.
        num_bytes: their size.
        dtypes: tensors of every dtype.
        notes: anything else worth knowing.
    """

    path: str
    kind: str
    text: str
    release: str = ""
    branch: str = ""
    decoder: str = ""
    fidelity: str = ""
    hears: str = ""
    keys: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    num_tensors: int = 0
    num_values: int = 0
    num_bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def inspect_path(named: str) -> Iterator[Inspection]:
    """Yield what is at a path: one file, a decoder's directory, a run, or everything in a folder.

    Args:
        named: path, or a name of the hub that is in its cache.
    """
    path = local_path(named)
    if path.is_dir() and not _is_one(path):
        inside = sorted(item for item in path.iterdir() if _is_one(item))
        for item in inside:
            yield _inspect(f"{named.rstrip('/')}/{item.name}", item)
        if inside:
            return
    yield _inspect(named, path)


def _is_one(path: Path) -> bool:
    """Tell whether a path is one thing: a file of weights, a decoder's directory, or a run.

    A bundle of adapters is several.
    """
    if path.is_file():
        return path.suffix in SUFFIXES
    if not path.is_dir() or (path / ADAPTER_CONFIG).is_file():
        return False
    marks = (
        "config.json",
        "params.json",
        *(f"{below}/{WEIGHTS_FILE}" for below in RUN_CHECKPOINTS),
    )
    return any((path / mark.lstrip("/")).is_file() for mark in marks)


def _inspect(named: str, path: Path) -> Inspection:
    try:
        state = read_state(_weights_of(path))
        notes = read_notes(path)
        config = read_config(path) or {}
        composite = read_composite(path)
    except CheckpointMismatch as error:
        return _describe_unreadable(named, path, str(error))
    kind = recognise(state, model_type=str(config.get("model_type", ""))) or UNKNOWN
    found = Inspection(named, kind.name, kind.text, branch=kind.branch, keys=list(kind.keys))
    _count(found, state)
    found.decoder = _decoder_of(kind, state, composite.architecture if composite else config)
    _add_release(found, kind, find_release(path.name))
    if (judged := fidelity_of_directory(path, state)) is not None:
        found.fidelity = judged.verdict
        found.notes += judged.notes
    if kind.name == "decoder" and (reason := why_not_ready(path)):
        found.notes.append(reason)
    found.notes += _training_notes(notes)
    return found


def _weights_of(path: Path) -> Path:
    """Return where a run's folder keeps its best weights; any other path as it is."""
    for below in RUN_CHECKPOINTS:
        if (path / below / WEIGHTS_FILE).is_file():
            return path / below / WEIGHTS_FILE
    return path


def _describe_unreadable(named: str, path: Path, error: str) -> Inspection:
    """Say what Meta's own layout is, or why a file cannot be read."""
    if path.is_dir() and (reason := why_not_ready(path)):
        kind = recognise(("tok_embeddings.weight", "layers.0.attention.wq.weight")) or UNKNOWN
        return Inspection(named, kind.name, kind.text, notes=[reason])
    return Inspection(named, "broken", "cannot be read", notes=[error])


def _count(found: Inspection, state: Mapping[str, Tensor]) -> None:
    dtypes: Counter[str] = Counter()
    for name in state:
        tensor = state[name]
        dtypes[str(tensor.dtype).removeprefix("torch.")] += 1
        found.num_values += tensor.numel()
        found.num_bytes += tensor.nbytes
    found.num_tensors, found.dtypes = len(state), dict(dtypes)


def _decoder_of(kind: Kind, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Return size and vocabulary of the decoder that a file is, or is for."""
    name = next((name for name in PROJECTIONS if name in state), None)
    if name is None:
        return ""
    shape = state[name].shape
    is_embedding = name in EMBEDDINGS
    width = shape[1 if is_embedding else 0]
    size = LLAMA_WIDTHS.get(width, f"{width} wide")
    family = config.get("model_type", "LLaMA") if is_embedding else "LLaMA"
    return f"{family} {size}" + (f", {shape[0]:,} tokens" if is_embedding else "")


def _add_release(found: Inspection, kind: Kind, release: Release | None) -> None:
    """Add what the release says; a name that contradicts the content is noted, not believed."""
    if kind.name not in ("vl", "al"):
        return
    found.needs = [f"a decoder ({found.decoder})", *ENCODERS[kind.branch]]
    found.hears = (
        "with imagebind_huge.pth" if kind.branch == "audio" else "with an AL file for this decoder"
    )
    if release is None:
        return
    if release.branch != kind.branch or found.decoder.split()[-1] not in (
        *release.decoder.replace("-", " ").split(), "wide"
    ):  # fmt: skip
        found.notes.append(f"its name is that of {release.title} for {release.decoder}; it is not")
        return
    found.release = f"{release.title} (by its name)"
    found.decoder = release.decoder
    found.needs[0] = f"{release.decoder}, preset {release.preset}"
    found.notes.append(f"trained on {release.data}")
    if kind.branch == "video" and release.audio_file:
        found.hears = f"with {release.audio_file}"
    elif not release.audio_file:
        found.hears = "no: no audio branch was released for this decoder"


def _training_notes(notes: Mapping[str, Any]) -> list[str]:
    """Say what the training code wrote beside the weights."""
    said = []
    if isinstance(epoch := notes.get("epoch"), int):
        said.append(f"saved after epoch {epoch}")
    config = notes.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    if isinstance(model, dict) and model.get("llama_model"):
        said.append(f"trained with llama_model {model['llama_model']}")
    return said
