"""What passes between the demo page and its handlers: what is wanted, and what is to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_llama.conversation.chat import Usage

Turn = dict[str, Any]
"""A message as Gradio's chatbot shows it."""

KNOBS = (
    "temperature",
    "top_p",
    "seed",
    "num_beams",
    "max_new_tokens",
    "repetition_penalty",
)
"""Settings of an answer that the page offers, in the order in which it hands them over."""

WHOLE = ("seed", "num_beams", "max_new_tokens")


@dataclass(frozen=True)
class View:
    """What the page is to show; None leaves as it is.

    Attributes:
        turns: the conversation.
        is_busy: an answer is awaited.
        is_ready: there is something to ask about.
        can_go_back: there is an answer to give again or to take back.
        saw: HTML of what the model saw, empty if it saw nothing.
        status: how the last answer went.
        question: text for the question box.
    """

    turns: list[Turn]
    is_busy: bool
    is_ready: bool
    can_go_back: bool
    saw: str | None = None
    status: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class Span:
    """What of a file is to be shown to the model, from the page's fields."""

    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    sound: bool = True


def told(usage: Usage | None) -> str:
    """Say in one line what an answer took."""
    if usage is None:
        return ""
    cut = {"stopped": ", stopped", "length": ", cut off at the longest answer allowed"}
    known = f", {usage.cached_tokens} of them known from before" if usage.cached_tokens else ""
    return (
        f"{usage.completion_tokens} tokens in {usage.total_s:.1f} s"
        f"{cut.get(usage.finish_reason, '')} · prompt of {usage.prompt_tokens} tokens{known}"
    )
