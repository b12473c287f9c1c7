"""From a run file to a model one can train, measure or talk to.

The one place where the floors meet: the model, its tokenizer and its template come together here
for every verb.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from video_llama.apps.chat_memory import WITH_PEAKS, accelerator, free_bytes, log_measured, log_plan
from video_llama.apps.checks import meta_model, missing_weights
from video_llama.apps.console import wide_console
from video_llama.apps.devices import pick_device
from video_llama.apps.opening import open_config
from video_llama.apps.plan_chat import ChatPlan
from video_llama.apps.plan_memory import CONTEXT_BYTES, GIB
from video_llama.apps.plan_tables import show_parts
from video_llama.apps.vocabulary import check_vocabulary, keep_to_words, text_settings
from video_llama.common.dist import read_world
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.logger import get_logger
from video_llama.common.schema import Config, LowResource, ModelConfig
from video_llama.common.types import MediaKind
from video_llama.common.yaml_files import assignments
from video_llama.conversation.chat import Chat
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.layouts import Template
from video_llama.conversation.shared import MEDIA_GIB, NUM_CACHES, Shared
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.models.decoders.attention import require_attention
from video_llama.models.decoders.low_resource import require_bitsandbytes
from video_llama.models.decoders.placement import Placement, check_placement, memory_for_decoder
from video_llama.models.fidelity import fidelity_of
from video_llama.models.loading import build_model
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.limits import MediaLimits
from video_llama.processors.media import MediaCompat
from video_llama.processors.nursery import nursery
from video_llama.processors.probe import probe
from video_llama.processors.uploads import SupervisedUploads, UploadReader

WORKING_BYTES = CONTEXT_BYTES + 2 * GIB
"""Left free on every GPU where a decoder is spread over several: for key-values and computing."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with what it reads and speaks.

    Attributes:
        model: on its device, in eval mode.
        tokenizer: of its decoder.
        template: its prompt format.
    """

    model: VideoLLM
    tokenizer: Tokenizer
    template: Template


def load_model(config: Config, *, device: str | None = None) -> LoadedModel:
    """Build the model of a run file, load its weights, and log where they came from.

    Args:
        config: the typed run file.
        device: None takes `run.device`.

    Raises:
        ConfigError: files are missing, or something cannot be had here; all of it is named.
        CheckpointMismatch: a file does not fit its part.
    """
    require_files(config.model)
    run_device = pick_device(config.run)
    require_attention(config.model.decoder, device=run_device, precision=config.run.precision)
    placement = place(config, device=device or run_device)
    loaded = build_model(config.model, placement=placement)
    for report in loaded.reports:
        get_logger().info("loaded %s", report)
    for sentence in loaded.replaced:
        get_logger().warning("replaced: %s", sentence)
    for part in loaded.fresh:
        get_logger().info("%s starts from random weights", part)
    log_fidelity(config.model)
    model = loaded.model
    model.eval()
    text = text_settings(config.model)
    check_vocabulary(text.tokenizer, rows=model.decoder.vocab_size, end_ids=model.decoder.end_ids)
    keep_to_words(model, text)
    return LoadedModel(model=model, tokenizer=text.tokenizer, template=text.template)


def log_fidelity(config: ModelConfig) -> None:
    """Log how near a model is to what was published, if its system says so."""
    judged = fidelity_of(config)
    if judged is not None:
        level = logging.INFO if judged.is_exact and not judged.notes else logging.WARNING
        get_logger().log(level, "fidelity to what was published: %s", judged)


def require_files(config: ModelConfig) -> None:
    """Refuse a model whose files are not there.

    Raises:
        ConfigError: with all that are missing.
    """
    problems = [str(file) for file in missing_weights(config)]
    if problems:
        raise ConfigError(problems)


def load_chat(
    cfg_path: str | Path,
    *,
    options: Sequence[str] = (),
    limits: MediaLimits | None = None,
    device: str | None = None,
    low_resource: LowResource | None = None,
    decode_timeout_s: float | None = None,
) -> Chat:
    """Load everything for a conversation.

    Args:
        cfg_path: a run file; or a folder: a model's own, a run's, or a release, also by the name
            on the hub of what was fetched from there.
        options: overrides.
        limits: of what may be uploaded; None for files one trusts.
        device: in place of `run.device`.
        low_resource: in place of `model.low_resource`.
        decode_timeout_s: seconds an upload may take to be decoded, in a process of its own that
            may crash; None decodes in this one.

    Raises:
        VideoLlamaError: the path means no model, a key is wrong, or weights do not fit.
    """
    config = open_chat_config(cfg_path, options=options, device=device, low_resource=low_resource)
    require_files(config.model)
    where = pick_device(config.run)
    plan = log_plan(config.model, device=where)
    if decode_timeout_s is not None:
        # The process that decodes imports its libraries while the model is loaded.
        nursery()
    loaded = load_model(config)
    log_measured(loaded.model, device=where)
    reader = UploadReader(
        loaded.model.branch_specs(), compat=MediaCompat.named(config.model.compat), limits=limits
    )
    return Chat(
        loaded.model,
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        reader=reader
        if decode_timeout_s is None
        else SupervisedUploads(reader, timeout_s=decode_timeout_s),
        compat=ChatCompat.named(config.model.compat),
        shared=_shared(plan, device=where),
    )


def _shared(plan: ChatPlan | None, *, device: str) -> Shared:
    """Return a turnstile that keeps the key-values of as many conversations as fit a GPU."""
    free = free_bytes(device)
    if plan is None or free is None:
        return Shared()
    return Shared(num_caches=plan.num_caches(free - int(MEDIA_GIB * GIB), most=NUM_CACHES))


def open_chat_config(
    cfg_path: str | Path,
    *,
    options: Sequence[str] = (),
    device: str | None = None,
    low_resource: LowResource | None = None,
) -> Config:
    """Return the config that `load_chat` loads, see there; nothing else is read."""
    words = assignments(options)
    if device is not None:
        words.append(f"run.device={device}")
    if low_resource is not None:
        words.append(f"model.low_resource={low_resource}")
    return open_config(cfg_path, options=words)


def check_media(config: Config, paths: Iterable[str | Path]) -> None:
    """Refuse files that a model takes nothing of, before its weights are read.

    Args:
        config: of the model, e.g. from `open_chat_config`.
        paths: files, or folders of frames.

    Raises:
        MediaError: a file cannot be read, or nothing in it is for this model.
    """
    takes = kinds_taken(config)
    for path in paths:
        info = probe(Path(path))
        present = [info.kind, *(["audio"] if info.kind == "video" and info.has_audio else [])]
        if not takes.intersection(present):
            raise MediaError(
                f"this is {' with '.join(present)}, and the model takes "
                f"{', '.join(sorted(takes)) or 'no media at all'}; choose a file it takes, or a "
                "model with a branch for this one",
                path=str(path),
            )


def kinds_taken(config: Config) -> set[MediaKind]:
    """Return the kinds of media that a model has a branch for."""
    return {kind for branch in config.model.branches.values() for kind in branch.media}


def place(config: Config, *, device: str) -> Placement:
    """Return where a model is loaded to, checked before a weight is read.

    Args:
        config: the typed run file.
        device: of the model.

    Raises:
        ConfigError: it cannot be loaded there, or not in so few bits.
    """
    run, low_resource = config.run, config.model.low_resource
    require_bitsandbytes(low_resource, device=device)
    if run.device_map != "none" and read_world().size > 1:
        raise ConfigError(
            "run.device_map: every one of several processes would take all GPUs; start one "
            "process, or set run.device_map: none"
        )
    kind = torch.device(device).type
    most = None
    if run.device_map == "auto" and kind in WITH_PEAKS:
        gpus = accelerator(kind)
        free = {gpu: gpus.mem_get_info(gpu)[0] for gpu in range(gpus.device_count())}
        branches = meta_model(config.model).branches
        most = memory_for_decoder(
            free,
            branch_bytes=sum(t.nbytes for t in (*branches.parameters(), *branches.buffers())),
            reserve_bytes=WORKING_BYTES,
        )
    placement = Placement(device, device_map=run.device_map, max_memory=most)
    check_placement(placement, low_resource=low_resource)
    return placement


def log_parts(model: VideoLLM) -> None:
    """Print the table of parts on rank zero."""
    show_parts(model, console=wide_console())
