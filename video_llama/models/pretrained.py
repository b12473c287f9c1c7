"""A model's own folder: save it, load it again, put it on the hub.

    config.json                the whole `model` section; no preset is needed to read it
    trainable.safetensors      what was trained, and what no base file holds, by our names
    frozen.safetensors         (full) the other tensors of encoders and stages
    decoder/                   (full) the language model with its tokenizer, as transformers has it
    README.md                  a model card

Without `full` the base files stay where they were; config.json names them by path or by their
name on the hub. `model.ckpt` of a run file takes such a folder too.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from torch import nn

from video_llama.common.config import type_model_section
from video_llama.common.errors import ConfigError
from video_llama.common.hub import HubRef, hub_errors, local_path, way_to_get
from video_llama.common.schema import ModelConfig
from video_llama.models.decoders.base import Adapted
from video_llama.models.decoders.low_resource import refuse_reduced
from video_llama.models.model_card import model_card
from video_llama.models.own_folder import (
    base_files,
    folder_section,
    is_base_of_decoder,
    own_names,
    save_decoder,
    save_tensors,
    unshared,
)
from video_llama.models.sources import WEIGHTS_FILE
from video_llama.models.trainable import PartRow

CONFIG_FILE = "config.json"
FROZEN_FILE = "frozen.safetensors"
DECODER_FOLDER = "decoder"
CARD_FILE = "README.md"
RUN_FILE = "config.yaml"
FORMAT = 1
"""Counts changes of this layout that older releases cannot read."""

M = TypeVar("M", bound="Pretrained")


class Pretrained(nn.Module):
    """What `VideoLLM` can do with folders.

    Attributes:
        config: the typed `model` section.
        restored: names of parameters that `ckpt` or `ckpt_2` filled.
    """

    config: ModelConfig
    restored: frozenset[str]

    def rows(self) -> list[PartRow]:
        """Return the table of parts."""
        raise NotImplementedError

    @classmethod
    def from_config(cls: type[M], config: ModelConfig) -> M:
        """Build a model and load the weights its config names, as LAVIS's method of this name."""
        from video_llama.models.loading import build_model

        return build_model(config).model  # type: ignore[return-value]

    @classmethod
    def from_pretrained(cls: type[M], source: str | Path, *, options: Sequence[str] = ()) -> M:
        """Load a folder that `save_pretrained` wrote.

        Args:
            source: the folder, or its name on the hub; nothing is fetched.
            options: overrides, e.g. `model.llama_model=DIR` where a base file has moved.

        Returns:
            The model on the CPU, in evaluation mode, bit for bit as it was saved.

        Raises:
            ConfigError: there is no such folder, or it is not one of ours.
            CheckpointMismatch: a file is missing or does not fit.
        """
        model = cls.from_config(read_folder(source, options=options))
        model.eval()
        return model

    def save_pretrained(
        self, folder: str | Path, *, full: bool = False, run: str | Path | None = None
    ) -> Path:
        """Write the model into a folder of its own.

        Args:
            folder: made if it is not there; files of the same names are replaced.
            full: also everything that was not trained, so that no other file is needed.
            run: folder of the run that trained it; its data and schedule go into the card.

        Returns:
            The folder.

        Raises:
            ConfigError: all shall be saved, and the decoder is in 8 or 4 bits.
        """
        if full:
            refuse_reduced(self.config.low_resource, what="saved whole")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        trained_by = _read_run(run)
        state, own = unshared(self), own_names(self, self.config, restored=self.restored)
        held = frozenset(state) if full else own
        decoder = DECODER_FOLDER if full else self.config.decoder.file
        section = folder_section(self.config, module=self, held=held, decoder=decoder)
        kept = {name for name in own if not (full and is_base_of_decoder(name))}
        save_tensors({name: state[name] for name in state if name in kept}, folder / WEIGHTS_FILE)
        (folder / FROZEN_FILE).unlink(missing_ok=True)
        if full:
            rest = [name for name in state if name not in own and not name.startswith("decoder.")]
            save_tensors({name: state[name] for name in rest}, folder / FROZEN_FILE)
            language_model = self.get_submodule("decoder")
            save_decoder(language_model, folder / DECODER_FOLDER, config=self.config)
            section["tokenizer"] = None
        text = json.dumps({"format": FORMAT, "model": section}, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        card = model_card(
            self.config, rows=self.rows(), bases={} if full else base_files(section), run=trained_by
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        return folder

    def merge_adapters(self) -> None:
        """Make the decoder's adapters (LoRA) part of its weights; what it answers stays the same.

        A folder that is saved afterwards holds the weights that changed, and needs no peft.

        Raises:
            ConfigError: the decoder has no adapters.
        """
        part, decoder = self.config.decoder, cast(Adapted, self.get_submodule("decoder"))
        if getattr(part.config, "lora", None) is None:
            raise ConfigError("model.decoder.lora: there are no adapters to merge")
        merged = decoder.merge_adapters()
        part = dataclasses.replace(part, config=decoder.config, trainable=False, lr=None)
        self.config = dataclasses.replace(self.config, decoder=part)
        self.restored |= {f"decoder.{name}" for name in merged}

    def push_to_hub(
        self,
        repo: str,
        *,
        full: bool = False,
        run: str | Path | None = None,
        private: bool = False,
        message: str = "Upload a video_llama model",
    ) -> str:
        """Write the model's folder and put it on the hub; needs `HF_TOKEN` or a login.

        Args:
            repo: organisation and name; made if it is not there.
            full: as for `save_pretrained`.
            run: as for `save_pretrained`.
            private: of a repository that is made.
            message: of the commit.

        Returns:
            The address of the commit.

        Raises:
            VideoLlamaError: the hub refuses, or cannot be reached.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as folder, hub_errors(HubRef(repo)):
            self.save_pretrained(folder, full=full, run=run)
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        return str(commit.commit_url)


def read_folder(source: str | Path, *, options: Sequence[str] = ()) -> ModelConfig:
    """Return the config of a model's folder, with its weights in place of checkpoints.

    Args:
        source: the folder, or its name on the hub.
        options: overrides, each `model.dotted.key=value`.

    Raises:
        ConfigError: there is no such folder, it is not one of ours, or a key is wrong.
    """
    folder = local_path(source)
    file = folder / CONFIG_FILE
    if not file.is_file():
        what = f"no {CONFIG_FILE} in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{source}: {what}{way_to_get(source)}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error}", where=str(file)) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(
            "not a folder that save_pretrained wrote (no section 'model'); a language model's "
            "directory goes into model.llama_model",
            where=str(file),
        )
    if content.get("format") != FORMAT:
        raise ConfigError(
            f"format {content.get('format')}, this release reads {FORMAT}; install a newer one",
            where=str(file),
        )
    section = content["model"]
    if section["decoder"].get("weights") == DECODER_FOLDER:
        section["decoder"]["weights"] = str(folder / DECODER_FOLDER)
    config = type_model_section(section, options=options, where=str(file))
    trained, frozen = folder / WEIGHTS_FILE, folder / FROZEN_FILE
    if frozen.is_file() and not trained.is_file():
        # Nothing was trained; if something is lost, parts without weights will tell.
        return dataclasses.replace(config, ckpt=str(frozen), ckpt_2=None)
    return dataclasses.replace(
        config, ckpt=str(trained), ckpt_2=str(frozen) if frozen.is_file() else None
    )


def _read_run(run: str | Path | None) -> Mapping[str, Any] | None:
    """Return the resolved run file of a run's folder.

    Raises:
        ConfigError: there is none.
    """
    if run is None:
        return None
    file = Path(run) / RUN_FILE
    if not file.is_file():
        raise ConfigError(f"{run}: not a run's folder, it has no {RUN_FILE}")
    tree: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tree
