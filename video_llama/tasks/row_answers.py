"""Rows of questions to answers, by the engine people chat with, many rows at a time.

A row is a conversation of its own and is answered as a chat would answer it. Rows about one file
share its reading; prompts of similar length share a batch. Who answers which rows, and where
answers are kept, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from video_llama.common import dist
from video_llama.common.errors import MediaError, VideoLlamaError
from video_llama.conversation.chat import Chat, Upload
from video_llama.conversation.prompts import Laid
from video_llama.conversation.side_by_side import answer_laid
from video_llama.datasets.question_rows import NamedFile, QuestionRow
from video_llama.tasks.answering import batched
from video_llama.tasks.resumable import ResumableResults, Row

BATCHES_PER_CHUNK = 4
"""Enough to find prompts of similar length among; also what an interrupted run does again."""


@dataclass(frozen=True)
class _Shown:
    """A file that was read.

    Attributes:
        chat: holds on to its tokens.
        upload: without pixels.
    """

    chat: Chat
    upload: Upload


@dataclass(frozen=True)
class _Asked:
    """A row laid out for the model."""

    row: QuestionRow
    laid: Laid
    uploads: tuple[Upload, ...]


class RowAnswerer:
    """Answers rows.

    Args:
        chat: its model and settings answer; its own conversation is not touched.
        batch_size: prompts that are read side by side.
    """

    def __init__(self, chat: Chat, *, batch_size: int) -> None:
        self._chat = chat
        self._batch_size = batch_size

    def answer_missing(
        self,
        rows: Sequence[QuestionRow],
        *,
        store: ResumableResults,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Answer this process's share of the rows that a store does not have.

        Args:
            rows: of the whole file, the same on every rank.
            store: keeps chunk after chunk.
            on_progress: told how many rows of the share are done, and how many it has.
        """
        finished = store.finished()
        # Nobody may add a chunk before everybody has read what there is to do.
        dist.barrier()
        world = dist.read_world()
        missing = [
            [row for row in chunk if row.index not in finished]
            for chunk in chunks_of(rows, batch_size=self._batch_size)
        ]
        share = [chunk for chunk in missing if chunk][world.rank :: world.size]
        total, done = sum(map(len, share)), 0

        def count(num_rows: int) -> None:
            nonlocal done
            done += num_rows
            on_progress(done, total)

        for chunk in share:
            results = self.answer(chunk, on_progress=count)
            store.add({row.index: [results[row.index]] for row in chunk})

    def answer(
        self,
        rows: Sequence[QuestionRow],
        *,
        on_progress: Callable[[int], None] = lambda num_rows: None,
    ) -> dict[int, Row]:
        """Answer a chunk of rows.

        Args:
            rows: few enough that all their media tokens fit the memory.
            on_progress: told how many rows more are done.

        Returns:
            Plain values by index of the row: `answer`, or `error` if it could not be asked.
        """
        results: dict[int, Row] = {}
        shown: dict[NamedFile, _Shown | VideoLlamaError] = {}
        asked = []
        for row in rows:
            try:
                asked.append(self._lay_out(row, shown))
            except VideoLlamaError as error:
                results[row.index] = {**_head(row), "error": str(error)}
                on_progress(1)
        # Equal lengths keep their order, so that the same rows always meet in a batch.
        asked.sort(key=lambda each: len(each.laid.prompt.input_ids))
        for group in batched(asked, self._batch_size):
            answers = answer_laid([each.laid for each in group], chat=self._chat)
            for each, answer in zip(group, answers, strict=True):
                results[each.row.index] = {
                    **_head(each.row),
                    "answer": answer.text,
                    "finish_reason": answer.usage.finish_reason,
                    "media": [item for upload in each.uploads for item in _media(upload)],
                    "notes": _notes(each),
                    "usage": {
                        "prompt_tokens": answer.usage.prompt_tokens,
                        "completion_tokens": answer.usage.completion_tokens,
                    },
                }
            on_progress(len(group))
        return results

    def _lay_out(
        self, row: QuestionRow, shown: dict[NamedFile, _Shown | VideoLlamaError]
    ) -> _Asked:
        """Hold a row's conversation up to its question.

        Args:
            row: of the chunk.
            shown: files of the chunk read so far; grows.

        Raises:
            VideoLlamaError: the row cannot be asked.
        """
        chat = self._chat.another()
        uploads: list[Upload] = []
        turns = []
        for turn in row.turns:
            parts: list[str | Upload] = []
            for part in turn.parts:
                parts.append(part if isinstance(part, str) else self._show(part, shown))
            uploads += [part for part in parts if isinstance(part, Upload)]
            turns.append((turn.role, parts))
        if turns[0][0] == "system":
            chat.set_system(_words(turns.pop(0)[1]))
        for (_, question), (_, answer) in zip(turns[:-1:2], turns[1::2], strict=True):
            chat.remember(question, _words(answer))
        return _Asked(row, chat.lay_out(turns[-1][1]), tuple(uploads))

    def _show(self, file: NamedFile, shown: dict[NamedFile, _Shown | VideoLlamaError]) -> Upload:
        """Read a file, or take what came of it before.

        Raises:
            VideoLlamaError: it cannot be used.
        """
        if file not in shown:
            try:
                shown[file] = self._read(file)
            except VideoLlamaError as error:
                shown[file] = error
        known = shown[file]
        if isinstance(known, VideoLlamaError):
            raise known
        return known.upload

    def _read(self, file: NamedFile) -> _Shown:
        """Read a file into a conversation of its own."""
        chat = self._chat.another()
        upload = chat.upload(
            file.path,
            start_s=file.start_s,
            end_s=file.end_s,
            frames=file.frames,
            fps=file.fps,
            sound=file.sound,
        )
        kinds = {item.kind for item in upload.items}
        # A clip of which the model takes the sound alone is still a clip.
        is_other = file.kind is not None and file.kind not in kinds
        if is_other and not (file.kind == "video" and kinds == {"audio"} and upload.notes):
            raise MediaError(
                f"the row calls it {file.kind}, its content is {' and '.join(sorted(kinds))}; "
                "name it under what it is, or under 'media'",
                path=file.path,
            )
        upload = upload.without_pixels()
        return _Shown(chat, _sound_of(upload) if file.kind == "audio" else upload)


