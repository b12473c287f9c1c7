"""`video-llama serve`: an OpenAI-compatible API over the chat engine.

    video-llama serve
    curl http://127.0.0.1:8000/v1/models

`POST /v1/chat/completions`, `GET /v1/models`, `GET /health`; see docs/serving.md. One model, one
answer at a time, in order of arrival. Nobody outside of this machine is served unless `--host` says
so, and nothing is fetched from the net unless `--allow-remote` does.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.apps.generation_flags import add_generation_arguments, with_arguments
from video_llama.apps.talk import add_talk_arguments, open_chat
from video_llama.common.config import load
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.yaml_files import assignments

if TYPE_CHECKING:
    from video_llama.apps.serve_service import Service
    from video_llama.conversation.chat import Chat

API_KEY_VARIABLE = "VIDEO_LLAMA_API_KEY"
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    add_talk_arguments(parser)
    add_generation_arguments(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="0.0.0.0 serves the network (default: %(default)s)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    add("--model-name", metavar="NAME", help="what clients call it (default: from the run file)")
    add(
        "--api-key",
        metavar="KEY",
        help=f"ask clients for it; better given as {API_KEY_VARIABLE}, which `ps` does not show",
    )
    add(
        "--allow-origin", action="append", default=[], metavar="URL",
        help="let pages of this site ask from a browser; none may by default",
    )  # fmt: skip
    add(
        "--allow-local-root", action="append", default=[], metavar="DIR", type=Path,
        help="let clients name files below this folder by file://",
    )  # fmt: skip
    add(
        "--allow-remote",
        action="store_true",
        help="fetch http(s) addresses that clients name, public ones only",
    )
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how much may be asked."""
    limits = parser.add_argument_group("limits")

    def number(name: str, default: float, text: str) -> None:
        limits.add_argument(
            f"--{name}",
            type=type(default),
            default=default,
            metavar="S" if name.endswith("-s") else "N",
            help=f"{text} (%(default)g)",
        )

    number("max-waiting", 64, "requests that may wait; more are sent away with 429")
    number("max-body-mib", 64.0, "longest body of a request, in MiB")
    number("max-media", 16, "pictures, clips and sounds of a conversation")
    number("max-media-mib", 48.0, "largest of them, in MiB")
    number("max-duration-s", 600.0, "longest clip or sound, in seconds")
    number("max-megapixels", 34.0, "largest picture or frame, in millions of pixels")
    number("max-chars", 200_000, "text of a conversation, in characters")
    number("decode-timeout-s", 60.0, "until a medium must be decoded, in seconds")
    number("remote-timeout-s", 20.0, "until a remote medium must be here, in seconds")
    number("body-timeout-s", 60.0, "until a body must be here, in seconds")
    number("kept", 64, "conversations kept to go on with")
    number("kept-mib", 512.0, "media that they keep, in MiB")
    number("key-values", 4, "of these, conversations that keep what the decoder has read")
    number("grace-s", 30.0, "until answers on their way must end when the server is told to")


def main(args: argparse.Namespace) -> int:
    """Load the model and serve it until told to end."""
    require_packages()
    _check(args)
    start_logging()
    listener = bind(args.host, args.port)
    with listener:
        service = build_service(args)
        from video_llama.apps.serve_app import build_app
        from video_llama.apps.serve_lifetime import Server

        api_key = args.api_key or os.environ.get(API_KEY_VARIABLE) or None
        app = build_app(service, api_key=api_key, origins=args.allow_origin)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        get_logger().info("serving %s at http://%s:%d/v1", service.model_name, shown, port)
        if api_key is None and host not in ("127.0.0.1", "::1"):
            get_logger().warning("whoever reaches it may ask; %s asks for a key", API_KEY_VARIABLE)
        # An orderly end is no failure; uvicorn raises the signal again when it is done.
        signal.signal(signal.SIGTERM, lambda *_: None)
        Server(app, service=service, grace_s=args.grace_s).run(sockets=[listener])
    return 0


