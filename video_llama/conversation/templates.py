"""Prompt templates as data: what stands around questions, answers and media.

A template says which literal text and special tokens surround the turns, and which of it is
supervised; `conversation.encode` renders every form (caption, instruct, chat) with the same code.
The published label quirks of Video-LLaMA are other flags here, not other code. To add a prompt,
add one `Template` to the end of this file, or register one from any imported module.

Source of the published texts: DAMO-NLP-SG/Video-LLaMA at 64888c0, conversation_video.py,
video_instruct_dataset.py, llava_instruct_dataset.py, video_processor.py.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal

from video_llama.common.registry import registry
from video_llama.common.types import MediaKind
from video_llama.conversation.layouts import BOS, EOS, Cut, Layout, Piece, Template, Text, Word


def get_template(
    name: str,
    *,
    frame_times: bool | None = None,
    system: str | None = None,
    compat: Literal["corrected", "released"] = "released",
) -> Template:
    """Look a template up and set its switches.

    Args:
        name: registry name, e.g. "vicuna_v0".
        frame_times: whether videos tell the seconds of their frames; None keeps the default.
        system: system text of every form; None keeps the default.
        compat: a run file's `model.compat`. "corrected" supervises nothing but answers and keeps
            the end of a long caption, in the same text; "released" takes a template as it is.

    Raises:
        UnknownName: no such template; the text lists the known ones.
    """
    template: Template = registry.get_template(name)
    if frame_times is not None:
        template = dataclasses.replace(template, frame_times=frame_times)
    if system is not None:
        template = dataclasses.replace(
            template,
            instruct=dataclasses.replace(template.instruct, system=system, systems={}),
            chat=dataclasses.replace(template.chat, system=system, systems={}),
        )
    if compat == "corrected":
        template = dataclasses.replace(
            template, instruct=template.instruct.only_answers(), cuts_caption_end=False
        )
    return template


def with_system(template: Template, text: str, *, extra_marks: Iterable[str] = ()) -> Template:
    """Return a template that is served with another system text, its marks made harmless.

    Args:
        template: the prompt format.
        text: "" gives none.
        extra_marks: strings to make harmless besides the template's own.
    """
    system = neutralise(text, marks=(*template.forgeable, *extra_marks))
    chat = dataclasses.replace(template.chat, system=system, systems={})
    return dataclasses.replace(template, chat=chat)


def neutralise(text: str, *, marks: Iterable[str]) -> str:
    """Make the marks of a template harmless in text that came from outside.

    A space goes into every mark, which leaves it readable: "### Title" becomes "## # Title" and
    "</s>" becomes "</s >". Look-alikes that a vocabulary folds into a mark (full-width "#") count
    as the mark. A mark that overlaps itself also gets a space if its beginning ends the text,
    since the template's own mark may follow: "C#" becomes "C# ". Applying it twice is the same as
    once. Half a surrogate pair, which no vocabulary can spell, becomes "?".

    Args:
        text: a question, caption, answer or system text.
        marks: strings to break up, without white space.
    """
    marks = tuple(marks)
    text = text.encode("utf-8", "replace").decode("utf-8")
    folded = unicodedata.normalize("NFKC", text)
    if any(mark in folded and mark not in text for mark in marks):
        text = folded
    # Inserting spaces cannot create a mark, so this ends; the loop is for "####".
    while any(mark in text for mark in marks):
        for mark in marks:
            text = text.replace(mark, f"{mark[:-1]} {mark[-1]}")
    overlapping = (mark for mark in marks if len(mark) > 1 and mark[0] == mark[-1])
    if any(text.endswith(mark[0]) for mark in overlapping):
        text += " "
    return text


def _supervised(text: str) -> tuple[Piece, ...]:
    """Text that is a target, as a layout wants it."""
    return (Text(text, supervised=True),)


_MARKS: Mapping[MediaKind, tuple[str, str]] = {
    "image": ("<Image>", "</Image>"),
    "video": ("<Video>", "</Video>"),
    "audio": ("<Audio>", "</Audio>"),
}
# The published audio branch was trained on frames, between the marks of a video.
_RELEASED_MARKS = {**_MARKS, "audio": _MARKS["video"]}
_PLACEHOLDERS = ("<ImageHere>", "<AudioHere>", *(mark for pair in _MARKS.values() for mark in pair))
_SPECIAL = ("<s>", "</s>", "<unk>")

_DEMO_SYSTEM = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_JOINT_SENTENCE = (
    "Close your eyes, open your ears and you imagine only based on the sound that: {audio}."
    + 17 * " "
    + "Close your ears, open your eyes and you see that <Video>{video}</Video>."
    + 18 * " "
    + "Now answer my question based on what you have just seen and heard."
)
# The demo empties the system text for everything but pictures.
_DEMO_SYSTEMS: Mapping[MediaKind, str] = {"image": _DEMO_SYSTEM, "video": "", "audio": ""}

_VICUNA = Layout(
    lead=(Text("###"),),
    user_before=(Text("Human: "),),
    user_after=(Text("###"),),
    header=(Text("Assistant:"),),
    answer_before=_supervised(" "),
    answer_after=_supervised("###"),
)
_LLAMA_2 = Layout(
    lead=(),
    user_before=(BOS, Text("[INST] ")),
    user_after=(Text(" [/INST]"),),
    header=(),
    answer_before=_supervised(" "),
    answer_after=(*_supervised(" "), EOS),
    system_marks=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    system_in_user=True,
)

VICUNA_V0 = Template(
    name="vicuna_v0",
    source="Vicuna v0 turns as Video-LLaMA's chat writes them; only answers are supervised",
    instruct=_VICUNA,
    chat=_VICUNA,
    differs=(),
    media_marks=_MARKS,
    caption_end=_supervised("###"),
    stop=("###",),
    forgeable=("###", *_PLACEHOLDERS, *_SPECIAL),
)
VICUNA_V0_RELEASED = dataclasses.replace(
    VICUNA_V0,
    name="vicuna_v0_released",
    source="Video-LLaMA 64888c0: preprocess and _mask_targets; conv_template default",
    instruct=dataclasses.replace(
        _VICUNA,
        lead=(Text("\n\n"), *_supervised("###")),
        user_after=(Text("\n"), *_supervised("###")),
        header=_supervised("Assistant:"),
        answer_after=_supervised("\n###"),
    ),
    chat=dataclasses.replace(_VICUNA, join="  ", joint=_JOINT_SENTENCE, systems=_DEMO_SYSTEMS),
    prompted_caption=Layout(
        lead=(),
        user_before=(Text("###Human: "),),
        user_after=(Text(" "),),
        header=(Text("###Assistant:"),),
        answer_before=(Text(" "), Cut()),
        answer_after=_supervised("###"),
    ),
    differs=(
        "instruct opens with two line feeds and ends every turn with one before '###'",
        "instruct supervises every '###' and the words 'Assistant:' too",
        "chat has two spaces between a media item and the question, instruct one",
        "chat tells of a video with sound in a sentence of its own, audio first, without seconds",
        "chat has a system text for pictures",
    ),
    media_marks=_RELEASED_MARKS,
    caption_end=_supervised("\n"),
    cuts_caption_end=True,
    frame_times=True,
)
LLAMA_2 = Template(
    name="llama_2",
    source="LLaMA-2-chat turns; only answers are supervised",
    instruct=_LLAMA_2,
    chat=_LLAMA_2,
    differs=(),
    media_marks=_MARKS,
    caption_end=(EOS,),
    stop=("</s>",),
    forgeable=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", *_PLACEHOLDERS, *_SPECIAL),
)
LLAMA_2_RELEASED = dataclasses.replace(
    LLAMA_2,
    name="llama_2_released",
    source="Video-LLaMA 64888c0: preprocess_for_llama_v2; conv_llava_llama_2",
    instruct=dataclasses.replace(
        _LLAMA_2, system=" ", keeps_empty_system=True, drops_unpaired_answers=True
    ),
    chat=dataclasses.replace(
        _LLAMA_2,
        system=_LLAMA_2_SYSTEM,
        systems=_DEMO_SYSTEMS,
        keeps_empty_system=True,
        join="  ",
        joint=_JOINT_SENTENCE,
    ),
    prompted_caption=Layout(
        lead=(),
        user_before=(Text("[INST] <<SYS>>\n \n<</SYS>>\n\n"),),
        user_after=(Text(" [/INST]"),),
        header=(),
        answer_before=(Text(" "), Cut()),
        answer_after=(EOS,),
    ),
    differs=(
        "instruct has one space as its system text, chat a sentence or nothing",
        "instruct drops an empty answer and an answer before the first question",
        "chat has two spaces between a media item and the question, instruct one",
        "chat tells of a video with sound in a sentence of its own, audio first, without seconds",
    ),
    media_marks=_RELEASED_MARKS,
    caption_end=_supervised("\n"),
    cuts_caption_end=True,
    frame_times=True,
)

_BILLA = Layout(
    lead=(),
    user_before=(Text("Human: "),),
    user_after=(Text("\n"),),
    # "There must be a space after Assistant:"; the answer is tokenised apart from it.
    header=(Text("Assistant: "),),
    answer_before=(Cut(),),
    answer_after=(EOS,),
)
_ZIYA = Layout(
    lead=(),
    user_before=(Word("<human>"), Text(":")),
    user_after=(Text("\n"),),
    header=(Word("<bot>"), Text(":")),
    answer_before=(Cut(),),
    answer_after=(EOS,),
)
BILLA = dataclasses.replace(
    LLAMA_2,
    name="billa",
    source="Neutralzz/BiLLa 0850e9e: README and alignment_sft_main.py; it knows single turns only",
    instruct=_BILLA,
    chat=_BILLA,
    stop=("</s>", "\nHuman:"),
    forgeable=("Human:", "Assistant:", *_PLACEHOLDERS, *_SPECIAL),
)
ZIYA = dataclasses.replace(
    LLAMA_2,
    name="ziya",
    source="Ziya-LLaMA-13B-v1's card; IDEA-CCNL/Fengshenbang-LM 1a2aafe, finetune_ziya_llama.py",
    instruct=_ZIYA,
    chat=_ZIYA,
    stop=("</s>", "<human>"),
    forgeable=("<human>", "<bot>", *_PLACEHOLDERS, *_SPECIAL),
)

for _template in (VICUNA_V0, VICUNA_V0_RELEASED, LLAMA_2, LLAMA_2_RELEASED, BILLA, ZIYA):
    registry.register_template(_template.name)(_template)
