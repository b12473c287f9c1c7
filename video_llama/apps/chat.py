"""`video-llama chat`: talk to pictures, clips and sounds in the terminal.

    video-llama chat --file clip.mp4
    video-llama chat --file clip.mp4 --question "What happens?" --question "When?" --json

Without `--question` it reads questions line by line; `/help` lists the commands. With it, those
are answered and it ends, `--json` makes one object for programs of the answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from video_llama.apps.chat_answers import answer_all, no_answers
from video_llama.apps.chat_line import Lines, history_path
from video_llama.apps.chat_screen import Screen
from video_llama.apps.chat_session import Session
from video_llama.apps.chat_words import FileWords, read_file_words
from video_llama.apps.generation_flags import add_generation_arguments, with_arguments
from video_llama.apps.talk import TOY_RUN_FILE as TOY_RUN_FILE
from video_llama.apps.talk import add_talk_arguments, config_of, open_chat
from video_llama.common.errors import ConfigError, VideoLlamaError

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended, as shells have it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `chat`."""
    add_talk_arguments(parser)
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="FILE",
        help="picture, clip, sound, or folder of frames; may be followed by words in the same "
        'argument: "clip.mp4 start=2 end=8 frames=16", fps=2, sound=off',
    )
    parser.add_argument(
        "--question", action="append", default=[], metavar="TEXT", help="ask this and end"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--system", metavar="TEXT", help="system text instead of the template's")
    parser.add_argument(
        "--no-history",
        action="store_true",
        help="do not keep the lines typed (in ~/.local/state/video-llama/chat_history)",
    )
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Load the model, show it the files, and talk."""
    if args.json and not args.question:
        raise ConfigError("--json: give at least one --question to answer")
    if args.json:
        return _print_answers(args)
    screen = Screen()
    files = [read_file_words(text) for text in args.file]
    with screen.busy("loading the model"):
        chat = _open(args, files)
    session = Session(chat, screen=screen)
    for words in files:
        session.show_file(words)
    for question in args.question:
        screen.line(f"> {question}")
        if not session.ask(question):
            return INTERRUPTED
    if args.question:
        return 0
    with Lines(history=None if args.no_history else history_path()) as lines:
        if lines.is_typed:
            screen.line("Ask a question, or /help.")
        session.talk(lines)
    # Who types sees what went wrong; a script has only the code.
    return 2 if session.num_failed and not lines.is_typed else 0


def _open(args: argparse.Namespace, files: Sequence[FileWords]) -> Chat:
    """Load the model, unless the files are not for it."""
    from video_llama.apps.loading import check_media

    if files:
        check_media(config_of(args), [words.path for words in files])
    chat = open_chat(args)
    chat.settings = with_arguments(chat.settings, args)
    if args.system is not None:
        chat.set_system(args.system)
    return chat


def _print_answers(args: argparse.Namespace) -> int:
    """Print the object for programs, also if something goes wrong on the way."""
    try:
        files = [read_file_words(text) for text in args.file]
        told = answer_all(_open(args, files), files=files, questions=args.question)
    except VideoLlamaError as error:
        told = no_answers(error)
    is_utf8 = "utf" in (sys.stdout.encoding or "").lower()
    print(json.dumps(told, ensure_ascii=not is_utf8, indent=2))
    if told["error"] is None:
        return 0
    print(f"error: {told['error']}", file=sys.stderr)
    return 2
