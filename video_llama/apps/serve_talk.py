"""One request answered by the chat engine, in a thread of its own.

Nothing is remembered on a client's behalf: a request brings the whole conversation. If one that
begins like it is still kept, it goes on, so that nothing is encoded or read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from video_llama.apps.serve_errors import ApiError, told
from video_llama.apps.serve_jobs import Say, Wish
from video_llama.apps.serve_kept import (
    Found,
    Identity,
    KeptChats,
    Mark,
    first_mark,
    media_of,
    next_mark,
)
from video_llama.apps.serve_media import MediaDoor
from video_llama.apps.serve_parts import Medium, Parts
from video_llama.apps.serve_replies import Finished
from video_llama.apps.serve_request import ChatRequest
from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.conversation.chat import Chat, Upload
from video_llama.conversation.stopping import cut_at_stop, num_held


@dataclass(frozen=True)
class TalkLimits:
    """What one request may bring.

    Attributes:
        max_media: pictures, clips and sounds, those of earlier rounds included.
        max_chars: of all texts together.
    """

    max_media: int = 16
    max_chars: int = 200_000


class Talker:
    """Answers requests.

    Args:
        chat: its model, settings and template serve everybody; nobody talks in it.
        door: lets media in.
        kept: conversations to go on with.
        limits: of a request.
    """

    def __init__(self, chat: Chat, *, door: MediaDoor, kept: KeptChats, limits: TalkLimits) -> None:
        self.chat = chat
        self.kept = kept
        self._door = door
        self._limits = limits

    def answer(self, request: ChatRequest, *, say: Say, wish: Wish) -> Finished | None:
        """Answer a request.

        Args:
            request: checked.
            say: is given the pieces of the answer.
            wish: ends it early.

        Returns:
            How it ended, None if the wish did.

        Raises:
            ApiError: the request cannot be honoured.
        """
        self._check(request)
        settings = request.settings(self.chat.settings)
        marks, question = self._marks(request), self._identities(request.question)
        found = self.kept.take(marks, next_media=media_of(question))
        found = found or self._fresh(request)
        chat = found.chat
        table = _Table(chat, door=self._door, wish=wish, found=found)
        wish.concerns(chat)
        try:
            for old in request.rounds[found.num_rounds :]:
                chat.remember(table.shown(old.question), old.answer)
            shown = table.shown(request.question)
            pieces = chat.stream(shown, settings=settings)
            # Again: only what has begun can be stopped.
            wish.concerns(chat)
            said = _speak(chat, pieces, say=say, stop=StopStrings(request.stop))
            if said.was_cut:
                # What was generated behind the stop string was never said.
                chat.undo()
                chat.remember(shown, said.text)
        except _Unwished:
            return None
        except VideoLlamaError as error:
            raise told(error, param="messages") from error
        # From now on it may be somebody else's, who must not be stopped in our name.
        wish.concerns(None)
        usage = chat.last_usage
        if wish.is_over or usage is None:
            return None
        mark = next_mark(marks[-1], question=question, answer=said.text)
        self.kept.put(chat, marks=[*marks, mark], num_bytes=table.num_bytes)
        return Finished(
            finish_reason="length"
            if usage.finish_reason == "length" and not said.was_cut
            else "stop",
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            notes=(*table.notes, *chat.take_notes()),
        )

    def _fresh(self, request: ChatRequest) -> Found:
        """Begin a conversation."""
        chat = self.chat.another()
        if request.system:
            chat.set_system(request.system)
        return Found(chat)

    def _check(self, request: ChatRequest) -> None:
        """Refuse what is too much."""
        num_media, limits = len(request.media), self._limits
        if num_media > limits.max_media:
            raise ApiError(
                f"{num_media} media in one conversation, at most {limits.max_media} are allowed",
                param="messages",
                code="too_many_media",
            )
        if request.num_chars > limits.max_chars:
            raise ApiError(
                f"{request.num_chars:,} characters of text, at most {limits.max_chars:,} are "
                "allowed; leave old rounds out",
                param="messages",
                code="context_length_exceeded",
            )

    def _marks(self, request: ChatRequest) -> list[Mark]:
        """Return the identities of a request's beginning and rounds."""
        marks = [first_mark(request.system)]
        for old in request.rounds:
            question = self._identities(old.question)
            marks.append(next_mark(marks[-1], question=question, answer=old.answer))
        return marks

    def _identities(self, parts: Parts) -> list[str | Identity]:
        return [
            Identity(self._door.identity(part)) if isinstance(part, Medium) else part
            for part in parts
        ]


class StopStrings:
    """Ends an answer before the first string of a client's, and never shows a part of it.

    Args:
        marks: the strings; none lets everything through.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._text = ""
        self._num_shown = 0
        self.found = False

    def push(self, piece: str) -> str:
        """Take the next piece of an answer.

        Returns:
            What can be shown now, often "".
        """
        self._text += piece
        cut = cut_at_stop(self._text, stop=self._marks)
        if cut is not None:
            self.found, self._text = True, cut
            return self.close()
        return self._show(len(self._text) - num_held(self._text, stop=self._marks))

    def close(self) -> str:
        """Return what was held back but belongs to the answer."""
        return self._show(len(self._text))

    def _show(self, end: int) -> str:
        new = self._text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return new


@dataclass(frozen=True)
class _Said:
    text: str
    was_cut: bool


def _speak(chat: Chat, pieces: Iterator[str], *, say: Say, stop: StopStrings) -> _Said:
    """Tell the pieces of an answer up to the first stop string."""
    said: list[str] = []

    def tell(text: str) -> None:
        if text:
            said.append(text)
            say(text)

    for piece in pieces:
        if not stop.found:
            tell(stop.push(piece))
            if stop.found:
                chat.stop()
    tell(stop.close())
    return _Said("".join(said), was_cut=stop.found)


class _Unwished(Exception):
    """Nobody waits for the answer any more."""


class _Table:
    """On which the media of a request are laid for its conversation.

    Args:
        chat: gets them.
        door: lets them in.
        wish: ends it early.
        found: how the conversation was found.
    """

    def __init__(self, chat: Chat, *, door: MediaDoor, wish: Wish, found: Found) -> None:
        self.notes: list[str] = []
        self.num_bytes = found.num_bytes
        self._chat = chat
        self._door = door
        self._wish = wish
        self._ready = list(chat.uploads) if found.shows_next else []

    def shown(self, parts: Parts) -> list[str | Upload]:
        """Return a question as the chat takes it, its media uploaded.

        Raises:
            ApiError: one of them may not come in, or cannot be used.
        """
        ready, self._ready = self._ready, []
        shown: list[str | Upload] = []
        for part in parts:
            if isinstance(part, str):
                shown.append(part)
                continue
            upload = ready.pop(0) if ready else self._upload(part)
            self.notes += [f"{part.where}: {note}" for note in upload.notes]
            shown.append(upload)
        return shown

    def _upload(self, medium: Medium) -> Upload:
        source = self._door.take(medium)
        if self._wish.is_over:
            raise _Unwished
        try:
            upload = self._chat.upload(
                source,
                start_s=medium.start_s,
                end_s=medium.end_s,
                frames=medium.sampling.frames,
                fps=medium.sampling.fps,
                sound=medium.sound,
            )
        except (MediaError, ConfigError) as error:
            if self._wish.is_over:
                raise _Unwished from error
            raise told(error, param=medium.where) from error
        self.num_bytes += len(source) if isinstance(source, bytes) else 0
        return upload
