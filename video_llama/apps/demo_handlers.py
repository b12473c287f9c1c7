"""What the demo page's buttons do, free of layout: each takes a session and gives a `View`.

The truth about a conversation is kept here and not in the browser: a page only shows it. Answers
are tickets: a handler that comes to its turn answers whatever its visit then has pending, so a
question that was withdrawn in the queue costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.apps.demo_pictures import saw
from video_llama.apps.demo_view import KNOBS, WHOLE, Span, View, told
from video_llama.apps.demo_visits import Asked, Round, ShownFile, Visit, Visits
from video_llama.apps.votes import Verdict, Vote, VotedMedia, VoteLog
from video_llama.common.errors import MediaError, VideoLlamaError

if TYPE_CHECKING:
    from video_llama.common.generation import GenerationSettings
    from video_llama.conversation.chat import Chat

NOTHING = View([], is_busy=False, is_ready=False, can_go_back=False, saw="")
"""What a visitor is shown who was forgotten."""


class Handlers:
    """What happens behind the page.

    Args:
        visits: who is there.
        gradio: the module, handed in because it is imported on demand.
        model: its name, for votes.
        votes: where they go; None keeps none.
        examples: files that may be shown though nobody uploaded them.
    """

    def __init__(
        self,
        visits: Visits,
        *,
        gradio: Any,
        model: str = "",
        votes: VoteLog | None = None,
        examples: Collection[Path] = (),
    ) -> None:
        self._visits = visits
        self._gradio = gradio
        self._model = model
        self._votes = votes
        self._examples = frozenset(examples)

    def hold(self, session: str, file: Any) -> None:
        """Remember that a browser handed a file over, started or not."""
        if path := path_of(file):
            self._visits.hold(session, path)

    def start(self, session: str, files: Sequence[Any], span: Span) -> View:
        """Show the model the chosen files.

        Raises:
            gradio.Error: none can be used; one that can keeps the others from being an error.
        """
        paths = [path for path in map(path_of, files) if path is not None]
        if not paths:
            raise self._error("Choose a video, a picture or a sound first.", title="No file")
        visit = self._visits.of(session)
        self._refuse_if_busy(visit)
        problems, first = [], len(visit.files)
        for path in paths:
            self._visits.hold(session, path)
            try:
                # A program may name any path of this machine; Gradio checks some boxes only.
                if not (path in self._examples or self._visits.has(path)):
                    raise MediaError("is not here any more; choose it again", path=path.name)
                visit.waiting.append(_shown(visit.chat, path, span))
            except VideoLlamaError as error:
                problems.append(_without_folder(error, path))
        if len(visit.files) == first:
            raise self._error("\n".join(problems), title="This file cannot be used")
        for problem in problems:
            self._gradio.Warning(problem, title="Left out")
        if not self._visits.is_here(visit, session):
            return self.look(session)
        return self._view(visit, saw=_all_seen(visit), status="")

    def ask(self, session: str, question: str, knobs: Sequence[float | None]) -> View:
        """Move the question from its box into the conversation, where it waits for its turn."""
        visit = self._visits.of(session)
        self._refuse_if_busy(visit)
        if not question.strip():
            raise self._error("Type a question first.", title="No question")
        if not visit.files:
            raise self._error(
                "Upload a file first; one that was here an hour ago is forgotten.", title="No file"
            )
        visit.pending = Asked(question, self._settings(visit.chat, knobs))
        return self._view(visit, question="", status="")

    def ask_again(self, session: str, knobs: Sequence[float | None]) -> View:
        """Let the last question wait for another answer."""
        visit = self._visits.of(session)
        self._refuse_if_busy(visit)
        if not visit.rounds:
            raise self._error("Ask something first.", title="No answer yet")
        settings = self._settings(visit.chat, knobs)
        visit.pending = Asked(visit.rounds[-1].asked.question, settings, again=True)
        return self._view(visit, status="")

    def answer(self, session: str) -> Iterator[View]:
        """Answer what is pending, growing the conversation piece by piece."""
        visit = self._visits.of(session)
        asked, visit.pending = visit.pending, None
        if asked is None:
            yield self.look(session)
            return
        replaced = visit.rounds.pop() if asked.again else None
        current = Round(replaced.files if replaced else visit.waiting, asked)
        visit.rounds.append(current)
        visit.waiting = visit.waiting if replaced else []
        try:
            for piece in _pieces(visit.chat, asked):
                current.answer += piece
                if not self._visits.is_here(visit, session):
                    break
                yield self._view(visit)
        except Exception as error:
            # Whatever it was, the chat has taken the question back, and so does the page.
            _take_back(visit, replaced)
            yield self._view(visit, question=None if replaced else asked.question)
            if not isinstance(error, VideoLlamaError):
                raise
            raise self._error(str(error), title="No answer") from error
        finally:
            # Also reached when the tab is closed in the middle of an answer.
            current.is_done = True
        history = visit.chat.history
        if replaced and history and not current.answer:
            # Stopped before its turn came, which leaves the old answer where it was.
            current.answer = history[-1].text
        if self._visits.is_here(visit, session):
            current.notes += visit.chat.take_notes()
            yield self._view(visit, status=told(visit.chat.last_usage))
        else:
            # Gradio shows the last view of an answer once more when it ends, so it must be this.
            yield self.look(session) if session in self._visits else NOTHING

    def stop(self, session: str) -> View:
        """End the answer being given, or withdraw the question that waits for its turn."""
        visit = self._visits.of(session)
        asked, visit.pending = visit.pending, None
        if asked is not None:
            return self._view(visit, question=None if asked.again else asked.question)
        visit.chat.stop()
        return self._view(visit)

    def undo(self, session: str) -> View:
        """Take the last question and its answer back; its files wait for the next one."""
        visit = self._visits.of(session)
        self._refuse_if_busy(visit)
        question = visit.chat.undo()
        if question is None or not visit.rounds:
            raise self._error("There is nothing to take back.", title="No answer yet")
        visit.waiting = [*visit.rounds.pop().files, *visit.waiting]
        return self._view(visit, question=question, status="")

    def clear(self, session: str) -> View:
        """Forget the conversation and delete its files."""
        self._visits.forget(session)
        return self._view(self._visits.of(session), saw="", status="", question="")

    def look(self, session: str) -> View:
        """Say once more what is to be shown."""
        visit = self._visits.of(session)
        return self._view(visit, saw=_all_seen(visit))

    def leave(self, session: str) -> None:
        """Note that a tab was closed."""
        self._visits.leave(session)

    def vote(self, session: str, index: int, verdict: Verdict) -> None:
        """Write down what somebody thinks of a message.

        Args:
            session: of the browser.
            index: of the message among the turns shown.
            verdict: what they think.
        """
        visit = self._visits.of(session)
        number = visit.round_of(index)
        if self._votes is None or number is None:
            raise self._error("Votes are for answers.", title="Not kept")
        past = visit.rounds[number]
        seen = [file for earlier in visit.rounds[: number + 1] for file in earlier.files]
        vote = Vote(
            verdict=verdict,
            conversation=visit.id,
            round=number,
            question=past.asked.question,
            answer=past.answer,
            media=[VotedMedia(kind, name) for file in seen for kind, name in file.media],
            settings=past.asked.settings,
            model=self._model,
            template=visit.chat.template.name,
        )
        try:
            self._votes.add(vote)
        except OSError as error:
            text = f"The vote could not be written ({error.strerror})."
            raise self._error(text, title="Not kept") from error

    def _settings(self, chat: Chat, knobs: Sequence[float | None]) -> GenerationSettings:
        """Return the settings the page asks for; an emptied field means the default."""
        given: dict[str, Any] = {
            name: int(value) if name in WHOLE else float(value)
            for name, value in zip(KNOBS, knobs, strict=True)
            if value is not None
        }
        try:
            return dataclasses.replace(chat.settings, **given)
        except ValueError as error:
            raise self._error(str(error), title="These settings do not go") from error

    def _error(self, text: str, *, title: str) -> Exception:
        """Return what is shown as a toast; a visitor's mistake is no traceback in our log."""
        error: Exception = self._gradio.Error(text, title=title, print_exception=False)
        return error

    def _refuse_if_busy(self, visit: Visit) -> None:
        if visit.is_busy:
            raise self._error(
                "An answer is being given; wait for it, or press Stop.", title="One at a time"
            )

    def _view(
        self,
        visit: Visit,
        *,
        saw: str | None = None,
        status: str | None = None,
        question: str | None = None,
    ) -> View:
        return View(
            turns=visit.turns(),
            is_busy=visit.is_busy,
            is_ready=bool(visit.files),
            can_go_back=bool(visit.rounds),
            saw=saw,
            status=status,
            question=question,
        )


