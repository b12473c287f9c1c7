"""Questions for evaluation, in MVBench's row format.

    [{"video": "a/1.mp4", "question": "What happened?", "candidates": ["...", "..."],
      "answer": "...", "start": 1.0, "end": 4.5}]

A sample is the question alone (form `chat`); candidates, answer and every other key of the row go
to `Sample.meta`, with the file's name as `task`. How an answer is scored is the task's business.
Rows without candidates are open questions. Li et al., "MVBench", 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from video_llama.common.registry import registry
from video_llama.common.types import Message, Sample
from video_llama.datasets.base import require_text
from video_llama.datasets.clips import StreamReader
from video_llama.datasets.records import Mistake, Record, lacking, read_rows


@registry.register_dataset("mvbench")
class MVBench(StreamReader):
    """Questions about clips with a known answer."""

    @dataclass(frozen=True)
    class Config(StreamReader.Config):
        """Keys of an mvbench entry."""

    config: Config
    where_from = "huggingface.co/datasets/OpenGVLab/MVBench, or your own questions in its format"

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the questions of all files; a folder holds one file per task."""
        for path in self.annotation_files():
            for number, row in enumerate(read_rows(path), start=1):
                if isinstance(row, Mistake):
                    yield row
                else:
                    yield _read_row(row, key=f"{path.stem}/{number}", task=path.stem)

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a row into a question, see `AnnotationReader.build`; nothing is random."""
        video = require_text(record.fields["video"], what="video", where=record.where)
        question = require_text(record.fields["question"], what="question", where=record.where)
        media = self.clip(video)
        for item in media:
            item.start_s, item.end_s = record.fields.get("start"), record.fields.get("end")
        return Sample(
            key=record.key,
            messages=[Message("user", [*media, question])],
            form="chat",
            meta=dict(record.fields),
        )


def _read_row(row: Record, *, key: str, task: str) -> Record | Mistake:
    """Check one question."""
    problem = lacking(row.fields, ("video", "question", "answer"))
    if problem:
        return Mistake(row.where, problem)
    candidates = row.fields.get("candidates")
    if candidates is not None:
        if not isinstance(candidates, list) or not candidates:
            return Mistake(row.where, f"'candidates' must be a list, found {candidates!r}")
        if row.fields["answer"] not in candidates:
            answer = row.fields["answer"]
            return Mistake(row.where, f"the answer {answer!r} is not among the candidates")
    for name in ("start", "end"):
        value = row.fields.get(name)
        if value is not None and not isinstance(value, (int, float)):
            return Mistake(row.where, f"'{name}' must be a number of seconds, found {value!r}")
    return replace(row, key=key, fields={"task": task, **row.fields})
