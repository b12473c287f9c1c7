"""The config.json of a Video-LLaVA directory: what it must say so that other code builds the model.

It is computed from the typed config; keys of the directory that the decoder comes from stay where
they say the same, or something else. What the layout has no word for is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.hub import local_path
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.models.decoders.composite import DecoderFolder, read_config, read_decoder_folder
from video_llama.models.released.video_llava import MODALITIES, ORIGINAL, Layout, projector_of
from video_llama.models.sources import named_parts

ACTIVATION = "gelu"
"""Of the published towers and projector; the original layout has no word for another."""

TOWERS = {
    "image": ("clip_vit", "LanguageBind/LanguageBind_Image"),
    "video": ("languagebind", "LanguageBind/LanguageBind_Video_merge"),
}
"""By modality: the type of the tower here, and what the original layout calls it."""

CLIP_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
PORT_DEFAULTS = {
    "image_seq_length": 256,
    "video_seq_length": 2056,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
"""What transformers takes a key for that a config.json leaves out."""


def read_decoder(config: ModelConfig) -> DecoderFolder:
    """Return what is said of the decoder that is exported.

    Raises:
        ConfigError: it has no files.
    """
    if config.decoder.file is None:
        raise ConfigError("model.decoder.weights: there is no decoder to export; name its files")
    return read_decoder_folder(local_path(config.decoder.file))


def require_projector(config: ModelConfig) -> str:
    """Return the name in the model of the projector.

    Raises:
        ConfigError: there is none like Video-LLaVA's.
    """
    projector = projector_of(config)
    if not projector:
        raise ConfigError(
            "model.branches: no mlp in the branches 'image' and 'video'; this model is of another "
            "wiring, its run folder loads as model.ckpt"
        )
    return projector


def unsayable(config: ModelConfig, layout: Layout) -> Iterator[str]:
    """Yield what no directory of a layout can say, so that it would be another model's.

    Args:
        config: of the model.
        layout: of the directory.
    """
    yield from _unsayable_projector(config, layout)
    towers = _towers(config)
    for modality, (kind, _) in TOWERS.items():
        branch = config.branches.get(modality)
        if branch is None:
            continue
        where = f"branches.{modality}.encoder"
        if branch.encoder.type != kind:
            yield f"{where}.type {branch.encoder.type}"
        elif modality == "video" and branch.encoder.config.drop_class_token:
            yield f"{where}.drop_class_token true"
        elif layout != ORIGINAL and not (
            modality == "video" or branch.encoder.config.num_prefix == 0
        ):
            yield f"{where}.drop_class_token false"
    if len({tower.num_layers for tower in towers.values()}) > 1:
        yield "towers that differ in select_layer"
    if layout != ORIGINAL and len({repr(_vision(tower)) for tower in towers.values()}) > 1:
        yield "towers that differ in size or activation"


def _unsayable_projector(config: ModelConfig, layout: Layout) -> Iterator[str]:
    projector = require_projector(config)
    given = dict(named_parts(config))[projector].config
    if given.hidden_width not in (None, given.width):
        yield f"{projector}.hidden_width {given.hidden_width}"
    if layout == ORIGINAL and given.activation != ACTIVATION:
        yield f"{projector}.activation {given.activation}"
    if layout != ORIGINAL and given.depth != 2:
        yield f"{projector}.depth {given.depth}; it has a projector of two maps"


def lossy(config: ModelConfig, layout: Layout) -> Iterator[str]:
    """Yield what the layout's own loader will do otherwise than the model, beside temporal blocks.

    Args:
        config: of the model.
        layout: of the directory.
    """
    for modality in MODALITIES:
        if modality not in config.branches:
            yield f"there is no branch '{modality}', and the layout has two towers"
    if layout == ORIGINAL:
        for modality, tower in _towers(config).items():
            if (found := _activation(tower)) != ACTIVATION:
                yield f"branches.{modality}.encoder.activation is {found}, and its loader has gelu"


def ported_config(config: ModelConfig, decoder: DecoderFolder) -> dict[str, Any]:
    """Return the config.json that transformers' port wants.

    Args:
        config: the typed `model` section; `unsayable` found nothing in it.
        decoder: what its directory says, of all of it if that is the port's too.
    """
    towers = _towers(config)
    tower = next(iter(towers.values()))
    patches = tower.side**2
    frames = towers["video"].num_frames if "video" in towers else 8
    projector = dict(named_parts(config))[require_projector(config)].config
    told = {
        "image_seq_length": patches,
        "video_seq_length": frames * (patches + 1),
        "projector_hidden_act": projector.activation,
        "vision_feature_layer": tower.num_layers - tower.depth - 1,
        "vision_feature_select_strategy": "default",
    }
    if decoder.nested is not None:
        vision = decoder.nested.get("vision_config")
        vision = vision if isinstance(vision, dict) else {"model_type": "clip_vision_model"}
        return {
            **_overlaid(decoder.nested, told, defaults=PORT_DEFAULTS),
            "text_config": dict(decoder.nested["text_config"]),
            "vision_config": _overlaid(vision, _vision(tower), defaults=CLIP_DEFAULTS),
        }
    words = int(decoder.architecture["vocab_size"])
    return {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "model_type": "video_llava",
        "image_token_index": words,
        "video_token_index": words + 1,
        **told,
        "tie_word_embeddings": False,
        "text_config": {**decoder.architecture, "pad_token_id": words + 2},
        "vision_config": {"model_type": "clip_vision_model", **_vision(tower)},
    }


@registry.register("published_config", "video_llava")
def original_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of the original layout; other keys of its own are kept.

    Args:
        config: the typed `model` section.

    Raises:
        ConfigError: the decoder has no files, or there is no projector.
        CheckpointMismatch: the projector is one that it has no word for.
    """
    if found := list(_unsayable_projector(config, ORIGINAL)):
        raise CheckpointMismatch(
            f"the original layout has no word for {'; '.join(found)}; the run's folder loads as "
            "model.ckpt"
        )
    decoder = read_decoder(config)
    projector = require_projector(config)
    depth = dict(named_parts(config))[projector].config.depth
    told: dict[str, Any] = {"mm_projector_type": f"mlp{depth}x_gelu"}
    if towers := _towers(config):
        tower = next(iter(towers.values()))
        told["mm_vision_select_layer"] = tower.num_layers - tower.depth - 1
    if "image" in towers:
        is_patch = towers["image"].num_prefix == 0
        told["mm_vision_select_feature"] = "patch" if is_patch else "cls_patch"
    own = read_config(decoder.folder) or {}
    if "mm_projector_type" in own:
        defaults = {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
        return _overlaid(own, {**told, **_tower_names(config, own)}, defaults=defaults)
    encoder = config.branches[projector.split(".")[1]].encoder.config
    return {
        **decoder.architecture,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **_tower_names(config, own),
        "mm_hidden_size": encoder.out_shape(1).width,
        **told,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "pad_token_id": 0,
    }


def _tower_names(config: ModelConfig, own: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what the original layout calls the towers, null for a branch that is not there."""
    names: dict[str, str | None] = {}
    for modality, (kind, published) in TOWERS.items():
        key, branch = f"mm_{modality}_tower", config.branches.get(modality)
        if branch is None:
            names[key] = None
        elif branch.encoder.type == kind:
            names[key] = own.get(key) or published
        else:
            names[key] = branch.encoder.type
    return names


def _towers(config: ModelConfig) -> dict[str, Any]:
    """Return the configs of the towers that are of the published types."""
    return {
        modality: config.branches[modality].encoder.config
        for modality, (kind, _) in TOWERS.items()
        if modality in config.branches and config.branches[modality].encoder.type == kind
    }


def _activation(tower: Any) -> str:  # noqa: ANN401 - the config of either
    return str(tower.activation or tower.traits.activation)


def _vision(tower: Any) -> dict[str, Any]:  # noqa: ANN401 - the config of either
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.ffn_width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "hidden_act": _activation(tower),
    }


def _overlaid(
    own: Mapping[str, Any], told: Mapping[str, Any], *, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a directory's own keys, with those replaced that say something else."""
    said = {**defaults, **{key: value for key, value in own.items() if value is not None}}
    return {**own, **{k: v for k, v in told.items() if k not in said or said[k] != v}}
