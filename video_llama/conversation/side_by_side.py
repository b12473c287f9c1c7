"""Questions of several conversations answered in one batch, each as if it were asked alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from video_llama.common.generation import GenerationSettings, finish_reason
from video_llama.conversation.prompts import Laid
from video_llama.conversation.rounds import Usage
from video_llama.conversation.stopping import StopRule, answer_text

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat


@dataclass(frozen=True)
class WholeAnswer:
    """An answer that was not streamed."""

    text: str
    usage: Usage


def answer_laid(
    laid: Sequence[Laid], *, chat: Chat, settings: GenerationSettings | None = None
) -> list[WholeAnswer]:
    """Answer questions that were laid out; no conversation grows by it.

    Args:
        laid: by `Chat.lay_out` of `chat`, or of others with the same model, for these settings.
        chat: stands in line for all of them.
        settings: of all answers, None for those of `chat`.
    """
    if not laid:
        return []
    settings = settings or chat.settings
    stop = StopRule(chat.tokenizer, chat.template.stop)
    prompts = [each.prompt for each in laid]
    with chat.turn():
        began = time.monotonic()
        rows = chat.model.answer_prompts(prompts, settings=settings, stop=stop)
        passed_s = time.monotonic() - began
    answers = []
    for prompt, ids in zip(prompts, rows, strict=True):
        usage = Usage(
            prompt_tokens=len(prompt.input_ids),
            cached_tokens=0,
            completion_tokens=len(ids),
            finish_reason=finish_reason(ids, end_ids=chat.model.end_ids, stop=stop),
            total_s=passed_s,
        )
        text = answer_text(ids, tokenizer=chat.tokenizer, stop=stop.stop)
        answers.append(WholeAnswer(text, usage))
    return answers
