"""Writes Video-LLaVA as one directory, in the original layout or in those of transformers.

Towers come out whole, with the layers behind the one in use, as they lie in their files. Between
the original layout and the others the vocabulary changes as it did when it was ported: the others
have rows for `<image>`, `<video>` and `<pad>`, filled up to a multiple of 64. The rows that are
new are the mean of the published ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.key_map import KeyMap
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig, PartConfig
from video_llama.common.weights import read_state
from video_llama.models.decoders.composite import FLAT, DecoderFolder
from video_llama.models.directory_export import (
    DECODER,
    LazyTensor,
    lazy,
    require_whole,
    trained_tensors,
    with_adapters,
    with_rows,
    write_directory,
)
from video_llama.models.own_folder import TOKENIZER_FILES
from video_llama.models.released.video_llava import (
    HF,
    MODALITIES,
    ORIGINAL,
    TEMPORAL,
    TRANSFORMERS5,
    Layout,
    layout_of,
    projector_of,
)
from video_llama.models.released.video_llava_config import (
    lossy,
    original_config,
    ported_config,
    read_decoder,
    require_projector,
    unsayable,
)
from video_llama.models.sources import named_parts

FORMATS = {layout.name: layout for layout in (ORIGINAL, HF, TRANSFORMERS5)}
BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""In files of old releases of transformers; counted, not learnt, and not written."""

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
NEW_WORDS, ROWS_MULTIPLE = 3, 64
PROJECTOR = "model.mm_projector."
POSITIONS = "embeddings.position_embedding.weight"
ALONE = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm", "head")
"""How the names of a tower begin in a file of its own, with or without `vision_model.`."""

