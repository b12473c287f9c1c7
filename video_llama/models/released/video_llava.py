"""Where the tensors of Video-LLaVA's published files go; tables only.

One directory holds decoder, both towers and the projector, in one of three layouts:

    original       by PKU-YuanGroup/Video-LLaVA, e.g. LanguageBind/Video-LLaVA-7B; the towers lie
                   in it too, though its own loader fetches them from elsewhere
    hf             by transformers 4, e.g. LanguageBind/Video-LLaVA-7B-hf; without temporal blocks
    transformers5  by `save_pretrained` of transformers 5; a state dict saved by hand has the
                   names it has in memory, which are known too

The original names serve as the common ones. The decoder is read by the decoder, see `composite`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.hub import hub_ref, local_path, way_to_get
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.common.weights import Excuse, FileTable, KeyMap, read_state
from video_llama.models.bridges.mlp import PUBLISHED_NAMES
from video_llama.models.decoders.composite import FLAT, read_composite
from video_llama.models.sources import named_parts

MODALITIES = ("image", "video")
"""Of the towers; the branches have the same names."""

DECODER_KEY, PROJECTOR_KEY = "llama_model", "mm_projector"
TOWER_KEYS = {modality: f"{modality}_tower" for modality in MODALITIES}
DIRECTORY_KEYS = (DECODER_KEY, *TOWER_KEYS.values(), PROJECTOR_KEY, "released")
"""Keys of the `model` section that may name a whole directory; the last stands for all."""

TEMPORAL = "temporal_"
"""Stands in the names of the tensors that only the temporal blocks have."""

PUBLISHED_WIDTH = 4096
WITH_TEMPORAL, WITHOUT_TEMPORAL = "vicuna7b", "vicuna7b_hf_compat"
"""Presets for what was published."""

NESTED_DECODER = (
    ("language_model.model.**", "model.**"),
    ("language_model.lm_head.**", "lm_head.**"),
)


@dataclass(frozen=True)
class Layout:
    """How one program names the tensors.

    Attributes:
        name: of the layout.
        decoder: pairs (this layout's name, original name).
        tower: prefix of a tower, with a star for its modality.
        projector: of the projector's two linear maps; the original may have any number.
    """

    name: str
    decoder: tuple[tuple[str, str], ...]
    tower: str
    projector: tuple[str, str]

    def tower_of(self, modality: str) -> str:
        """Return the prefix of a tower."""
        return self.tower.replace("*", modality)

    def to_original(self) -> KeyMap:
        """Return the map from this layout's names to the original's."""
        towers = [
            (f"{self.tower_of(each)}**", f"{ORIGINAL.tower_of(each)}**") for each in MODALITIES
        ]
        maps = zip(self.projector, ORIGINAL.projector, strict=True)
        projector = [(f"{ours}.*", f"{original}.*") for ours, original in maps]
        if self == ORIGINAL:
            projector = [("model.mm_projector.**", "model.mm_projector.**")]
        return KeyMap(renames=(*projector, *towers, *self.decoder))

    def fits(self, names: Collection[str]) -> bool:
        """Tell whether a directory has a decoder and a projector of this layout, and its towers."""
        key_map = KeyMap(renames=self.decoder)
        prefixes = tuple(map(self.tower_of, MODALITIES))
        return (
            any(name.startswith(f"{self.projector[0]}.") for name in names)
            and any(key_map.translate(name) is not None for name in names)
            and any(name.startswith(prefixes) for name in names)
        )


ORIGINAL = Layout(
    "original",
    FLAT.renames,
    "model.*_tower.*_tower.",
    ("model.mm_projector.0", "model.mm_projector.2"),
)
HF = Layout(
    "hf",
    NESTED_DECODER,
    "*_tower.vision_model.",
    ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
)
TRANSFORMERS5 = replace(HF, name="transformers5", tower="*_tower.")
IN_MEMORY = Layout(
    "transformers5, as in memory",
    (("model.language_model.**", "model.**"), ("lm_head.**", "lm_head.**")),
    "model.*_tower.",
    ("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
)
LAYOUTS = (ORIGINAL, HF, TRANSFORMERS5, IN_MEMORY)
"""Looked at in this order; what is more special stands before what is more general."""


def layout_of(names: Iterable[str]) -> Layout | None:
    """Return the layout of a directory with these names, None if it is no Video-LLaVA."""
    held = set(names)
    return next((layout for layout in LAYOUTS if layout.fits(held)), None)


def names_of_directory(directory: object) -> list[str]:
    """Return the names in a whole directory of Video-LLaVA; none if it is anything else."""
    if not isinstance(directory, str) or not local_path(directory).is_dir():
        return []
    try:
        names = list(read_state(directory))
    except CheckpointMismatch:
        return []
    return names if layout_of(names) is not None else []


@registry.register_release("video_llava")
def published_files(config: ModelConfig) -> Mapping[str, FileTable]:
    """Return where the tensors of each published file go in a `VideoLLM`.

    Args:
        config: the typed `model` section; decides sizes and which branches are there.

    Returns:
        A table for every role of a file: `released` and each key that names a whole directory
        too, `mm_projector` for the file of stage 1, `ckpt` and `ckpt_2` for the same.
    """
    whole = FileTable(_directory_map(config), parts=tuple(_parts(config)))
    released = config.paths.get(DIRECTORY_KEYS[-1])
    tables = {}
    for key in DIRECTORY_KEYS:
        path = config.paths.get(key)
        if path is not None and (path == released or names_of_directory(path)):
            tables[key] = whole
    projector = projector_of(config)
    table = FileTable(_projector_map(projector), parts=(f"{projector}.",) if projector else ())
    checkpoint = replace(table, may_be_partial=True)
    return {PROJECTOR_KEY: table, "ckpt": checkpoint, "ckpt_2": checkpoint, **tables}


@registry.register("released_folder", "video_llava")
def find_in_folder(
    directory: str, model: Mapping[str, Any], *, skip: Collection[str]
) -> dict[str, str]:
    """Return what a released directory says about a `model` section.

    Args:
        directory: in any of the layouts, or its name on the hub.
        model: the section; branches set to null need nothing.
        skip: keys that are settled elsewhere.

    Returns:
        The directory for every piece, and for published sizes the preset it goes with.

    Raises:
        ConfigError: it is no such directory.
    """
    names = names_of_directory(directory)
    is_there = local_path(directory).exists()
    if not names and (is_there or hub_ref(directory) is None):
        raise ConfigError(_describe_stranger(directory))
    branches = model.get("branches") or {}
    found = {key: directory for key in (DECODER_KEY, PROJECTOR_KEY) if key not in skip}
    for modality, key in TOWER_KEYS.items():
        if key not in skip and branches.get(modality, {}) is not None:
            found[key] = directory
    if "model_type" not in skip and (not names or _is_published_size(directory)):
        has_temporal = any(TEMPORAL in name for name in names) or not (
            names or Path(directory).name.endswith("-hf")
        )
        found["model_type"] = WITH_TEMPORAL if has_temporal else WITHOUT_TEMPORAL
    return found


def projector_of(config: ModelConfig) -> str:
    """Return the name in the model of the projector, "" if it has none like Video-LLaVA's.

    Of several it is the one called as in the presets, or else the first.
    """
    stages = [name for name, part in named_parts(config) if part.type == "mlp"]
    called = (name for name in stages if name.endswith(".projection"))
    return next(called, stages[0] if stages else "")


def _parts(config: ModelConfig) -> Iterator[str]:
    """Yield the prefixes of what a whole directory can fill, the decoder apart."""
    for modality in MODALITIES:
        if modality in config.branches:
            yield f"branches.{modality}.encoder."
    if projector := projector_of(config):
        yield f"{projector}."


def _directory_map(config: ModelConfig) -> KeyMap:
    """Join the tables of all layouts; what has no place in the model has its reason."""
    decoder = {published for layout in LAYOUTS for published, _ in layout.decoder}
    joined = KeyMap(
        renames=(), drops=tuple(Excuse(p, "the decoder's, read by it") for p in sorted(decoder))
    )
    for modality in MODALITIES:
        branch = config.branches.get(modality)
        for layout in LAYOUTS:
            prefix = layout.tower_of(modality)
            if branch is None:
                reason = f"the model has no branch '{modality}'"
                table = KeyMap(renames=(), drops=(Excuse(f"{prefix}**", reason),))
            else:
                table = branch.encoder.config.key_map()
                table = table.under(published=prefix, ours=f"branches.{modality}.encoder.")
            joined = joined.join(table)
    return joined.join(_projector_map(projector_of(config)))


def _projector_map(projector: str) -> KeyMap:
    """Return the table of the projector in any file of it.

    Args:
        projector: its name in the model, "" if the model has none.
    """
    if not projector:
        reason = "the model has no such projector"
        return KeyMap(
            renames=(), drops=tuple(Excuse(pattern, reason) for pattern, _ in PUBLISHED_NAMES)
        )
    return KeyMap(renames=PUBLISHED_NAMES).under(ours=f"{projector}.")


def _is_published_size(directory: str) -> bool:
    composite = read_composite(local_path(directory))
    # A config.json of transformers leaves out what is LLaMA-7B's anyway.
    return (
        composite is not None
        and composite.architecture.get("hidden_size", PUBLISHED_WIDTH) == PUBLISHED_WIDTH
    )


def _describe_stranger(directory: str) -> str:
    folder = local_path(directory)
    expected = (
        "expected a copy of LanguageBind/Video-LLaVA-7B or -7B-hf, or what transformers' "
        "VideoLlavaForConditionalGeneration saved"
    )
    if not folder.is_dir():
        return f"model.released: there is no folder {directory}{way_to_get(directory)}; {expected}"
    names = ", ".join(sorted(item.name for item in folder.iterdir())[:8])
    return (
        f"model.released: {directory} holds no whole Video-LLaVA, decoder and projector together "
        f"(found: {names or 'nothing'}); {expected}"
    )
