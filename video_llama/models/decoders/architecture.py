"""What network a decoder is: by its directory's config.json, or by the keys of a run file.

No weight is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.hub import local_path
from video_llama.models.decoders.composite import read_composite
from video_llama.models.decoders.readiness import require_ready

SIZE_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""Where `architecture` and a directory's config.json must agree; the directory decides the rest."""

LOGIT_KEYS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings that change the logits behind the last linear layer (Gemma 2, Cohere, Granite)."""


def read_architecture(
    architecture: Mapping[str, Any] | None, *, weights: str | None
) -> PretrainedConfig:
    """Read config.json where there is one, and compare it with `architecture`.

    Args:
        architecture: keys of a config.json.
        weights: the directory, None for none.

    Raises:
        CheckpointMismatch: the directory holds another network, or needs a step first.
        ConfigError: there is neither, or its logits would be wrong.
    """
    found = _read(dict(architecture or {}), weights)
    unknown = [key for key in LOGIT_KEYS if getattr(found, key, None) not in (None, 1.0)]
    if unknown:
        raise ConfigError(
            f"model.decoder: {found.model_type} changes its logits by {', '.join(unknown)}, which "
            "this decoder would ignore; use a model without it"
        )
    return found


def max_context(architecture: PretrainedConfig, *, wanted: int | None) -> int:
    """Return the longest sequence: as wanted, or the model's own limit.

    Raises:
        ConfigError: the model was not trained on as many positions.
    """
    limit: int | None = getattr(architecture, "max_position_embeddings", None)
    chosen = wanted or limit
    if chosen is None or (limit is not None and chosen > limit):
        raise ConfigError(
            f"model.decoder.max_context: {wanted}, but the decoder was trained on "
            f"{limit or 'an unstated number of'} positions; set at most that"
        )
    return chosen


def _read(wanted: dict[str, Any], weights: str | None) -> PretrainedConfig:
    if weights is not None and torch.get_default_device().type != "meta":
        require_ready(weights, num_words=wanted.get("vocab_size"))
    file = None if weights is None else local_path(weights) / "config.json"
    if file is not None and file.is_file():
        composite = read_composite(file.parent)
        if composite is None:
            found = AutoConfig.from_pretrained(file.parent, local_files_only=True)
        else:
            found = AutoConfig.for_model(**composite.architecture)
        differing = [
            f"{key} {getattr(found, key, None)} (architecture: {wanted[key]})"
            for key in SIZE_KEYS
            if key in wanted and wanted[key] != getattr(found, key, None)
        ]
        if differing:
            raise CheckpointMismatch(
                f"{file}: another network than model.decoder.architecture describes: "
                f"{', '.join(differing)}; take the preset of the directory's size or the "
                "directory of the preset's size"
            )
        return found
    if "model_type" not in wanted:
        raise ConfigError(
            "model.decoder: neither a directory of weights nor an architecture with a model_type; "
            "set model.decoder.weights to a Hugging Face directory"
        )
    return AutoConfig.for_model(**wanted)


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the ids that end an answer, from generation_config.json or config.json."""
    settings = model.generation_config or model.config
    ids = settings.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
