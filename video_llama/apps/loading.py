"""From a run file to a model one can train, measure or talk to.

The one place where the floors meet: the model, its tokenizer and its template come together here
for every verb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.checks import missing_weights
from video_llama.apps.console import wide_console
from video_llama.apps.devices import pick_device
from video_llama.apps.plan_tables import show_parts
from video_llama.apps.vocabulary import check_vocabulary, load_model_tokenizer
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.schema import Config
from video_llama.conversation.chat import Chat
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.layouts import Template
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.models.decoders.attention import require_attention
from video_llama.models.loading import build_model
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.media import MediaCompat, MediaLimits
from video_llama.processors.uploads import UploadReader


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
        ConfigError: files are missing; all of them are named.
        CheckpointMismatch: a file does not fit its part.
    """
    problems = [str(file) for file in missing_weights(config.model)]
    if problems:
        raise ConfigError(problems)
    run_device = pick_device(config.run)
    require_attention(config.model.decoder, device=run_device, precision=config.run.precision)
    loaded = build_model(config.model)
    for report in loaded.reports:
        get_logger().info("loaded %s", report)
    for text in loaded.replaced:
        get_logger().warning("replaced: %s", text)
    for part in loaded.fresh:
        get_logger().info("%s starts from random weights", part)
    model = loaded.model.to(run_device if device is None else device)
    model.eval()
    tokenizer = load_model_tokenizer(config.model)
    check_vocabulary(tokenizer, rows=model.decoder.vocab_size, end_ids=model.decoder.end_ids)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        template=get_template(
            config.model.template,
            frame_times=config.model.frame_times,
            compat=config.model.compat,
        ),
    )


def load_chat(
    cfg_path: str | Path, *, options: Sequence[str] = (), limits: MediaLimits | None = None
) -> Chat:
    """Load everything for a conversation.

    Args:
        cfg_path: run file.
        options: overrides.
        limits: of what may be uploaded; None for files one trusts.
    """
    config = load(cfg_path, options=options)
    loaded = load_model(config)
    media_compat = MediaCompat.named(config.model.compat)
    return Chat(
        loaded.model,
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        reader=UploadReader(loaded.model.branch_specs(), compat=media_compat, limits=limits),
        compat=ChatCompat.named(config.model.compat),
    )


def log_parts(model: VideoLLM) -> None:
    """Print the table of parts on rank zero."""
    show_parts(model, console=wide_console())
