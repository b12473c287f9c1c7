"""`video-llama demo`: a Gradio page over the chat object (also: python demo_audiovideo.py).

One model serves all visitors, one answer at a time; everybody has a conversation of their own.
Nothing is shared with the internet unless `--share` asks for it, and no usage data are sent.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.apps.chat import TOY_RUN_FILE, add_generation_arguments, with_arguments
from video_llama.apps.main import add_config_arguments
from video_llama.common.config import load
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.logger import start_logging
from video_llama.common.types import VideoSpec
from video_llama.common.yaml_files import assignments
from video_llama.processors.media import MediaLimits

if TYPE_CHECKING:
    from gradio import Blocks
    from PIL.Image import Image

    from video_llama.conversation.chat import Chat, Upload

TITLE = "Video-LLaMA"
FAMILIES = {"vicuna": "vicuna", "llama_v2": "llama_2"}
"""Published values of `--model_type`, and how the names of their templates begin."""

SESSION_S = 3600
"""A visitor who is away for longer is forgotten, so that old tokens do not fill the memory."""

MAX_PIXELS = 8192 * 8192
"""Largest picture or frame a visitor may upload; a small file can unpack to far more."""

Turns = list[dict[str, Any]]
"""What Gradio's chatbot shows: role and content of every message."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `demo`; the first four are the published ones."""
    add_config_arguments(parser, default=TOY_RUN_FILE)
    parser.add_argument("--gpu-id", type=int, metavar="N", help="GPU to use (default: run.device)")
    parser.add_argument(
        "--model_type",
        choices=sorted(FAMILIES),
        help="prompt family; only checked, the checkpoint knows its own",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens the page to the network")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument(
        "--max-duration-s", type=float, default=3600, metavar="S",
        help="longest clip or sound a visitor may upload (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="tunnel the page through gradio.live")
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Load the model and serve the page until interrupted."""
    gradio_or_error()
    start_logging()
    from video_llama.apps.loading import load_chat

    device = [] if args.gpu_id is None else [f"run.device=cuda:{args.gpu_id}"]
    options = [*assignments(args.options), *device]
    if args.model_type is not None:
        config = load(args.cfg_path, options=options)
        check_family(args.model_type, template=config.model.template)
    limits = MediaLimits(max_duration_s=args.max_duration_s, max_pixels=MAX_PIXELS)
    chat = load_chat(args.cfg_path, options=options, limits=limits)
    chat.settings = with_arguments(chat.settings, args)
    page = build_page(chat)
    page.launch(server_name=args.host, server_port=args.port, share=args.share, max_file_size="1gb")
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


def check_family(model_type: str | None, *, template: str) -> None:
    """Refuse a `--model_type` that is not the checkpoint's.

    Raises:
        ConfigError: they disagree.
    """
    if model_type is not None and not template.startswith(FAMILIES[model_type]):
        raise ConfigError(
            f"--model_type {model_type}: the model was trained with the template '{template}'; "
            "leave the flag out, or choose another --cfg-path"
        )


class Handlers:
    """What the page's buttons do, free of layout.

    Args:
        chat: its model and settings serve everybody; every visitor gets `chat.another()`.
        gradio: the module, handed in because it is imported on demand.
    """

    def __init__(self, chat: Chat, *, gradio: Any) -> None:
        self._chat = chat
        self._gradio = gradio

    def start(self, file: str | None, chat: Chat | None, turns: Turns) -> tuple[Any, ...]:
        """Show the model a file: (chat, turns, frames, question box)."""
        if not file:
            raise self._gradio.Error("Choose a video, a picture or a sound first.")
        chat = chat or self._chat.another()
        try:
            upload = chat.upload(file)
        except VideoLlamaError as error:
            raise self._error(error, file) from error
        turns = [*turns, {"role": "user", "content": {"path": file}}]
        turns += [{"role": "assistant", "content": note} for note in upload.notes]
        return chat, turns, gallery(upload), self._gradio.Textbox(interactive=True)

    def ask(self, question: str, turns: Turns) -> tuple[str, Turns]:
        """Move the question from its box into the conversation."""
        if not question.strip():
            raise self._gradio.Error("Type a question first.")
        return "", [*turns, {"role": "user", "content": question}]

    def answer(
        self,
        turns: Turns,
        chat: Chat | None,
        temperature: float,
        max_new_tokens: int,
        num_beams: int = 1,
    ) -> Iterator[Turns]:
        """Answer the last question, growing the conversation piece by piece.

        Beams are not drawn, so they are followed at temperature 0 only.
        """
        if chat is None:
            raise self._gradio.Error("Upload a file first.")
        question = turns[-1]["content"]
        settings = dataclasses.replace(
            chat.settings,
            temperature=temperature,
            max_new_tokens=int(max_new_tokens),
            num_beams=int(num_beams) if temperature == 0 else 1,
        )
        said = ""
        try:
            for piece in chat.stream(text_of(question), settings=settings):
                said += piece
                yield [*turns, {"role": "assistant", "content": said}]
        except VideoLlamaError as error:
            raise self._error(error) from error
        notes = [{"role": "assistant", "content": note} for note in chat.take_notes()]
        yield [*turns, {"role": "assistant", "content": said or "(no words)"}, *notes]

    def stop(self, chat: Chat | None) -> None:
        """End the answer being given."""
        if chat is not None:
            chat.stop()

    def clear(self, chat: Chat | None) -> tuple[Any, ...]:
        """Forget everything: (file, chat, turns, frames, question box)."""
        if chat is not None:
            chat.reset()
        return None, None, [], [], self._gradio.Textbox(value="", interactive=False)

    def _error(self, error: VideoLlamaError, file: str = "") -> Exception:
        """Say an error on the page, without the folder Gradio keeps uploads in."""
        text = str(error)
        return self._gradio.Error(text.replace(file, Path(file).name) if file else text)


def text_of(content: Any) -> str:
    """Return the words of a chatbot message, whose content Gradio may turn into a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def gallery(upload: Upload) -> list[tuple[Image, str]]:
    """Return the pictures the model really sees, with their seconds."""
    from PIL import Image

    shown = []
    for item, spec in zip(upload.items, upload.specs, strict=True):
        if item.pixels is None or not isinstance(spec.spec, VideoSpec):
            continue
        mean = item.pixels.new_tensor(spec.spec.mean)[:, None, None]
        std = item.pixels.new_tensor(spec.spec.std)[:, None, None]
        pictures = ((item.pixels * std + mean) * 255).round().clamp(0, 255).byte()
        for picture, time_s in zip(pictures, item.times_s, strict=True):
            caption = f"{time_s:.1f} s" if item.kind == "video" else "picture"
            shown.append((Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()), caption))
    return shown


