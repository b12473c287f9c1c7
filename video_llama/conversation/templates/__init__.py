"""Prompt templates as data: what stands around questions, answers and media.

A template says which literal text and special tokens surround the turns, and which of it is
supervised; `conversation.encode` renders every form (caption, instruct, chat) with the same code.
The published label quirks of a system are other flags in its template, not other code. To add a
prompt, add one `Template` to a module of this folder, or register one from any imported module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.conversation.layouts import Template
from video_llama.conversation.templates.marks import neutralise
from video_llama.conversation.tokenizer import Tokenizer

__all__ = ["get_template", "neutralise", "with_system"]


def get_template(
    name: str,
    *,
    frame_times: bool | None = None,
    system: str | None = None,
    compat: Literal["corrected", "released"] = "released",
    tokenizer: Tokenizer | None = None,
) -> Template:
    """Look a template up and set its switches.

    Args:
        name: registry name, e.g. "vicuna_v0".
        frame_times: whether videos tell the seconds of their frames; None keeps the default.
        system: system text of every form; None keeps the default.
        compat: a run file's `model.compat`. "corrected" supervises nothing but answers and keeps
            the end of a long caption, in the same text; "released" takes a template as it is.
        tokenizer: of the decoder, for the template "tokenizer", which lies in its directory.

    Raises:
        UnknownName: no such template; the text lists the known ones.
        ConfigError: the directory has no template of its own, or it is not known.
    """
    found = registry.get_template(name)
    if callable(found) and tokenizer is None:
        raise ConfigError(f"template '{name}' lies in a decoder's directory; give its tokenizer")
    template: Template = found(tokenizer) if callable(found) else found
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
