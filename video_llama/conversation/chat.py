"""A conversation about pictures, clips and sounds with a model that is handed in.

Files are read as in training and text is laid out by the same renderer. An upload is encoded once;
what the decoder has read of a conversation is not read again. One `Chat` is one conversation of
one person; `another` opens one for somebody else, and any number of them may be used from as many
threads, since they wait for each other at the turnstile in `Shared`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.common.generation import GenerationSettings
from video_llama.common.types import Message
from video_llama.conversation.chat_model import ChatModel, Reader
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.layouts import Template
from video_llama.conversation.prompts import Laid, PromptWriter
from video_llama.conversation.rounds import Conversation, Question, Upload, Usage
from video_llama.conversation.saving import read_saved, write_saved
from video_llama.conversation.shared import Shared
from video_llama.conversation.side_by_side import answer_laid
from video_llama.conversation.speaking import Speaker
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.conversation.uploading import IN_MEMORY, content_of, received
from video_llama.processors.uploads import UploadRequest

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Chat", "ChatModel", "Question", "Shared", "Upload", "Usage"]


class Chat:
    """A conversation.

    Args:
        model: anything that speaks `ChatModel`.
        tokenizer: of the decoder.
        template: the prompt format the model was trained with.
        reader: reads uploads for the model's branches.
        settings: of answers, unless a question brings its own; by default greedy, with at most
            the published 300 tokens, or a quarter of a context that is short.
        compat: quirks to keep for released weights.
        shared: what this conversation has in common with others; None makes one of its own.

    Attributes:
        settings: may be replaced between questions.
        model, tokenizer: as given.
        max_context: decoder positions for the conversation and its longest answer.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        tokenizer: Tokenizer,
        template: Template,
        reader: Reader,
        settings: GenerationSettings | None = None,
        compat: ChatCompat | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._compat = compat or ChatCompat()
        self.max_context = min(model.max_context, self._compat.max_length or model.max_context)
        self.settings = settings or GenerationSettings(max(1, min(300, self.max_context // 4)))
        self.model = model
        self.tokenizer = tokenizer
        self._reader = reader
        writer = PromptWriter(template, tokenizer, self.max_context, self._compat.overflow)
        self._speaker = Speaker(model, writer=writer, shared=shared or Shared())

    @property
    def shared(self) -> Shared:
        """What this conversation has in common with others; replace it before they are opened."""
        return self._speaker.shared

    @shared.setter
    def shared(self, shared: Shared) -> None:
        self._speaker.shared = shared

    @property
    def template(self) -> Template:
        """The prompt format, as given but for its system text."""
        return self._speaker.writer.template

    @property
    def history(self) -> tuple[Message, ...]:
        """All turns so far; media stand where they were shown, without their pixels."""
        return tuple(self._speaker.conversation.messages())

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """What belongs to the next question, without pixels."""
        return tuple(self._speaker.conversation.waiting)

    @property
    def last_usage(self) -> Usage | None:
        """What the last answer took, None before the first."""
        return self._speaker.last_usage

    @property
    def position(self) -> int | None:
        """How many stand before this conversation at the turnstile; None if it does not wait."""
        return self.shared.line.position(self._speaker)

    def another(self) -> Chat:
        """Return a fresh conversation with the same model, for another person."""
        return Chat(
            self.model,
            tokenizer=self.tokenizer,
            template=self.template,
            reader=self._reader,
            settings=self.settings,
            compat=self._compat,
            shared=self.shared,
        )

    def turn(self) -> AbstractContextManager[object]:
        """Wait at the turnstile for the model, and hold it for the length of a `with` block."""
        return self.shared.line.turn(self._speaker)

    def set_system(self, text: str) -> None:
        """Give what is asked from now on another system text; marks in it are made harmless."""
        self._speaker.set_system(text)

    def reset(self) -> None:
        """Forget the conversation and its media."""
        self._speaker.begin_anew(Conversation())

    def stop(self) -> None:
        """End answers after the next token, and uploads on their way; from any thread."""
        self._speaker.stop()

    def take_notes(self) -> list[str]:
        """Return what the person should be told since the last call, e.g. forgotten turns."""
        return self._speaker.take_notes()

    def upload(
        self,
        source: str | Path | bytes | Image,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        frames: int | None = None,
        fps: float | None = None,
        sound: bool = True,
    ) -> Upload:
        """Show the model a file; it belongs to the next question.

        What it is, is decided by its content. A video with sound is seen and heard if the model
        has a branch for each, otherwise the missing half is named in the notes.

        Args:
            source: a file, a folder of frames, the content of a file, or a PIL image.
            start_s: first second to use, None for the beginning.
            end_s: last second to use, None for the end.
            frames: how many are taken from a clip, None for as many as the model was trained with.
            fps: take so many a second instead; of a folder, how fast its frames follow.
            sound: false leaves the sound track of a clip out.

        Raises:
            MediaError: it cannot be read, holds nothing for the model, or was stopped.
            ContextOverflow: the media of the conversation alone no longer fit the decoder.
        """
        data = None if isinstance(source, str | Path) else content_of(source)
        request = UploadRequest(
            IN_MEMORY if data is not None else str(source),
            data=data,
            start_s=start_s,
            end_s=end_s,
            frames=frames,
            fps=fps,
            sound=sound,
        )
        conversation = self._speaker.conversation
        upload = self._receive(request, conversation)
        with self._speaker.lock:
            conversation.waiting.append(upload.without_pixels())
        return upload

    def ask(self, question: Question, *, settings: GenerationSettings | None = None) -> str:
        """Ask and wait for the whole answer; see `stream`."""
        answer = self._speaker.expect(question, settings=settings or self.settings)
        return "".join(self._speaker.answer(answer, lends=False))

    def stream(
        self, question: Question, *, settings: GenerationSettings | None = None
    ) -> Iterator[str]:
        """Ask and return the answer's pieces as they are generated.

        The question joins the files uploaded since the last one. If the conversation no longer
        fits the decoder, whole old rounds are left out (their media stay), and a note says so. An
        answer that is stopped, or that nobody reads on, stays as far as it was shown; of one that
        fails, or is stopped before its turn, not even the question stays.

        Args:
            question: any text; template marks in it are made harmless. Or texts and uploads in
                the order in which they are to be read; uploads that are not named stand in front.
            settings: for this answer only.

        Raises:
            ConfigError: the question is empty, or no room is left for an answer.
            ContextOverflow: the media and this question alone do not fit.
        """
        answer = self._speaker.expect(question, settings=settings or self.settings)
        return self._speaker.answer(answer)

    def regenerate(self, *, settings: GenerationSettings | None = None) -> Iterator[str]:
        """Answer the last question again; the old answer goes when the new one begins.

        Raises:
            ConfigError: nothing was asked yet.
        """
        answer = self._speaker.expect(None, settings=settings or self.settings)
        return self._speaker.answer(answer)

    def undo(self) -> str | None:
        """Take the last round back; its media wait for the next question again.

        Returns:
            The words of its question, None if there is no round.
        """
        last = self._speaker.take_back()
        return None if last is None else last.question

    def remember(self, question: Question, answer: str) -> None:
        """Add a round that was held elsewhere, without asking the model.

        Args:
            question: as in `stream`; uploads that wait belong to it.
            answer: what was said.

        Raises:
            ConfigError: the question is empty.
        """
        self._speaker.remember(question, answer=answer.strip())

    def ask_many(
        self, questions: Sequence[Question], *, settings: GenerationSettings | None = None
    ) -> list[str]:
        """Ask several questions side by side, each on its own after the conversation so far.

        The conversation stays as it is; uploads that wait stand before every question.

        Raises:
            ConfigError: a question is empty, or no room is left for an answer.
            ContextOverflow: a question does not fit.
        """
        laid = [self.lay_out(question, settings=settings) for question in questions]
        return [answer.text for answer in answer_laid(laid, chat=self, settings=settings)]

    def lay_out(self, question: Question, *, settings: GenerationSettings | None = None) -> Laid:
        """Lay a question out behind the conversation so far, without asking it.

        Raises:
            ConfigError: the question is empty, or no room is left for an answer.
            ContextOverflow: it does not fit.
        """
        with self._speaker.lock:
            content = self._speaker.compose(question)
            return self._speaker.lay_out(content, settings=settings or self.settings)

    def save(self, folder: str | Path) -> None:
        """Write the conversation down; files stay where they are, other media are written too.

        Args:
            folder: made if need be; a conversation that is there is replaced.

        Raises:
            VideoLlamaError: it cannot be written there.
        """
        write_saved(self._speaker.kept(settings=self.settings), folder=Path(folder))

    def restore(self, folder: str | Path) -> None:
        """Go on with a conversation that was saved, in place of this one; media are read again.

        Raises:
            ConfigError: there is no conversation in the folder, or not a whole one.
            MediaError: a file it is about is missing or has changed; this one stays as it is.
        """
        conversation = Conversation()
        saved = read_saved(Path(folder), receive=partial(self._receive, conversation=conversation))
        conversation.rounds, conversation.waiting = list(saved.rounds), list(saved.waiting)
        self._speaker.begin_anew(conversation)
        self.settings = saved.settings
        if saved.system is not None:
            self.set_system(saved.system)

    def _receive(self, request: UploadRequest, conversation: Conversation) -> Upload:
        """Read a file and see to its tokens."""
        # From before it is read, which may take longest.
        stopped = self._speaker.expect_upload()
        upload = received(self._reader.read(request), request=request)
        self._speaker.take_in(upload, conversation=conversation, stopped=stopped)
        return upload
