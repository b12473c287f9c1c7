"""Does a tokenizer belong to a decoder? What is certain is refused, what is doubtful is said."""

from __future__ import annotations

from collections.abc import Iterator

from video_llama.common.errors import ConfigError
from video_llama.common.hub import local_path
from video_llama.common.logger import get_logger
from video_llama.common.schema import ModelConfig
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer
from video_llama.datasets.sample_encoder import TextSettings
from video_llama.models.decoders.merging import TOKENIZERS
from video_llama.models.video_llm import VideoLLM

MOST_PADDING = 1024
"""Rows of an embedding beyond its vocabulary that are ordinary: tables are rounded up to multiples
of 64 to 256, and some families leave a few hundred rows free."""


def load_model_tokenizer(config: ModelConfig) -> Tokenizer:
    """Return the tokenizer a model section means: its own directory, or the decoder's.

    Raises:
        ConfigError: there is neither.
    """
    directory = config.tokenizer or config.decoder.file
    if directory is None:
        raise ConfigError(
            "model.tokenizer: the decoder has no directory; name one with a tokenizer"
        )
    return load_tokenizer(local_path(directory))


def text_settings(config: ModelConfig) -> TextSettings:
    """Return how a model section turns conversations into tokens; no weight is read.

    Raises:
        ConfigError: there is no such template, not even in the directory, or no tokenizer.
    """
    tokenizer = load_model_tokenizer(config)
    template = get_template(
        config.template,
        frame_times=config.frame_times,
        compat=config.compat,
        tokenizer=tokenizer,
    )
    return TextSettings(template, tokenizer, max_len=config.max_txt_len)


def has_tokenizer(config: ModelConfig) -> bool:
    """Say whether the directory that a model section takes its tokenizer from holds one."""
    directory = config.tokenizer or config.decoder.file
    return directory is not None and any(
        (local_path(directory) / name).is_file() for name in TOKENIZERS
    )


def keep_to_words(model: VideoLLM, text: TextSettings) -> None:
    """Let a model generate words and end marks only, whatever rows its embedding has besides."""
    model.decoder.silent_ids = text.tokenizer.silent_ids(
        num_rows=model.decoder.vocab_size, stop=text.template.stop
    )


def vocabulary_problems(model: VideoLLM) -> list[str]:
    """Say why a model, its tokenizer and its template do not go together.

    A tokenizer that is not there is no problem.

    Args:
        model: may be on the meta device.
    """
    directory = model.config.tokenizer or model.config.decoder.file
    if directory is None or not local_path(directory).is_dir():
        return []
    decoder = model.decoder
    try:
        text = text_settings(model.config)
        check_vocabulary(text.tokenizer, rows=decoder.vocab_size, end_ids=decoder.end_ids)
    except ConfigError as error:
        return [str(error)]
    return []


def check_vocabulary(
    tokenizer: Tokenizer, *, rows: int, end_ids: frozenset[int] = frozenset()
) -> None:
    """Refuse a tokenizer whose ids the decoder cannot look up; warn of one that looks foreign.

    Args:
        tokenizer: that writes the ids.
        rows: of the decoder's embedding.
        end_ids: that the decoder says end an answer; empty if it does not say.

    Raises:
        ConfigError: text would become ids behind the last row.
    """
    size = tokenizer.engine.size
    if size > rows:
        raise ConfigError(
            f"model.tokenizer: it has {size:,} tokens and the decoder's embedding {rows:,} rows, "
            f"so ids from {rows:,} on cannot be looked up: a tokenizer of another vocabulary; "
            "leave model.tokenizer out to take the one in the decoder's directory"
        )
    for doubt in _doubts(tokenizer, rows=rows, end_ids=end_ids):
        get_logger().warning("%s; is it the decoder's own?", doubt)


def _doubts(tokenizer: Tokenizer, *, rows: int, end_ids: frozenset[int]) -> Iterator[str]:
    unused = rows - tokenizer.vocab_size
    if unused > MOST_PADDING:
        yield (
            f"model.tokenizer: {unused:,} of the decoder's {rows:,} embedding rows belong to no "
            f"token of a tokenizer with {tokenizer.vocab_size:,}"
        )
    if end_ids and tokenizer.eos_id not in end_ids:
        listed = ", ".join(str(i) for i in sorted(end_ids))
        yield (
            f"model.tokenizer: its end token is {tokenizer.eos_id}, the decoder ends at {listed}"
        )