def build_page(chat: Chat) -> Blocks:
    """Lay the page out and wire it; launching is the caller's business."""
    gr = gradio_or_error()
    handlers = Handlers(chat, gradio=gr)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\nUpload a video, a picture or a sound, then ask about it.")
        session = gr.State(None, time_to_live=SESSION_S)
        with gr.Row():
            with gr.Column(scale=2):
                file = gr.File(
                    label="Video, picture or sound", file_types=["video", "image", "audio"]
                )
                start = gr.Button("Upload & start", variant="primary")
                frames = gr.Gallery(label="What the model sees", columns=4, height=320)
                with gr.Accordion("Settings", open=False):
                    temperature = gr.Slider(
                        0, 2, value=chat.settings.temperature, step=0.1, label="Temperature"
                    )
                    longest = gr.Slider(
                        1, 1000, value=chat.settings.max_new_tokens, step=1, label="Longest answer"
                    )
                    beams = gr.Slider(1, 10, value=chat.settings.num_beams, step=1, label="Beams")
            with gr.Column(scale=3):
                turns = gr.Chatbot(label=TITLE, height=480, buttons=["copy"])
                question = gr.Textbox(
                    label="Question", placeholder="What happens?", interactive=False
                )
                with gr.Row():
                    stop, clear = gr.Button("Stop"), gr.Button("Clear")
        # One answer at a time over all visitors; stopping must not wait in the same line.
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model"}
        start.click(
            handlers.start,
            [file, session, turns],
            [session, turns, frames, question],
            **one_at_a_time,
        )
        asked = question.submit(handlers.ask, [question, turns], [question, turns])
        answering = asked.success(
            handlers.answer, [turns, session, temperature, longest, beams], turns, **one_at_a_time
        )
        stop.click(handlers.stop, session, None, queue=False)
        for forget in (clear.click, turns.clear):
            # An answer that goes on would write itself into the emptied page.
            forget(None, None, None, cancels=[answering]).then(
                handlers.clear, session, [file, session, turns, frames, question], queue=False
            )
    return page