def chunks_of(rows: Iterable[QuestionRow], *, batch_size: int) -> list[list[QuestionRow]]:
    """Cut rows into chunks in which rows about the same files stand together.

    The cut depends on nothing but rows and batch size, so any number of processes makes the same
    one, and a row meets the same others in its batch.

    Args:
        rows: in file order.
        batch_size: prompts that are read side by side.
    """
    together: dict[tuple[NamedFile, ...], list[QuestionRow]] = {}
    for row in rows:
        together.setdefault(row.files, []).append(row)
    ordered = (row for group in together.values() for row in group)
    return list(batched(ordered, BATCHES_PER_CHUNK * batch_size))


def _head(row: QuestionRow) -> Row:
    """Return what every result has."""
    return {"id": row.id, "question": row.question, "answer": None, "error": None}


def _sound_of(upload: Upload) -> Upload:
    """Return a clip's sound without its pictures."""
    parts = zip(upload.items, upload.specs, upload.keys, strict=True)
    items, specs, keys = zip(*(part for part in parts if part[0].kind == "audio"), strict=True)
    return replace(upload, items=items, specs=specs, keys=keys)


def _media(upload: Upload) -> list[dict[str, Any]]:
    """Say what the model got of a file."""
    path = upload.request.source
    return [
        {"path": path, "kind": item.kind, "times_s": list(item.times_s)} for item in upload.items
    ]


def _notes(asked: _Asked) -> list[str]:
    """Say what the model did not get of a row."""
    notes = [f"{upload.name}: {note}" for upload in asked.uploads for note in upload.notes]
    if asked.laid.num_forgotten:
        notes.append(
            f"The conversation does not fit the model: its first {asked.laid.num_forgotten} "
            "question(s) are left out."
        )
    return notes


def _words(parts: Sequence[str | Upload]) -> str:
    """Return the words of a message that holds nothing else."""
    return " ".join(part for part in parts if isinstance(part, str))