def require_packages() -> None:
    """Look for what serves, before minutes are spent on loading a model.

    Raises:
        ConfigError: it is not installed.
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {' and '.join(missing)}: pip install 'video-llama[demo]'")


def bind(host: str, port: int) -> socket.socket:
    """Take the address to serve at, before minutes are spent on loading a model.

    Raises:
        ConfigError: it cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--host {host} --port {port}: cannot be served at ({reason}); take another port, or "
            "end what is there"
        ) from error
    return listener


def build_service(args: argparse.Namespace) -> Service:
    """Load the model and put together what answers."""
    from video_llama.apps.serve_kept import KeptChats
    from video_llama.apps.serve_media import MediaDoor
    from video_llama.apps.serve_remote import RemoteLimits
    from video_llama.apps.serve_service import Service, ServiceLimits
    from video_llama.apps.serve_talk import Talker, TalkLimits
    from video_llama.conversation.shared import Shared
    from video_llama.processors.limits import MediaLimits

    max_bytes = int(args.max_media_mib * MIB)
    limits = MediaLimits(
        max_duration_s=args.max_duration_s,
        max_pixels=int(args.max_megapixels * 1e6),
        max_bytes=max_bytes,
    )
    chat = open_chat(args, limits=limits, decode_timeout_s=args.decode_timeout_s)
    chat.settings = with_arguments(chat.settings, args)
    chat.shared = Shared(num_caches=args.key_values)
    warm_up(chat)
    door = MediaDoor(
        local_roots=args.allow_local_root,
        remote=RemoteLimits(max_bytes, args.remote_timeout_s) if args.allow_remote else None,
        max_bytes=max_bytes,
    )
    talker = Talker(
        chat,
        door=door,
        kept=KeptChats(max_chats=args.kept, max_bytes=int(args.kept_mib * MIB)),
        limits=TalkLimits(max_media=args.max_media, max_chars=args.max_chars),
    )
    return Service(
        talker,
        model_name=args.model_name or default_name(args),
        limits=ServiceLimits(
            max_waiting=args.max_waiting,
            max_body_bytes=int(args.max_body_mib * MIB),
            body_timeout_s=args.body_timeout_s,
        ),
    )


def warm_up(chat: Chat) -> None:
    """Show the model a picture, so that the first client need not wait for what starts late."""
    from PIL import Image

    try:
        chat.another().upload(Image.new("RGB", (64, 64)))
    except MediaError as error:
        # A model may have no eyes; a decoder that cannot start is worth a word.
        get_logger().info("the picture to warm up with was not taken: %s", error.reason)


def default_name(args: argparse.Namespace) -> str:
    """Return what a model is called unless told otherwise."""
    if args.model_path is not None:
        return Path(args.model_path).resolve().name
    model = load(args.cfg_path, options=list(assignments(args.options))).model
    return f"{model.arch}/{model.model_type}"


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that mean nothing, all at once, before a model is loaded."""
    problems = [
        f"--allow-local-root {root}: no such folder"
        for root in args.allow_local_root
        if not root.is_dir()
    ]
    if args.api_key == "":
        # A variable of a shell that was never set; nobody means to serve everybody by that.
        problems.append("--api-key: empty; give a key, or leave it out to ask for none")
    may_be_zero = ("max_waiting", "kept", "kept_mib", "key_values", "max_media", "grace_s")
    above_zero = (
        "max_body_mib", "max_media_mib", "max_duration_s", "max_megapixels", "max_chars",
        "decode_timeout_s", "remote_timeout_s", "body_timeout_s",
    )  # fmt: skip
    for names, least in ((may_be_zero, "at least 0"), (above_zero, "above 0")):
        for name in names:
            value = getattr(args, name)
            is_enough = value > 0 or (value == 0 and names is may_be_zero)
            if not is_enough or math.isinf(value):
                flag = "--" + name.replace("_", "-")
                problems.append(f"{flag}: {value:g}; expected a number {least}")
    if problems:
        raise ConfigError(problems)