def path_of(file: Any) -> Path | None:
    """Return where a file lies that Gradio hands over as it is, unopened."""
    path = file.get("path") if isinstance(file, Mapping) else file
    return Path(path) if path and isinstance(path, str) else None


def _pieces(chat: Chat, asked: Asked) -> Iterator[str]:
    """Begin an answer."""
    if asked.again:
        return chat.regenerate(settings=asked.settings)
    return chat.stream(asked.question, settings=asked.settings)


def _take_back(visit: Visit, replaced: Round | None) -> None:
    """Undo the round whose answer failed, as the chat has done."""
    failed = visit.rounds.pop()
    if replaced is None:
        visit.waiting = [*failed.files, *visit.waiting]
    else:
        visit.rounds.append(replaced)


def _shown(chat: Chat, path: Path, span: Span) -> ShownFile:
    """Upload a file and keep what the page shows of it."""
    upload = chat.upload(
        path, start_s=span.start_s, end_s=span.end_s, frames=span.frames, sound=span.sound
    )
    media = tuple((item.kind, item.content_hash) for item in upload.items)
    return ShownFile(path, saw=saw(upload, name=path.name), media=media, notes=upload.notes)


def _all_seen(visit: Visit) -> str:
    """Return what was seen of all files, the newest on top."""
    return "".join(file.saw for file in reversed(visit.files))


def _without_folder(error: VideoLlamaError, path: Path) -> str:
    """Say what is wrong with a file without the folder uploads are kept in."""
    reason = error.reason if isinstance(error, MediaError) else str(error)
    return f"{path.name}: {reason}".replace(str(path.parent), "").replace(str(path), path.name)
