"""What can be typed into a chat in the terminal: commands, their words, and how they go on.

Pure functions of text, apart from a look into folders when a path is completed.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_llama.apps.generation_flags import TYPES
from video_llama.common.errors import ConfigError
from video_llama.common.registry import did_you_mean, unknown_name

COMMANDS = {
    "/file": ("PATH [start=S end=S frames=N fps=F sound=off]", "show the model another file"),
    "/files": ("", "list the files of the conversation"),
    "/undo": ("", "take the last question and its answer back"),
    "/regenerate": ("", "answer the last question again (also: /again)"),
    "/reset": ("", "forget the conversation and its files"),
    "/save": ("FOLDER", "keep the conversation"),
    "/load": ("FOLDER", "go on with one that was kept"),
    "/set": ("NAME=VALUE ...", "change how answers are generated, e.g. temperature=0.2"),
    "/settings": ("", "show how answers are generated"),
    "/system": ("[TEXT]", 'show the system text, or set another one; "" takes it away'),
    "/help": ("", "list these commands"),
    "/quit": ("", "leave (so does Ctrl-D); Ctrl-C ends an answer"),
}
"""Every command with its words and what it does."""

SHORT = {"/again": "/regenerate", "/exit": "/quit", "/?": "/help"}
"""Other names of commands."""

WITH_PATH = ("/file", "/save", "/load")
FILE_OPTIONS = ("start", "end", "frames", "fps", "sound")


@dataclass(frozen=True)
class Command:
    """A line that is no question.

    Attributes:
        name: of the command, the long one.
        rest: the line behind it.
    """

    name: str
    rest: str


@dataclass(frozen=True)
class FileWords:
    """What `/file` or `--file` is followed by.

    Attributes:
        path: of the file.
        options: as `Chat.upload` takes them.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)


def read_command(line: str) -> Command | None:
    """Read a line as a command; None if it is a question.

    Raises:
        ConfigError: it begins like a command and there is none of that name.
    """
    name, _, rest = line.partition(" ")
    # A path at the beginning of a question is no command.
    if not name.startswith("/") or "/" in name[1:]:
        return None
    name = SHORT.get(name, name)
    if name not in COMMANDS:
        hint = did_you_mean(name, [*COMMANDS, *SHORT])
        raise ConfigError(f"no command {name}{hint}; /help lists them")
    rest = rest.strip()
    usage = COMMANDS[name][0]
    if rest and not usage:
        raise ConfigError(f"{name} takes nothing, found '{rest}'")
    if not rest and usage and not usage.startswith("["):
        raise ConfigError(f"{name} needs more: {name} {usage}")
    return Command(name, rest)


def read_file_words(text: str) -> FileWords:
    """Read a path with options like `start=2.5`; a path with spaces needs no quotes.

    Raises:
        ConfigError: an option is unknown or no number.
    """
    if _is_there(text):
        return FileWords(str(Path(text).expanduser()))
    words = split(text)
    path = [word for number, word in enumerate(words) if number == 0 or "=" not in word]
    options = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            options.update(_option(name, value))
    return FileWords(str(Path(" ".join(path)).expanduser()), options)


def split(text: str) -> list[str]:
    """Cut a text into words as a shell does.

    Raises:
        ConfigError: a quotation mark is missing.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {str(error).lower()}") from error


def complete(line: str) -> list[str]:
    """Return the lines that a line may go on to.

    Args:
        line: up to the cursor.
    """
    name, space, rest = line.partition(" ")
    if not name.startswith("/"):
        return []
    if not space:
        return [f"{known} " for known in (*COMMANDS, *SHORT) if known.startswith(name)]
    name = SHORT.get(name, name)
    if name == "/set":
        head, _, word = rest.rpartition(" ")
        before = f"{name} {head} " if head else f"{name} "
        return [f"{before}{known}=" for known in TYPES if known.startswith(word)]
    if name in WITH_PATH:
        return [f"{name} {path}" for path in _paths(rest, folders_only=name != "/file")]
    return []


def _is_there(text: str) -> bool:
    """Say whether a text as a whole is a path."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        # Too long, of an unknown user, or with a zero in it.
        return False


def _option(name: str, value: str) -> dict[str, Any]:
    """Read an option of a file, as `Chat.upload` takes it."""
    if name not in FILE_OPTIONS:
        raise ConfigError(unknown_name(name, FILE_OPTIONS, what="option of a file"))
    if name == "sound":
        if value not in ("on", "off"):
            raise ConfigError(f"sound is on or off, found '{value}'")
        return {"sound": value == "on"}
    try:
        number = int(value) if name == "frames" else float(value)
    except ValueError:
        kind = "a whole number" if name == "frames" else "a number"
        raise ConfigError(f"{name} must be {kind}, found '{value}'") from None
    return {{"start": "start_s", "end": "end_s"}.get(name, name): number}


def _paths(typed: str, *, folders_only: bool) -> list[str]:
    """Return what a path may go on to, quoted where a shell would want it."""
    bare = typed.lstrip("'\"")
    folder, _, start = bare.rpartition("/")
    shown = Path(folder + "/" if folder or bare.startswith("/") else ".").expanduser()
    try:
        entries = sorted(os.scandir(shown), key=lambda entry: entry.name)
    except OSError:
        return []
    found = []
    for entry in entries:
        is_hidden = entry.name.startswith(".") and not start.startswith(".")
        if is_hidden or not entry.name.startswith(start) or (folders_only and not entry.is_dir()):
            continue
        path = bare[: len(bare) - len(start)] + entry.name
        quoted = shlex.quote(path) if " " in path else path
        found.append(quoted.rstrip("'") + "/" if entry.is_dir() else f"{quoted} ")
    return found
