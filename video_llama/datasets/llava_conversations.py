r"""Conversations in LLaVA's layout: about text, pictures, clips, or several of them, row by row.

    [{"id": "1", "image": "coco/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A bus."}]},
     {"id": "2", "video": ["a.mp4"], "image": ["1.jpg", "2.jpg"], "conversations": [
        {"from": "human", "value": "<image>\n<video>\nIs the first picture of the clip?\n<image>"},
        {"from": "gpt", "value": "Yes."}]},
     {"id": "3", "model": "gpt-4", "conversations": [...]}]

The marks `<image>` and `<video>` take the files of their list in text order, however pictures and
clips alternate; Video-LLaVA's code takes all clips before all pictures, wherever they stand. A row
whose marks and files disagree cannot be used, where that code would give one row's picture to
another. Lin et al., "Video-LLaVA", 2023; how a row is read: `conversations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from video_llama.common.dist import is_main
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import MediaKind
from video_llama.datasets.conversations import ROLES, BadRow, read_turns
from video_llama.datasets.messages import Messages, with_turns
from video_llama.datasets.records import Mistake, Record


@registry.register_dataset("llava_conversations")
class LlavaConversations(Messages):
    """Conversations in LLaVA's layout, with any media or none."""

    @dataclass(frozen=True)
    class Config(Messages.Config):
        """Keys of a llava_conversations entry.

        Attributes:
            image_folder: that the paths of pictures start from, null for `media`.
            video_folder: that the paths of clips start from, null for `media`.
        """

        image_folder: str | None = None
        video_folder: str | None = None

    config: Config
    where_from = (
        "huggingface.co/datasets/LanguageBind/Video-LLaVA; huggingface.co/datasets/liuhaotian/"
        "LLaVA-Instruct-150K"
    )

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the conversations of all files; say how many did not open with a question."""
        num_left_out = 0
        for row in super().records():
            num_left_out += isinstance(row, Record) and row.fields["leaves_out_opening"]
            yield row
        if num_left_out and is_main():
            get_logger().info(
                "datasets.%s: %d conversations open with an answer, which is left out",
                self.name,
                num_left_out,
            )

    def read_row(self, row: Record) -> Record | Mistake:
        """Bring a row into ours, without an answer that nobody asked for in front."""
        told = row.fields.get("conversations")
        said = told if isinstance(told, list) else []
        has_opening = bool(said) and _is_answer(said[0])
        if has_opening and len(said) == 1:
            return Mistake(row.where, "nothing but an answer that nobody asked for")
        fields = {**row.fields, "conversations": said[1:]} if has_opening else row.fields
        try:
            turns = read_turns(fields, needs_marks=True)
            _check_turns(turns)
        except BadRow as error:
            return Mistake(row.where, str(error))
        read = with_turns(row, turns)
        return replace(read, fields={**read.fields, "leaves_out_opening": has_opening})

    def media_folder(self, kind: MediaKind) -> tuple[str, str]:
        """Return the folder that paths of a kind start from, behind the key that names it."""
        key = f"{kind}_folder"
        own = {"image_folder": self.config.image_folder, "video_folder": self.config.video_folder}
        folder = own.get(key)
        return super().media_folder(kind) if folder is None else (key, folder)


def _is_answer(turn: object) -> bool:
    return isinstance(turn, Mapping) and ROLES.get(str(turn.get("from"))) == "assistant"


def _check_turns(turns: Sequence[Mapping[str, Any]]) -> None:
    """Refuse anything but questions and answers in turn, perhaps behind a system message.

    Raises:
        BadRow: with the first message that is out of turn.
    """
    first = int(turns[0]["role"] == "system")
    for number, turn in enumerate(turns[first:]):
        expected = ("user", "assistant")[number % 2]
        if turn["role"] != expected:
            names = " or ".join(name for name, role in ROLES.items() if role == expected)
            raise BadRow(
                f"message {first + number + 1} is from the {turn['role']}, expected {names}: "
                "questions and answers must take turns"
            )
    if len(turns) == first or turns[-1]["role"] == "user":
        raise BadRow(f"{len(turns)} messages, the last question has no answer")
