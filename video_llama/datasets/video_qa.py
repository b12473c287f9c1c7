"""Open questions about clips, in the two files that video question answering is shared in.

    test_q.json  [{"video_name": "vid1", "question": "what is a man doing", "question_id": 0}]
    test_a.json  [{"answer": "sing", "type": 3, "question_id": 0}]

The layout of MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA since Video-ChatGPT. Question and
answer are joined by their `question_id`, never by their place: published evaluations that cut the
questions for several GPUs and not the answers scored against the wrong ones. A question without an
answer, or an id that comes twice, is refused. Clips are found whatever their container; one that is
not there is a question that cannot be asked, named and counted.

Xu et al., "Video Question Answering via Gradually Refined Attention", 2017; Jang et al., "TGIF-QA",
2017; Yu et al., "ActivityNet-QA", 2019; Maaz et al., "Video-ChatGPT", 2023.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from video_llama.common.dist import is_main
from video_llama.common.errors import MediaError
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import Message, Sample
from video_llama.datasets.base import require_text
from video_llama.datasets.clips import StreamReader
from video_llama.datasets.records import Mistake, Record, lacking, read_rows

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
"""Containers a clip is looked for in, in this order; the first four are the published ones."""

ALL_KINDS = "all"
"""Kind of the questions of a set whose answers have no type."""


@registry.register_dataset("video_qa")
class VideoQA(StreamReader):
    """Open questions about clips; the answers lie in a file of their own."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StreamReader.Config):
        """Keys of a video_qa entry; `annotations` are the questions.

        Attributes:
            answers: file of the answers.
            prefix: put in front of the names of clips that are not found without it; ActivityNet's
                files have `v_`, its questions do not.
        """

        answers: str
        prefix: str = ""

    config: Config
    where_from = (
        "github.com/mbzuai-oryx/Video-ChatGPT (quantitative_evaluation); clips: docs/data_sets.md"
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The questions and the answers."""
        return (*super().sources, self.config.answers)

    @property
    def named_paths(self) -> list[tuple[str, str]]:
        """What must be there, see `AnnotationReader.named_paths`."""
        return [*super().named_paths, ("answers", self.config.answers)]

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the questions in file order, each with its answer."""
        answers: dict[str, Record] = {}
        for row in _with_ids(
            read_rows(Path(self.config.answers)), needed=("answer",), seen=answers
        ):
            if isinstance(row, Mistake):
                # Whatever it was, a question waits for it.
                yield replace(row, extent="file")
        asked: dict[str, Record] = {}
        rows = (row for path in self.annotation_files() for row in read_rows(path))
        for row in _with_ids(rows, needed=("question", "video_name"), seen=asked):
            if isinstance(row, Mistake):
                yield row
            elif row.key in answers:
                yield _joined(row, answers[row.key])
            else:
                reason = f"question_id {row.key!r} has no answer in {self.config.answers}"
                yield Mistake(row.where, reason, extent="file")
        num_unasked = len(answers.keys() - asked.keys())
        if num_unasked and is_main():
            get_logger().warning(
                "datasets.%s: %d of %d answers belong to no question",
                self.name,
                num_unasked,
                len(answers),
            )

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a row into a question, see `AnnotationReader.build`; nothing is random."""
        fields, where = record.fields, record.where
        question = require_text(fields["question"], what="question", where=where)
        require_text(fields["answer"], what="answer", where=where)
        name = self._find(require_text(str(fields["video_name"]), what="video_name", where=where))
        return Sample(
            key=record.key,
            messages=[Message("user", [*self.clip(name), question])],
            form="chat",
            meta=dict(fields),
        )

    def _find(self, name: str) -> str:
        """Return the path of a clip below `media`.

        Raises:
            MediaError: there is none.
        """
        folder = Path(self.config.media)
        stems = dict.fromkeys((name, f"{self.config.prefix}{name}"))
        for stem in stems:
            for suffix in ("", *SUFFIXES) if Path(stem).suffix in SUFFIXES else SUFFIXES:
                # Unlike Path's, it says no to a name that no file can have.
                if os.path.exists(folder / f"{stem}{suffix}"):  # noqa: PTH110
                    return f"{stem}{suffix}"
        raise MediaError(
            f"no such clip, looked for {' and '.join(stems)} with {', '.join(SUFFIXES)}",
            path=str(folder / name),
        )


def _with_ids(
    rows: Iterable[Record | Mistake], *, needed: Sequence[str], seen: dict[str, Record]
) -> Iterator[Record | Mistake]:
    """Give rows their `question_id` as key; a row without one, or with that of another, is named.

    Args:
        rows: of a file or several.
        needed: other fields a row must have.
        seen: good rows by key so far; those of `rows` are added.
    """
    for row in rows:
        if isinstance(row, Mistake):
            yield row
            continue
        key = row.fields.get("question_id")
        if isinstance(key, bool) or not isinstance(key, int | str) or key == "":
            reason = lacking(row.fields, ("question_id",)) or f"question_id is {key!r}"
            reason += "; answers are found by it, never by their place: write it into every row"
            yield Mistake(row.where, reason, extent="file")
        elif str(key) in seen:
            reason = f"question_id {key!r} is that of {seen[str(key)].where} too"
            yield Mistake(row.where, reason, extent="file")
        elif problem := lacking(row.fields, needed):
            yield Mistake(row.where, problem)
        else:
            # Files that were made by different tools write 7 and "7".
            seen[str(key)] = replace(row, key=str(key))
            yield seen[str(key)]


def _joined(question: Record, answer: Record) -> Record:
    """Put a question and its answer into one row; its kind is the answer's type, if it has one."""
    told = answer.fields["answer"]
    kind = answer.fields.get("type", question.fields.get("type"))
    fields = {
        **question.fields,
        "answer": str(told) if isinstance(told, int | float) else told,
        "kind": ALL_KINDS
        if kind is None
        else f"type {kind}"
        if isinstance(kind, int)
        else str(kind),
    }
    return replace(question, fields=fields)