COPIED = (
    *(*TOKENIZER_FILES, "generation_config.json", "chat_template.json", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)

Tensors = dict[str, LazyTensor]


@registry.register("directory_export", "video_llava")
def export_directory(config: ModelConfig, *, out: Path, layout: str, is_lossy: bool) -> list[str]:
    """Write the model of a config as one directory.

    Args:
        config: the typed `model` section; every part needs weights.
        out: the directory; must not exist.
        layout: one of `FORMATS`.
        is_lossy: leave out temporal blocks that the layout has no place for, or write a directory
            that lacks them or a tower, or whose loader has another activation.

    Returns:
        The names in it.

    Raises:
        ConfigError: the decoder has no weights, or there is no projector.
        CheckpointMismatch: something has no place or no word in the layout, or parts are not whole.
        VideoLlamaError: the place is taken, or the disk is full.
    """
    target = FORMATS[layout]
    decoder = read_decoder(config)
    require_projector(config)
    tensors = _collect(config, is_tied=bool(decoder.architecture.get("tie_word_embeddings")))
    require_whole(config, tensors, names=_to_ours(config).invert())
    tensors = _without_loss(tensors, target, is_lossy=is_lossy)
    _refuse_other_words(config, tensors, target, is_lossy=is_lossy)
    rows = _rows(decoder, target, tensors)
    names = {name: _name_in(target, name) for name in tensors}
    written = {
        names[name]: with_rows(tensor, rows) if name in VOCABULARY else tensor
        for name, tensor in tensors.items()
    }
    is_ported = target != ORIGINAL
    whole = ported_config(config, decoder) if is_ported else original_config(config)
    (whole["text_config"] if is_ported else whole)["vocab_size"] = rows
    copies = [decoder.folder / name for name in COPIED if (decoder.folder / name).is_file()]
    write_directory(out, written, config=whole, copies=copies)
    return list(written)


def _collect(config: ModelConfig, *, is_tied: bool) -> Tensors:
    """Return every tensor by its original name, as it would be after loading.

    Args:
        config: of the model.
        is_tied: the decoder's head is its table of words, and in no file.
    """
    parts = {"": config.decoder}
    for modality in MODALITIES:
        if modality in config.branches:
            parts[ORIGINAL.tower_of(modality)] = config.branches[modality].encoder
    parts[PROJECTOR] = dict(named_parts(config))[projector_of(config)]
    held = {
        name: tensor
        for prefix, part in parts.items()
        for name, tensor in _read_part(part, prefix=prefix)
    }
    trained = trained_tensors(config)
    ours = _to_ours(config).invert()
    for name, tensor in trained.tensors.items():
        original = ours.translate(name)
        if original is None:
            raise CheckpointMismatch(
                f"model.ckpt: {name} has no name in the layouts of Video-LLaVA; this model is of "
                "another wiring, and its run folder loads as model.ckpt"
            )
        held[original] = tensor
    table, head = VOCABULARY
    if head not in held and table in held and is_tied:
        held[head] = held[table]
    lora = getattr(config.decoder.config, "lora", None)
    return with_adapters(held, trained.adapters, lora=lora)


def _read_part(part: PartConfig, *, prefix: str) -> Iterator[tuple[str, LazyTensor]]:
    """Yield what a part's file holds of it, by original names."""
    if part.file is None:
        return
    state = read_state(part.file)
    layout = layout_of(state)
    if layout is not None:
        key_map = layout.to_original()
    elif not prefix:
        key_map = FLAT
    elif prefix == PROJECTOR:
        pairs = (
            (f"{above}mm_projector.**", f"{PROJECTOR}**")
            for above in ("model.", "base_model.model.model.")
        )
        key_map = KeyMap(renames=tuple(pairs))
    else:
        key_map = KeyMap(
            renames=tuple(
                (f"{above}{name}.**", f"{prefix}{name}.**")
                for above in ("vision_model.", "")
                for name in ALONE
            )
        )
    others = (PROJECTOR, *map(ORIGINAL.tower_of, MODALITIES))
    for name in state:
        original = key_map.translate(name)
        if original is None or original.endswith(BUFFERS):
            continue
        if original.startswith(prefix) if prefix else not original.startswith(others):
            yield original, lazy(state, name)


def _to_ours(config: ModelConfig) -> KeyMap:
    """Return the map from original names to the model's, of names without a layout's quirks."""
    towers = [
        (f"{ORIGINAL.tower_of(each)}**", f"branches.{each}.encoder.**") for each in MODALITIES
    ]
    projector = (f"{PROJECTOR}**", f"{projector_of(config)}.layers.**")
    return KeyMap(renames=(*towers, projector, ("**", f"{DECODER}**")))


def _without_loss(tensors: Tensors, target: Layout, *, is_lossy: bool) -> Tensors:
    """Refuse what would silently make another model, or leave it out where that is asked for."""
    temporal = [name for name in tensors if TEMPORAL in name]
    has_video = any(name.startswith(ORIGINAL.tower_of("video")) for name in tensors)
    if temporal and target != ORIGINAL and not is_lossy:
        raise CheckpointMismatch(
            f"the layout '{target.name}' has no place for the temporal blocks of the video tower "
            f"({len(temporal)} tensors): what it holds would be another model; write 'original', "
            "or add --lossy to leave them out"
        )
    if has_video and not temporal and target == ORIGINAL and not is_lossy:
        raise CheckpointMismatch(
            "the original layout has temporal blocks in its video tower, and these weights have "
            "none; name LanguageBind_Video_merge as model.video_tower, or add --lossy"
        )
    return (
        tensors if target == ORIGINAL else {n: t for n, t in tensors.items() if n not in temporal}
    )


def _refuse_other_words(
    config: ModelConfig, tensors: Tensors, target: Layout, *, is_lossy: bool
) -> None:
    """Refuse what config.json cannot say, for its loader would build another model.

    Raises:
        CheckpointMismatch: there is such a thing.
    """
    found = list(unsayable(config, target))
    for modality in MODALITIES:
        table = tensors.get(f"{ORIGINAL.tower_of(modality)}{POSITIONS}")
        if table is None or modality not in config.branches:
            continue
        encoder = config.branches[modality].encoder.config
        if table.shape[0] != encoder.side**2 + 1:
            found.append(
                f"branches.{modality}.encoder.image_size {encoder.image_size}, for which the "
                f"{table.shape[0]} positions of its file are resized"
            )
    if found:
        raise CheckpointMismatch(
            f"the layout '{target.name}' has no word for {'; '.join(found)}: what it holds would "
            "be another model; its own folder has (save_pretrained)"
        )
    if not is_lossy and (found := list(lossy(config, target))):
        raise CheckpointMismatch(
            f"the layout '{target.name}': {'; '.join(found)}; add --lossy to write it all the same"
        )


def _name_in(target: Layout, name: str) -> str:
    found = target.to_original().invert().translate(name)
    if found is None:
        raise CheckpointMismatch(f"{name} has no name in the layout '{target.name}'")
    return found


def _rows(decoder: DecoderFolder, target: Layout, tensors: Tensors) -> int:
    """Return how many words the tables of the target have."""
    rows = tensors[VOCABULARY[0]].shape[0]
    if decoder.nested is None and target != ORIGINAL:
        return -(-(rows + NEW_WORDS) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    if decoder.nested is not None and target == ORIGINAL:
        return min(rows, int(decoder.nested.get("image_token_index", rows)))
    return rows
