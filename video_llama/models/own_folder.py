"""What goes into a model's own folder: which tensors, under which config, and the decoder.

The folder's layout is told in `pretrained`; here are the rules it follows.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from video_llama.common.errors import ConfigError
from video_llama.common.hub import local_path
from video_llama.common.schema import ModelConfig
from video_llama.common.sections import model_section
from video_llama.common.sharing import SHARE
from video_llama.models.decoders.lora import ADAPTER_MARK
from video_llama.models.sources import CHECKPOINT_KEYS, named_parts

KEPT_KEYS = ("where_from",)
"""Keys of a preset that are kept although they name no file."""

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def unshared(module: nn.Module) -> dict[str, Tensor]:
    """Return every persistent tensor by name; one that has several names under its first."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


def own_names(
    module: nn.Module, config: ModelConfig, *, restored: Collection[str]
) -> frozenset[str]:
    """Return the tensors that no base file holds as they are now.

    Args:
        module: the model.
        config: its config.
        restored: names that checkpoints filled.
    """
    own = {name for name, p in module.named_parameters() if p.requires_grad} | set(restored)
    for name, part in [*named_parts(config), ("decoder", config.decoder)]:
        if part.file is None:
            own |= _names_of(module, name)
    return frozenset(own)


def folder_section(
    config: ModelConfig, *, module: nn.Module, held: Collection[str], decoder: str | None
) -> dict[str, Any]:
    """Return the `model` section under which a folder is read again.

    Args:
        config: of the model.
        module: the model.
        held: names of the tensors in the folder; a part of nothing else needs no base file.
        decoder: where its weights are.

    Returns:
        Plain containers. Parts take their base files from the keys that named them, so that an
        override of such a key moves them; what ships with the package is named portably.
    """
    section = model_section(config)
    files = {name: part.file for name, part in named_parts(config)}
    files = {name: None if _names_of(module, name) <= set(held) else files[name] for name in files}
    files["decoder"] = decoder
    # Of several keys for one directory the first, which stands for the others.
    keys = reversed(config.paths.items())
    by_path = {path: key for key, path in keys if isinstance(path, str)}
    roles = {by_path[path] for path in files.values() if path in by_path}
    for name, part in _parts_of(section).items():
        path = files[name]
        part["weights"] = f"${{model.{by_path[path]}}}" if path in by_path else _portable(path)
    for key in config.paths:
        if key in roles:
            section[key] = _portable(section[key])
        elif key not in KEPT_KEYS:
            del section[key]
    section["tokenizer"] = _portable(config.tokenizer)
    section.update(dict.fromkeys(CHECKPOINT_KEYS))
    return section


def base_files(section: Mapping[str, Any]) -> dict[str, str]:
    """Return the base files that a folder's section names, by their key."""
    found = {}
    for name, part in _parts_of(section).items():
        path = part["weights"]
        if path is not None and path.startswith("${model."):
            key = path.removeprefix("${model.").removesuffix("}")
            found[key] = section[key]
        elif path is not None:
            found[f"{name}.weights"] = path
    return found


def is_base_of_decoder(name: str) -> bool:
    """Tell whether a tensor is one of those that `save_decoder` writes."""
    return name.startswith("decoder.") and ADAPTER_MARK not in name


def save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; nothing is written if there are none."""
    if state:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, path, metadata={"format": "pt"})


def save_decoder(decoder: nn.Module, folder: Path, *, config: ModelConfig) -> None:
    """Write a language model of transformers and its tokenizer, without adapters.

    Args:
        decoder: of the model.
        folder: where to.
        config: says where the tokenizer is.

    Raises:
        ConfigError: it is not a model of transformers.
    """
    model = getattr(decoder, "model", None)
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"model.decoder: a {config.decoder.type} cannot be saved whole; save without full=True"
        )
    base = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if ADAPTER_MARK not in name
    }
    model.save_pretrained(folder, state_dict=base)
    source = config.tokenizer or config.decoder.file
    if source is not None:
        for name in TOKENIZER_FILES:
            file = local_path(source) / name
            if file.is_file():
                shutil.copyfile(file, folder / name)


def _names_of(module: nn.Module, part: str) -> set[str]:
    """Return the names of a part's persistent tensors in the model."""
    return {f"{part}.{key}" for key in module.get_submodule(part).state_dict()}


def _parts_of(section: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every part of a section by its name in the model."""
    parts = {}
    for name, branch in section["branches"].items():
        parts[f"branches.{name}.encoder"] = branch["encoder"]
        for stage, part in branch["stages"].items():
            if SHARE not in part:
                parts[f"branches.{name}.stages.{stage}"] = part
    return {**parts, "decoder": section["decoder"]}


def _portable(path: str | None) -> str | None:
    """Name what ships with the package so that it is found wherever the package lies."""
    package = str(resources.files("video_llama"))
    if path is None or not Path(path).is_relative_to(package):
        return path
    return f"${{package:{Path(path).relative_to(package).as_posix()}}}"
