"""What stands where on the demo page, and its words; no button does anything yet.

Two columns, files and settings to the left of the conversation, which stand below each other on
a narrow window. `demo_page` wires it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from video_llama.apps.demo_about import About, Example
from video_llama.common.generation import GenerationSettings

TITLE = "Video-LLaMA"

WELCOME = """### Ask a video, a picture or a sound
1. Choose a file on the left, record one, or take an example.
2. Press **Upload & start**.
3. Ask. Every answer knows what was said before; more files can join at any time."""

READY, NOT_READY = "Ask about what you showed", "Upload a file first"

NOTHING_SEEN = "<p class='empty'>Frames and sound, as the model gets them, appear here.</p>"


@dataclass(frozen=True)
class Files:
    """The left column's components that choose a file."""

    video: Any
    picture: Any
    sound: Any
    start_s: Any
    end_s: Any
    frames: Any
    listen: Any
    start: Any
    examples: Sequence[tuple[Any, Sequence[Example]]]

    @property
    def boxes(self) -> list[Any]:
        """Where files are dropped."""
        return [self.video, self.picture, self.sound]

    @property
    def span(self) -> list[Any]:
        """What of a file is shown to the model."""
        return [self.start_s, self.end_s, self.frames, self.listen]


@dataclass(frozen=True)
class Talk:
    """The right column's components."""

    turns: Any
    status: Any
    saw: Any
    question: Any
    send: Any
    stop: Any
    again: Any
    undo: Any
    clear: Any


@dataclass(frozen=True)
class Layout:
    """All that a visitor can touch."""

    files: Files
    knobs: Sequence[Any]
    talk: Talk


def lay_out(about: About, *, gradio: Any) -> Layout:
    """Lay the page out, inside an open `gradio.Blocks`.

    Args:
        about: what it says of its model.
        gradio: the module, handed in because it is imported on demand.
    """
    gr = gradio
    gr.HTML(_heading(about), padding=False)
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=2, min_width=340, elem_classes="left"):
            files = _files(about, gr=gr)
            knobs = _knobs(about.settings, gr=gr)
        with gr.Column(scale=3, min_width=340, elem_classes="right"):
            talk = _talk(gr=gr)
    gr.HTML(_small_print(about), padding=False)
    return Layout(files, knobs, talk)


def _heading(about: About) -> str:
    can = [word for word, able in (("sees", about.num_frames), ("hears", about.hears)) if able]
    chips = [f"model {about.model}", f"template {about.template}", " and ".join(can)]
    spans = "".join(f"<span>{html.escape(chip)}</span>" for chip in chips if chip)
    return f"<header class='top'><h1>{TITLE}</h1><div class='chips'>{spans}</div></header>"


def _small_print(about: About) -> str:
    kept = (
        "Files stay on this machine. They are deleted when you press Clear, close the page, or do "
        "nothing for an hour."
    )
    if about.votes is not None:
        kept += (
            " A thumb up or down is kept with the question, the answer, the settings and a hash "
            f"of the media in {html.escape(about.votes.name)}; the media are not."
        )
    return f"<p class='small'>{kept}</p>"


def _files(about: About, *, gr: Any) -> Files:
    """Where a file is chosen, and what of it is used."""
    with gr.Tabs(selected="video" if about.num_frames else "sound", elem_classes="boxes"):
        with gr.Tab("Video", id="video", visible=about.num_frames > 0):
            video = gr.Video(
                elem_id="video",
                label="Video",
                sources=["upload", "webcam"],
                height=270,
                include_audio=True,
            )
            clips = _examples(about, "video", gr=gr)
        with gr.Tab("Picture", id="picture", visible=about.num_frames > 0):
            picture = gr.Image(
                elem_id="picture", label="Picture", sources=["upload", "webcam", "clipboard"],
                type="filepath", image_mode=None, height=270, buttons=[],
            )  # fmt: skip
            pictures = _examples(about, "picture", gr=gr)
        with gr.Tab("Sound", id="sound", visible=about.hears):
            sound = gr.Audio(
                elem_id="sound", label="Sound", sources=["upload", "microphone"], type="filepath",
                editable=False, buttons=[],
            )  # fmt: skip
            sounds = _examples(about, "sound", gr=gr)
    listen = gr.Checkbox(
        value=about.hears, interactive=about.hears, label="Listen to a video's sound",
        info=None if about.hears else "This model has no audio branch: it cannot hear.",
    )  # fmt: skip
    start = gr.Button("Upload & start", variant="primary", size="lg")
    with gr.Accordion("Which part of a clip, how many frames", open=False):
        with gr.Row():
            start_s = gr.Number(
                label="From second", value=0, minimum=0, info="of the file", min_width=110
            )
            end_s = gr.Number(
                label="To second", value=0, minimum=0, info="0 is its end", min_width=110
            )
        frames = gr.Slider(
            1, about.most_frames, value=about.num_frames or 1, step=1,
            label="Frames", info=f"spread over the part; trained with {about.num_frames}",
            visible=about.num_frames > 0,
        )  # fmt: skip
    examples = [*clips, *pictures, *sounds]
    return Files(video, picture, sound, start_s, end_s, frames, listen, start, examples)


