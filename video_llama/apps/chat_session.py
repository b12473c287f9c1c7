"""A conversation in the terminal: questions, commands, and answers that may be interrupted."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from video_llama.apps.chat_screen import Screen, describe, harmless, what_is_seen
from video_llama.apps.chat_words import COMMANDS, FileWords, read_command, read_file_words, split
from video_llama.apps.generation_flags import with_assignments
from video_llama.apps.talk import named_failures
from video_llama.common.errors import VideoLlamaError

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat


class Session:
    """One person's conversation.

    Args:
        chat: what is talked to.
        screen: where it is shown.

    Attributes:
        num_failed: lines that could not be done.
    """

    def __init__(self, chat: Chat, *, screen: Screen) -> None:
        self.chat = chat
        self.num_failed = 0
        self._screen = screen
        self._commands: dict[str, Callable[[str], None]] = {
            "/file": lambda rest: self.show_file(read_file_words(rest)),
            "/files": lambda _: self._list_files(),
            "/undo": lambda _: self._undo(),
            "/regenerate": lambda _: self._regenerate(),
            "/reset": lambda _: self._reset(),
            "/save": self._save,
            "/load": self._load,
            "/set": self._set,
            "/settings": lambda _: self._show_settings(),
            "/system": self._system,
            "/help": lambda _: self._help(),
        }

    def talk(self, lines: Iterable[str]) -> None:
        """Answer lines until there are no more, or one says goodbye."""
        for line in lines:
            try:
                command = read_command(line)
                if command is None and line:
                    self.ask(line)
                elif command is not None and command.name == "/quit":
                    return
                elif command is not None:
                    with named_failures():
                        self._commands[command.name](command.rest)
            except VideoLlamaError as error:
                self.num_failed += 1
                self._screen.note(str(error))
            except KeyboardInterrupt:
                self._screen.note("stopped")

    @named_failures()
    def ask(self, question: str) -> bool:
        """Ask and show the answer as it is generated; return false if Ctrl-C ended it."""
        return self._say(self.chat.stream(question))

    @named_failures()
    def show_file(self, words: FileWords) -> None:
        """Show the model a file and say what it got of it."""
        with self._screen.busy(f"reading {harmless(words.path)}"):
            upload = self.chat.upload(words.path, **words.options)
        for line in describe(words.path, upload):
            self._screen.note(line)

    def _say(self, pieces: Iterator[str]) -> bool:
        """Show an answer; return false if it was stopped."""
        try:
            with _interrupts_go_to(self.chat), self._screen.waiting("thinking") as waiting:
                for piece in pieces:
                    waiting.done()
                    self._screen.piece(piece)
            usage = self.chat.last_usage
            is_stopped = usage is not None and usage.finish_reason == "stopped"
        except KeyboardInterrupt:
            is_stopped = True
        self._screen.line(" [stopped]" if is_stopped else "")
        for note in self.chat.take_notes():
            self._screen.note(note)
        return not is_stopped

    def _list_files(self) -> None:
        """Name the files of the conversation, question by question."""
        questions = [message for message in self.chat.history if message.role == "user"]
        shown = [
            f"question {number}: {item.path}: {what_is_seen(item)}"
            for number, message in enumerate(questions, start=1)
            for item in message.media
        ]
        shown += [
            f"next question: {item.path}: {what_is_seen(item)}"
            for upload in self.chat.uploads
            for item in upload.items
        ]
        for line in shown or ["no files; /file PATH shows one"]:
            self._screen.note(line)

    def _undo(self) -> None:
        question = self.chat.undo()
        told = "nothing to take back" if question is None else f"taken back: {question}"
        self._screen.note(told)

    def _regenerate(self) -> None:
        self._say(self.chat.regenerate())

    def _reset(self) -> None:
        self.chat.reset()
        self._screen.note("forgotten")

    def _save(self, folder: str) -> None:
        self.chat.save(read_file_words(folder).path)
        self._screen.note(f"kept in {folder}; /load {folder} goes on with it")

    def _load(self, folder: str) -> None:
        with self._screen.busy("reading the conversation and its files"):
            self.chat.restore(read_file_words(folder).path)
        for message in self.chat.history:
            who = "> " if message.role == "user" else ""
            self._screen.line(who + message.text.strip())

    def _set(self, words: str) -> None:
        self.chat.settings = with_assignments(self.chat.settings, split(words))
        self._show_settings()

    def _show_settings(self) -> None:
        settings = dataclasses.asdict(self.chat.settings)
        self._screen.note(" ".join(f"{name}={value}" for name, value in settings.items()))

    def _system(self, text: str) -> None:
        if text:
            words = "" if text in ('""', "''") else text
            self.chat.set_system(words)
        self._screen.note(f"system text: {self.chat.template.chat.system or 'none'}")

    def _help(self) -> None:
        heads = {name: f"{name} {words}".strip() for name, (words, _) in COMMANDS.items()}
        width = max(len(head) for head in heads.values() if len(head) < 30)
        for name, (_, text) in COMMANDS.items():
            self._screen.line(f"  {heads[name]:<{width}}  {text}")


@contextmanager
def _interrupts_go_to(chat: Chat) -> Iterator[None]:
    """Let Ctrl-C end an answer behind its next token; a second one ends it wherever it is."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        chat.stop()

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread is told of signals.
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
