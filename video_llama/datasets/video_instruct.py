"""Questions and answers about clips, in the layout of VideoChat's videochat_instruct_11k.json.

    [{"video": "006001_006050/21179416.mp4", "QA": [{"i": "", "q": "Where is it?", "a": "..."}]}]

The instruction `i` of some turns is not used, as in Video-LLaMA. Li et al., "VideoChat", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from video_llama.common.registry import registry
from video_llama.common.rng import fold, shuffled
from video_llama.common.types import Sample
from video_llama.datasets.base import require_text
from video_llama.datasets.clips import StreamReader
from video_llama.datasets.records import Mistake, Record, lacking, read_rows
from video_llama.datasets.turns import dialogue


@registry.register_dataset("video_instruct")
class VideoInstruct(StreamReader):
    """Conversations about a clip; a sample is a whole conversation, or some turns of it."""

    @dataclass(frozen=True)
    class Config(StreamReader.Config):
        """Keys of a video_instruct entry.

        Attributes:
            max_turns: keep so many turns, chosen anew in every pass; None keeps all.
            turn_order: file as written, shuffled anew in every pass.
            frame_times: whether the question may say at which seconds the frames were taken; the
                sentence is English.
        """

        max_turns: int | None = None
        turn_order: Literal["file", "shuffled"] = "file"
        frame_times: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.max_turns is not None and self.max_turns < 1:
                raise ValueError(f"max_turns must be at least 1, found {self.max_turns}")

    config: Config
    where_from = "github.com/OpenGVLab/InternVideo, Data/instruction_data; clips of WebVid"

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the conversations in file order."""
        for path in self.annotation_files():
            for row in read_rows(path):
                yield row if isinstance(row, Mistake) else _read_row(row)

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a conversation into a sample, see `AnnotationReader.build`."""
        video = require_text(record.fields["video"], what="video", where=record.where)
        turns = self._choose_turns(record.fields["turns"], seed=fold(seed, "turns", record.key))
        messages = dialogue(turns, media=self.clip(video), where=record.where)
        return Sample(key=record.key, messages=messages, frame_times=self.config.frame_times)

    def _choose_turns(self, turns: list[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
        """Take `max_turns` of the turns, in file order or shuffled."""
        order = shuffled(range(len(turns)), seed=seed)[: self.config.max_turns]
        if self.config.turn_order == "file":
            order.sort()
        return [turns[index] for index in order]


@registry.register_dataset("webvid_instruct_zh")
class WebvidInstructZh(VideoInstruct):
    """The same layout, translated into Chinese: no English sentence about seconds goes in."""

    @dataclass(frozen=True)
    class Config(VideoInstruct.Config):
        """Keys of a webvid_instruct_zh entry."""

        frame_times: bool = False

    config: Config
    where_from = "VideoChat's conversations, translated; Video-LLaMA names no place for its own"


def _read_row(row: Record) -> Record | Mistake:
    """Check one conversation."""
    problem = lacking(row.fields, ("video", "QA"))
    if problem:
        return Mistake(row.where, problem)
    turns = row.fields["QA"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return Mistake(row.where, "expected 'QA' to be a list of objects with q and a")
    for number, turn in enumerate(turns, start=1):
        problem = lacking(turn, ("q", "a"))
        if problem:
            return Mistake(row.where, f"turn {number} of 'QA': {problem}")
    fields = {
        "video": row.fields["video"],
        "turns": [{"q": turn["q"], "a": turn["a"]} for turn in turns],
    }
    return replace(row, key=str(row.fields["video"]), fields=fields)