def _examples(about: About, kind: str, *, gr: Any) -> list[tuple[Any, Sequence[Example]]]:
    """Lay out the examples of a kind, if there are any: where one clicks, and what is there."""
    chosen = [example for example in about.examples if example.kind == kind]
    if not chosen:
        return []
    box = gr.Dataset(
        label="Examples", components=["textbox"], type="index", layout="gallery",
        samples=[[example.path.name] for example in chosen],
        sample_labels=[example.told for example in chosen],
        elem_classes="examples",
    )  # fmt: skip
    return [(box, chosen)]


def _knobs(settings: GenerationSettings, *, gr: Any) -> list[Any]:
    """How answers are generated, in the order of `demo_handlers.KNOBS`."""
    with gr.Accordion("How it answers", open=False, elem_classes="later"):
        return [
            gr.Slider(
                0, 2, value=settings.temperature, step=0.1, label="Temperature",
                info="0 gives the likeliest answer, the same every time",
            ),
            gr.Slider(
                0.05, 1, value=settings.top_p, step=0.05, label="Top-p",
                info="draws from the likeliest words that hold this probability",
            ),
            gr.Number(
                value=settings.seed, precision=0, label="Seed", info="of the draws",
            ),
            gr.Slider(
                1, 10, value=settings.num_beams, step=1, label="Beams",
                info="answers followed side by side; 1 is off, more need temperature 0",
            ),
            gr.Slider(
                1, max(1000, settings.max_new_tokens), value=settings.max_new_tokens, step=1,
                label="Longest answer", info="in tokens",
            ),
            gr.Slider(
                1, 2, value=settings.repetition_penalty, step=0.05, label="Repetition penalty",
                info="1 is off",
            ),
        ]  # fmt: skip


def _talk(*, gr: Any) -> Talk:
    """The conversation, what one does in it, and what the model saw for it."""
    turns = gr.Chatbot(
        label="Conversation", show_label=False, height=480, placeholder=WELCOME, layout="bubble",
        buttons=["copy_all"], feedback_options=("Like", "Dislike"), elem_id="turns",
        latex_delimiters=[], allow_file_downloads=False, group_consecutive_messages=False,
    )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes="asking"):
        question = gr.Textbox(
            show_label=False, container=False, placeholder=NOT_READY, interactive=False,
            lines=1, max_lines=6, scale=5, autofocus=True, elem_id="question",
        )  # fmt: skip
        send = gr.Button("Ask", variant="primary", interactive=False, scale=1, min_width=90)
    with gr.Row(elem_classes="buttons"):
        stop = gr.Button("Stop", variant="stop", interactive=False, size="sm", min_width=80)
        again = gr.Button("Regenerate", interactive=False, size="sm", min_width=80)
        undo = gr.Button("Undo", interactive=False, size="sm", min_width=80)
        clear = gr.Button("Clear", size="sm", min_width=80)
    status = gr.HTML("", padding=False, elem_id="status")
    with gr.Accordion("What the model really saw", open=True):
        saw = gr.HTML(NOTHING_SEEN, padding=False)
    return Talk(turns, status, saw, question, send, stop, again, undo, clear)
