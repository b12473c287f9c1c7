"""What the verbs that talk to a model in a terminal have in common: which one, how it loads."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from video_llama.apps.devices import add_device_arguments, device_choice
from video_llama.apps.main import add_config_arguments
from video_llama.common.dist import is_main
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.logger import CONSOLE, get_logger

if TYPE_CHECKING:
    from video_llama.common.schema import Config
    from video_llama.conversation.chat import Chat
    from video_llama.processors.limits import MediaLimits

TOY_RUN_FILE = "eval_configs/toy/shipped.yaml"
"""What is loaded unless told otherwise: the small model that comes with the package."""

FAMILIES = {"vicuna": "vicuna", "llama_v2": "llama_2"}
"""Published values of `--model_type`, and how the names of their templates begin."""

WAYS_TO = {
    "vicuna": "; for Vicuna, --cfg-path eval_configs/video_llama_eval_withaudio.yaml",
    "llama_v2": "; for Video-LLaMA-2 name its folder instead of a run file, --model-path DIR, or "
    "beside one of the published system, --options model.released=DIR (docs/weights_llama2.md)",
}
"""Where a model is that has the family somebody asked for."""


def add_talk_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model is talked to, and where it computes."""
    add_config_arguments(parser, default=TOY_RUN_FILE)
    parser.add_argument(
        "--model-path",
        metavar="DIR|ID",
        help="a run's folder, a model's own folder, or a fetched hub id, instead of --cfg-path",
    )
    parser.add_argument(
        "--model_type",
        choices=sorted(FAMILIES),
        help="prompt family; only checked, the checkpoint knows its own",
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="tell on stderr what is loaded from where"
    )


def config_of(args: argparse.Namespace) -> Config:
    """Return the config of the model that the flags of `add_talk_arguments` name.

    Raises:
        ConfigError: there is none, or it is not of the family that was named.
    """
    from video_llama.apps.loading import open_chat_config

    choice = device_choice(args)
    config = open_chat_config(
        _source(args), options=args.options, device=choice.device, low_resource=choice.low_resource
    )
    check_family(args.model_type, template=config.model.template)
    return config


def open_chat(
    args: argparse.Namespace,
    *,
    limits: MediaLimits | None = None,
    device: str | None = None,
    decode_timeout_s: float | None = None,
) -> Chat:
    """Load the model that the flags of `add_talk_arguments` name.

    Args:
        args: of the command line.
        limits: of what may be shown to it; None for files one trusts.
        device: where it computes, if not where the flags say.
        decode_timeout_s: seconds a file may take to be decoded, in a process of its own; None
            decodes in this one.

    Raises:
        VideoLlamaError: it cannot be loaded, or is not of the family that was named.
    """
    from video_llama.apps.loading import load_chat

    log_to_stderr(verbose=args.verbose)
    if args.model_type is not None:
        config_of(args)
    choice = device_choice(args)
    return load_chat(
        _source(args),
        options=args.options,
        limits=limits,
        device=device or choice.device,
        low_resource=choice.low_resource,
        decode_timeout_s=decode_timeout_s,
    )


def _source(args: argparse.Namespace) -> str:
    """Return what names the model."""
    if args.model_path is not None and args.cfg_path != TOY_RUN_FILE:
        raise ConfigError("--model-path and --cfg-path both name a model; give one of them")
    source: str = args.model_path or args.cfg_path
    return source


def check_family(model_type: str | None, *, template: str) -> None:
    """Refuse a `--model_type` that is not the checkpoint's.

    Raises:
        ConfigError: they disagree.
    """
    if model_type is None or template.startswith(FAMILIES[model_type]):
        return
    fitting = [name for name, start in FAMILIES.items() if template.startswith(start)]
    raise ConfigError(
        f"--model_type {model_type}: the model was trained with the template '{template}'; "
        f"{f'give --model_type {fitting[0]}, or ' if fitting else ''}leave the flag out"
        f"{WAYS_TO[model_type]}"
    )


@contextmanager
def named_failures() -> Iterator[None]:
    """Say what to do where the machine runs out of something; the conversation outlives it.

    Raises:
        VideoLlamaError: instead of what the system or PyTorch raise.
    """
    import torch

    try:
        yield
    except BrokenPipeError:
        # Nobody is there to be told.
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        what = str(error).partition(". ")[0] or "no more than that is known"
        raise VideoLlamaError(
            f"memory ran out ({what}); show fewer frames, lower max_new_tokens, start over with "
            "/reset, or load the model with --load-8bit or --load-4bit"
        ) from error
    except OSError as error:
        raise VideoLlamaError(str(error)) from error


def log_to_stderr(*, verbose: bool) -> None:
    """Send the log of rank zero to stderr; standard output is for answers.

    Args:
        verbose: also what went well, not only what is wrong and what memory it takes.
    """
    logger = get_logger()
    if any(handler.get_name() == CONSOLE for handler in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.set_name(CONSOLE)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.INFO if is_main() else logging.ERROR)
    if not verbose:
        handler.addFilter(_is_told)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def _is_told(record: logging.LogRecord) -> bool:
    """Say whether an event concerns somebody who only wants to talk."""
    return record.levelno >= logging.WARNING or record.module == "chat_memory"
