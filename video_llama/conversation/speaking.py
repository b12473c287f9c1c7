"""The side of a conversation that speaks: questions become answers, one after the other.

It decides when an answer begins, what ends it, and what the conversation is afterwards. Reading
files, and all that a person may do besides asking, is the chat's business.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.conversation.answering import Answer, generate
from video_llama.conversation.chat_model import ChatModel
from video_llama.conversation.prompts import Laid, PromptWriter
from video_llama.conversation.rounds import (
    Content,
    Conversation,
    Question,
    Round,
    Upload,
    Usage,
    compose,
    spellable,
)
from video_llama.conversation.saving import SavedChat
from video_llama.conversation.shared import CacheSlot, Shared
from video_llama.conversation.templates import with_system
from video_llama.conversation.turnstile import Turn
from video_llama.conversation.uploading import check_room, encode_upload


class Speaker:
    """Answers the questions of one conversation.

    Args:
        model: anything that speaks `ChatModel`.
        writer: lays prompts out.
        shared: what this conversation has in common with others.

    Attributes:
        conversation: the present one; `begin_anew` replaces it.
        lock: guards it.
        writer: as given, but for the system text.
        shared: as given.
        system: text given to `set_system`, None for the template's own.
        last_usage: what the last answer took, None before the first.
    """

    def __init__(self, model: ChatModel, *, writer: PromptWriter, shared: Shared) -> None:
        self.conversation = Conversation()
        # Re-entrant, because an answer may be thrown away, and end, at any moment.
        self.lock = threading.RLock()
        self.system: str | None = None
        self.last_usage: Usage | None = None
        self._model = model
        self.writer = writer
        self.shared = shared
        self._cache = CacheSlot()
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()
        self._arriving: weakref.WeakSet[threading.Event] = weakref.WeakSet()
        self._running: Answer | None = None

    def set_system(self, text: str) -> None:
        """Change the system text; what was read with the old one is read again."""
        special = self.writer.tokenizer.special_texts
        with self.lock:
            self.system = spellable(text)
            template = with_system(self.writer.template, text, extra_marks=special)
            self.writer = dataclasses.replace(self.writer, template=template)

    def stop(self) -> None:
        """End all answers and uploads on their way; what waits is not begun."""
        with self.lock:
            ends = [*(answer.stopped for answer in self._answers), *self._arriving]
        for end in ends:
            end.set()
        self.shared.line.wake()

    def kept(self, *, settings: GenerationSettings) -> SavedChat:
        """Return what is saved of the conversation, as it is at this moment."""
        with self.lock:
            rounds, waiting = tuple(self.conversation.rounds), tuple(self.conversation.waiting)
            return SavedChat(rounds, waiting, settings, self.system)

    def begin_anew(self, conversation: Conversation) -> None:
        """Leave the conversation for another; answers on their way end in the old one."""
        self.stop()
        with self.lock:
            self.conversation = conversation
            self._cache.cache = None

    def take_notes(self) -> list[str]:
        """Return what the person has not been told yet."""
        with self.lock:
            notes, self.conversation.notes = self.conversation.notes, []
        return notes

    def take_back(self) -> Round | None:
        """Take the last round back, be it on its way."""
        with self.lock:
            self.end_running()
            return self.conversation.take_back()

    def remember(self, question: Question, *, answer: str) -> None:
        """Add a round that was held elsewhere.

        Raises:
            ConfigError: the question is empty.
        """
        with self.lock:
            self.end_running()
            content, conversation = self.compose(question), self.conversation
            conversation.enter(Round(content, spellable(answer), conversation.num_forgotten))

    def end_running(self) -> None:
        """End an answer on its way now, in favour of what comes next."""
        with self.lock:
            running, self._running = self._running, None
            if running is not None:
                running.stopped.set()
                self._finish(running)

    def compose(self, question: Question) -> Content:
        """Put a question and its uploads in text order, and hold on to their tokens.

        Raises:
            ConfigError: it is empty, or an upload is not known here.
        """
        return self._composed(question, conversation=self.conversation)

    def expect(self, question: Question | None, *, settings: GenerationSettings) -> Answer:
        """Prepare for an answer, and refuse what could not be asked now.

        Args:
            question: None for the last one again.
            settings: of its generation.

        Raises:
            ConfigError: the question is empty, there is none, or no room is left for an answer.
            ContextOverflow: the media and this question alone do not fit.
        """
        with self.lock:
            answer = Answer(self.conversation, question=question, settings=settings)
            if question is not None:
                answer.laid = self.lay_out(self.compose(question), settings=settings)
            elif not self.conversation.rounds and self._running is None:
                raise ConfigError(_NOTHING_ASKED)
            self._answers.add(answer)
        return answer

    def lay_out(self, content: Content, *, settings: GenerationSettings) -> Laid:
        """Lay a question out behind the conversation so far; see `PromptWriter.write`."""
        return self.writer.write(content, conversation=self.conversation, settings=settings)

    def expect_upload(self) -> threading.Event:
        """Return what `stop` sets while an upload is on its way; whoever lets go of it is done."""
        stopped = threading.Event()
        with self.lock:
            self._arriving.add(stopped)
        return stopped

    def take_in(
        self, upload: Upload, *, conversation: Conversation, stopped: threading.Event
    ) -> None:
        """See to the tokens of an upload when it is our turn.

        Args:
            upload: with its pixels.
            conversation: that it belongs to.
            stopped: from `expect_upload`, before it was read.

        Raises:
            ContextOverflow: the media of the conversation alone would not fit.
            MediaError: it was stopped before its turn.
        """
        check_room(upload, conversation=conversation, max_context=self.writer.max_context)
        with self.shared.line.turn(self, given_up=stopped.is_set) as turn:
            if not turn.granted:
                raise MediaError("stopped before the model was free", path=upload.name)
            held = encode_upload(upload, model=self._model, tokens=self.shared.tokens)
        with self.lock:
            conversation.tokens |= held

    def answer(self, answer: Answer, *, lends: bool = True) -> Iterator[str]:
        """Generate when it is our turn, and let the round become part of the conversation.

        Args:
            answer: from `expect`.
            lends: lend our turn while somebody takes the pieces; false for who takes them at once.
        """
        with self.shared.line.turn(self, given_up=answer.stopped.is_set) as turn:
            answer.usage = dataclasses.replace(answer.usage, waited_s=turn.waited_s)
            try:
                if turn.granted:
                    yield from self._speak(answer, turn, lends=lends)
            except Exception:
                self._withdraw(answer)
                raise
            finally:
                # Also reached when the listener goes away in the middle of an answer.
                self._finish(answer)

    def _speak(self, answer: Answer, turn: Turn, *, lends: bool) -> Iterator[str]:
        """Generate what is asked now."""
        prompt = self._begin(answer)
        pieces = generate(
            answer,
            model=self._model,
            prompt=prompt,
            cache=self.shared.caches.take(self._cache, make=self._model.new_prompt_cache),
            tokenizer=self.writer.tokenizer,
            stop=self.writer.template.stop,
        )
        for piece in pieces:
            with self.shared.line.lent(turn) if lends else nullcontext():
                yield piece

    def _begin(self, answer: Answer) -> Prompt:
        """Settle what is asked, now that nothing else is; an earlier answer ends here."""
        with self.lock:
            self.end_running()
            conversation = answer.conversation
            if answer.question is not None:
                answer.content = self._composed(answer.question, conversation=conversation)
            else:
                answer.replaced = conversation.take_back()
                if answer.replaced is None:
                    raise ConfigError(_NOTHING_ASKED)
                answer.content = answer.replaced.content
            laid = answer.laid
            if laid is None or not laid.is_for(answer.content, conversation=conversation):
                laid = self.writer.write(
                    answer.content, conversation=conversation, settings=answer.settings
                )
            if laid.num_forgotten > conversation.num_forgotten:
                conversation.notes.append(
                    f"The conversation no longer fits the model's {self.writer.max_context} "
                    f"positions: its first {laid.num_forgotten} question(s) are forgotten."
                )
            answer.num_forgotten = laid.num_forgotten
            self._running = answer
        return laid.prompt

    def _composed(self, question: Question, *, conversation: Conversation) -> Content:
        content = compose(question, waiting=conversation.waiting)
        for upload in Round(content, "").uploads:
            for key in upload.keys:
                tokens = conversation.tokens.get(key, self.shared.tokens.get(key))
                if tokens is None:
                    raise ConfigError(
                        f"{upload.name}: was not uploaded to this conversation; upload it first"
                    )
                conversation.tokens[key] = tokens
        return content

    def _finish(self, answer: Answer) -> None:
        """Let an answer that has begun become part of its conversation as far as it was shown."""
        with self.lock:
            if answer.is_over:
                return
            self._close(answer)
            if answer.content:
                entry = Round(answer.content, answer.said, answer.num_forgotten)
                answer.conversation.enter(entry)
            self.last_usage = answer.usage

    def _withdraw(self, answer: Answer) -> None:
        """Take an answer that failed back, so that the conversation is as before its question."""
        with self.lock:
            if answer.replaced is not None and not answer.is_over:
                answer.conversation.enter(answer.replaced)
            self._close(answer)

    def _close(self, answer: Answer) -> None:
        """Let go of an answer and of the media in its prompt."""
        answer.is_over, answer.laid = True, None
        if self._running is answer:
            self._running = None


_NOTHING_ASKED = "there is no answer to give again; ask a question first"
