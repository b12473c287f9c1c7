"""`video-llama chat`: talk to a picture, a clip or a sound in the terminal.

Without `--question` it reads questions line by line; `/help` lists the commands. With
`--question` it answers those and ends, with `--json` as one object for programs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from video_llama.apps.main import add_config_arguments
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.generation import GenerationSettings

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat, Upload

TOY_RUN_FILE = "eval_configs/toy/shipped.yaml"
"""What chat and demo load unless told otherwise: the small model that comes with the package."""

COMMANDS = {
    "/file PATH": "show the model another file",
    "/reset": "forget the conversation and its files",
    "/help": "list these commands",
    "/quit": "leave (so does Ctrl-D); Ctrl-C ends an answer",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `chat`."""
    add_config_arguments(parser, default=TOY_RUN_FILE)
    parser.add_argument(
        "--file", action="append", default=[], metavar="FILE", help="picture, clip or sound"
    )
    parser.add_argument(
        "--question", action="append", default=[], metavar="TEXT", help="ask this and end"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_generation_arguments(parser)


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how answers are generated."""
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 (default) gives the likeliest answer"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the draws above temperature 0")
    parser.add_argument(
        "--num-beams",
        type=int,
        metavar="N",
        help="answers followed side by side; 1 (default) is off",
    )


def with_arguments(settings: GenerationSettings, args: argparse.Namespace) -> GenerationSettings:
    """Return settings changed by the flags of `add_generation_arguments`.

    Raises:
        ConfigError: a value makes no sense.
    """
    names = ("max_new_tokens", "temperature", "seed", "num_beams")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        return dataclasses.replace(settings, **given)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def main(args: argparse.Namespace) -> int:
    """Load the model, show it the files, and talk."""
    from video_llama.apps.loading import load_chat

    if args.json and not args.question:
        raise ConfigError("--json: give at least one --question to answer")
    chat = load_chat(args.cfg_path, options=args.options)
    chat.settings = with_arguments(chat.settings, args)
    uploads = [(path, chat.upload(path)) for path in args.file]
    if args.json:
        print(json.dumps(_answers(chat, args.question, uploads), ensure_ascii=False, indent=2))
        return 0
    for path, upload in uploads:
        print(describe(path, upload))
    for question in args.question:
        print(f"> {question}")
        _say(chat, question)
    if not args.question:
        _talk(chat)
    return 0


def describe(path: str, upload: Upload) -> str:
    """Say in a few lines what the model got of a file."""
    lines = []
    for item in upload.items:
        times = ", ".join(f"{t:.1f}" for t in item.times_s)
        steps = {
            "image": "picture",
            "video": f"{len(item.times_s)} frames at {times} s",
            "audio": f"{len(item.times_s)} pieces of sound from {times} s on",
        }[item.kind]
        lines.append(f"[{path}: {steps}]")
    return "\n".join([*lines, *(f"[{path}: {note}]" for note in upload.notes)])


def _answers(chat: Chat, questions: list[str], uploads: list[tuple[str, Upload]]) -> dict[str, Any]:
    """Answer all questions and return what `--json` prints."""
    files = [
        {
            "path": path,
            "media": [{"kind": item.kind, "times_s": list(item.times_s)} for item in upload.items],
            "notes": list(upload.notes),
        }
        for path, upload in uploads
    ]
    answers = []
    for question in questions:
        answer = chat.ask(question)
        answers.append({"question": question, "answer": answer, "notes": chat.take_notes()})
    return {"files": files, "answers": answers}


def _talk(chat: Chat) -> None:
    """Read questions and commands until there are no more."""
    print("Ask a question, or /help.")
    for line in _lines():
        command, _, rest = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/help":
                print("\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items()))
            elif command == "/reset":
                chat.reset()
                print("[forgotten]")
            elif command == "/file":
                print(describe(rest.strip(), chat.upload(rest.strip())))
            elif command.startswith("/"):
                print(f"[no command {command}; /help lists them]")
            elif line:
                _say(chat, line)
        except VideoLlamaError as error:
            print(f"[{error}]")


def _lines() -> Iterator[str]:
    """Read lines from the terminal or a pipe until its end."""
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


def _say(chat: Chat, question: str) -> None:
    """Print an answer as it is generated; Ctrl-C ends it."""
    pieces = chat.stream(question)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        chat.stop()
        print(" [stopped]", end="")
    print()
    for note in chat.take_notes():
        print(f"[{note}]")
