"""`video-llama demo`: a page to talk to a model in a browser (also: python demo_audiovideo.py).

One model serves all visitors, one answer at a time; everybody has a conversation of their own.
Nothing is shared with the internet unless `--share` asks for it, the page fetches nothing from
elsewhere, and no usage data are sent. Uploads are decoded in a child process that may die.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.apps.generation_flags import add_generation_arguments, with_arguments
from video_llama.apps.opening import open_config
from video_llama.apps.stopping import stoppable
from video_llama.apps.talk import add_talk_arguments, open_chat
from video_llama.apps.votes import VoteLog
from video_llama.common.errors import ConfigError
from video_llama.processors.limits import UPLOAD_LIMITS, MediaLimits
from video_llama.processors.upload_folder import UploadFolder

if TYPE_CHECKING:
    from gradio import Blocks

    from video_llama.conversation.chat import Chat

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `demo`; --cfg-path, --model_type, --gpu-id and --options are published."""
    add_talk_arguments(parser)
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens the page to the network")
    page.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    page.add_argument("--share", action="store_true", help="tunnel the page through gradio.live")
    page.add_argument(
        "--votes", type=Path, metavar="FILE",
        help="show thumbs and add votes to this JSONL file (default: no thumbs, nothing is kept)",
    )  # fmt: skip
    pixels, most_bytes = UPLOAD_LIMITS.max_pixels, UPLOAD_LIMITS.max_bytes
    assert pixels is not None
    assert most_bytes is not None
    limits = parser.add_argument_group("what visitors may upload")
    limits.add_argument(
        "--max-upload-gib", type=float, default=most_bytes / GIB, metavar="G",
        help="(default: %(default)g)",
    )  # fmt: skip
    limits.add_argument(
        "--max-duration-s", type=float, default=UPLOAD_LIMITS.max_duration_s, metavar="S",
        help="longest clip or sound, or part of one (default: %(default)g)",
    )  # fmt: skip
    limits.add_argument(
        "--max-megapixels", type=float, default=pixels / 1e6, metavar="M",
        help="largest picture or frame; a small file can unpack to far more (default: %(default)g)",
    )  # fmt: skip
    limits.add_argument(
        "--decode-timeout-s", type=float, default=120.0, metavar="S",
        help="longest that reading one file may take (default: %(default)g)",
    )  # fmt: skip
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Load the model and serve the page until interrupted."""
    gradio_or_error()
    votes = None if args.votes is None else VoteLog(args.votes)
    name = model_name(args)
    chat = open_chat(args, limits=limits_of(args), decode_timeout_s=args.decode_timeout_s)
    chat.settings = with_arguments(chat.settings, args)
    with served(chat, model=name, votes=votes) as page, stoppable():
        try:
            launch(
                page, host=args.host, port=args.port, share=args.share,
                max_bytes=int(args.max_upload_gib * GIB), wait=True,
            )  # fmt: skip
        except KeyboardInterrupt:
            # That is how a page ends; Gradio itself expects it only once it waits.
            print("The page is closed.")
    return 0


def gradio_or_error() -> Any:
    """Import gradio with its usage reports switched off.

    Raises:
        ConfigError: it is not installed.
    """
    # Read by gradio when it is imported; the argument of Blocks alone comes too late.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the demo needs gradio: pip install 'video-llama[demo]'") from error
    return gradio


def limits_of(args: argparse.Namespace) -> MediaLimits:
    """Return what visitors may upload.

    Raises:
        ConfigError: a limit that lets nothing through.
    """
    names = ("max_upload_gib", "max_duration_s", "max_megapixels", "decode_timeout_s")
    problems = [
        f"--{name.replace('_', '-')}: {getattr(args, name):g}, expected more than 0"
        for name in names
        if not getattr(args, name) > 0
    ]
    if problems:
        raise ConfigError(problems)
    return MediaLimits(
        max_duration_s=args.max_duration_s,
        max_pixels=round(args.max_megapixels * 1e6),
        max_bytes=int(args.max_upload_gib * GIB),
    )


def model_name(args: argparse.Namespace) -> str:
    """Return what the page calls its model: its folder, or the preset of its run file.

    Raises:
        ConfigError: there is no such model.
    """
    source = Path(args.model_path or args.cfg_path)
    if args.model_path is not None or source.is_dir():
        return source.resolve().name
    return open_config(args.cfg_path, options=args.options).model.model_type


@contextmanager
def served(chat: Chat, *, model: str, votes: VoteLog | None = None) -> Iterator[Blocks]:
    """Build the page over a folder of its own, and forget everybody with their files at the end.

    Args:
        chat: its model and settings serve everybody.
        model: its name on the page and in votes.
        votes: where they go.
    """
    gradio = gradio_or_error()
    from video_llama.apps.demo_about import about
    from video_llama.apps.demo_handlers import Handlers
    from video_llama.apps.demo_page import build_page
    from video_llama.apps.demo_visits import Visits

    before = os.environ.get("GRADIO_TEMP_DIR")
    # Nobody else may read it, and a killed page's goes with the next; Gradio's is everybody's.
    with UploadFolder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
        try:
            with Visits(chat, folder=folder.path) as visits:
                told = about(chat, model=model, votes=votes)
                handlers = Handlers(
                    visits, gradio=gradio, model=model, votes=votes,
                    examples=[example.path for example in told.examples],
                )  # fmt: skip
                page = build_page(handlers, told, gradio=gradio)
                try:
                    yield page
                finally:
                    page.close(verbose=False)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def launch(
    page: Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    max_bytes: int = GIB,
    wait: bool = False,
) -> str:
    """Open a page to visitors.

    Args:
        page: of `served`.
        host: address to listen at.
        port: None takes the first free one from 7860 on.
        share: through gradio.live.
        max_bytes: of an upload; what is larger is not even received.
        wait: until interrupted.

    Returns:
        Its address.
    """
    from video_llama.apps.demo_about import EXAMPLES
    from video_llama.apps.demo_style import CSS, theme

    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=max_bytes,
        prevent_thread_lock=not wait,
        quiet=not wait,
        allowed_paths=[str(EXAMPLES)],
        theme=theme(gradio_or_error()),
        css=CSS,
        footer_links=["api"],
        # Both would write down or fetch what nobody asked for.
        run_history=False,
        ssr_mode=False,
    )
    return str(url)
