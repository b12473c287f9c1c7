"""`video-llama predict`: answer a file of questions without anybody watching.

    video-llama predict --cfg-path X --input questions.jsonl --output answers.jsonl
    torchrun --nproc_per_node=2 -m video_llama.apps.main predict --input ... --output ...

Answers are those of `video-llama chat`. What is answered survives a kill; the same command goes on
with what is missing, on any number of processes. Every row is answered or says why not.

Exit codes: 0 all rows are answered, 3 some have an error instead, 2 nothing could be started.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.apps.generation_flags import FLAGS, add_generation_arguments, with_arguments
from video_llama.apps.talk import add_talk_arguments, config_of, log_to_stderr, open_chat
from video_llama.common.dist import barrier, is_main, process_group
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.logger import get_logger
from video_llama.common.types import MEDIA_KINDS
from video_llama.datasets.question_rows import QuestionFile, QuestionRow, read_questions
from video_llama.runners.write_errors import require_writable

if TYPE_CHECKING:
    from video_llama.common.schema import Config
    from video_llama.tasks.resumable import ResumableResults, Row

SOME_FAILED = 3
"""Exit code of a run that is finished and has rows with an error."""

PATIENCE = timedelta(days=7)
"""How long the fastest process waits for the others to finish their shares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `predict`."""
    add_talk_arguments(parser)
    parser.add_argument("--input", required=True, metavar="FILE", help="questions, one JSON a line")
    parser.add_argument("--output", required=True, metavar="FILE", help="answers, likewise")
    parser.add_argument(
        "--media", metavar="DIR", help="where relative paths start (default: folder of --input)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N",
        help="questions answered side by side on each process (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--decode-timeout-s", type=float, default=60.0, metavar="S",
        help="seconds a file may take to be decoded (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--retry-errors", action="store_true", help="ask rows again that ended with an error"
    )
    parser.add_argument("--system", metavar="TEXT", help="system text of rows without their own")
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Answer what is not answered yet, and say how it went.

    Raises:
        VideoLlamaError: nothing could be started, or memory ran out.
    """
    log_to_stderr(verbose=args.verbose)
    output = Path(args.output)
    _check_flags(args)
    media = None if args.media is None else Path(args.media)
    questions = read_questions(Path(args.input), media=media)
    require_writable(output.parent, key="--output")
    config = config_of(args)
    store = _open_store(args, questions, config=config)
    _look_for_media(questions.rows)
    if not store.is_complete():
        _look_into_media(questions.rows, config=config)
    results = _predict(args, questions, config=config, store=store)
    failed = [row for row in results if row["error"] is not None]
    if is_main():
        _report(args.output, results=results, failed=failed)
    return SOME_FAILED if failed else 0


def _predict(
    args: argparse.Namespace, questions: QuestionFile, *, config: Config, store: ResumableResults
) -> list[Row]:
    """Answer on all processes; every one gets all results."""
    import torch

    from video_llama.apps.devices import pick_device
    from video_llama.apps.evaluate import progress_bar
    from video_llama.common.heap import keep_freed_memory
    from video_llama.tasks.row_answers import RowAnswerer

    device = pick_device(config.run)
    with process_group(device, timeout=PATIENCE) as world:
        if args.retry_errors and is_main():
            store.take_back(lambda row: row["error"] is not None)
        barrier()
        if not store.is_complete():
            # Parts that start from random weights are the same on every rank and in every start.
            torch.manual_seed(config.run.seed)
            device = world.own_device(device)
            chat = open_chat(args, device=device, decode_timeout_s=args.decode_timeout_s)
            chat.settings = with_arguments(chat.settings, args)
            if args.system is not None:
                chat.set_system(args.system)
            if device == "cpu":
                keep_freed_memory()
            answerer = RowAnswerer(chat, batch_size=args.batch_size)
            with progress_bar(Path(args.input).name) as show, _enough_memory(args.batch_size):
                answerer.answer_missing(questions.rows, store=store, on_progress=show)
        return store.collect()


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that make no sense, before anything is read."""
    problems = []
    if args.batch_size < 1:
        problems.append(f"--batch-size: {args.batch_size}, expected 1 or more")
    if not args.decode_timeout_s > 0:
        problems.append(f"--decode-timeout-s: {args.decode_timeout_s:g}, expected more than 0")
    if Path(args.input).absolute() == Path(args.output).absolute():
        problems.append(f"--output: {args.output} is the --input; give another file")
    if args.media is not None and not Path(args.media).is_dir():
        problems.append(f"--media: {args.media}: no such folder")
    if problems:
        raise ConfigError(problems)
    with_arguments(GenerationSettings(), args)


def _open_store(
    args: argparse.Namespace, questions: QuestionFile, *, config: Config
) -> ResumableResults:
    """Find the answers there are already; those of other questions or models are refused."""
    from video_llama.apps.evaluate_identity import model_identity
    from video_llama.tasks.resumable import ResumableResults

    output = Path(args.output)
    folder = output.with_name(output.name + ".parts")
    if output.exists() and not (folder / "identity.json").is_file():
        raise ConfigError(
            f"--output: {output} is there, and nothing beside it says what it holds answers to "
            f"({folder.name} is missing); name another file, or move this one away"
        )
    given = {
        name: getattr(args, name) for name in (*FLAGS, "system") if getattr(args, name) is not None
    }
    start = Path(args.input).parent if args.media is None else Path(args.media)
    files = [Path(file.path) for row in questions.rows for file in row.files]
    if any(path.is_relative_to(start) for path in files):
        given["media"] = str(start.resolve())
    identity = {**model_identity(config), "questions": questions.digest, **given}
    return ResumableResults(folder, final=output, identity=identity, key="--output", run="call")


def _look_for_media(rows: Sequence[QuestionRow]) -> None:
    """Refuse a file of questions none of whose media are there; warn of some that are not."""
    paths = list(dict.fromkeys(file.path for row in rows for file in row.files))
    absent = [path for path in paths if not Path(path).exists()]
    if not absent:
        return
    if len(absent) == len(paths):
        raise ConfigError(
            f"--media: none of {len(paths)} files is there, the first is {absent[0]}; relative "
            "paths start from the folder of --input unless --media names another"
        )
    get_logger().warning(
        "%d of %d files are not there, the first is %s; their rows will say so",
        len(absent), len(paths), absent[0],
    )  # fmt: skip


def _look_into_media(rows: Sequence[QuestionRow], *, config: Config) -> None:
    """Refuse questions about nothing but what the model has no branch for; warn of some."""
    from video_llama.apps.loading import check_media, kinds_taken

    if kinds_taken(config).issuperset(MEDIA_KINDS):
        return
    reasons = {}
    for path in dict.fromkeys(file.path for row in rows for file in row.files):
        if Path(path).exists():
            try:
                check_media(config, [path])
            except MediaError as error:
                reasons[path] = str(error)
    refused = [row for row in rows if any(file.path in reasons for file in row.files)]
    if not refused:
        return
    first = next(reasons[file.path] for file in refused[0].files if file.path in reasons)
    if len(refused) == len(rows):
        raise ConfigError(
            f"--input: the model can use the files of none of {len(rows)} rows, the first: {first}"
        )
    get_logger().warning(
        "%d of %d rows name files the model cannot use, the first: %s; they will say so",
        len(refused), len(rows), first,
    )  # fmt: skip


@contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
    """Say what to do where a GPU's memory runs out."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"--batch-size: memory ran out at {batch_size}; give the same command again with a "
            f"smaller one, answers so far are kept ({error})"
        ) from error


def _report(output: str, *, results: Sequence[Row], failed: Sequence[Row]) -> None:
    """Say how it went."""
    print(f"{output}: {len(results) - len(failed)} of {len(results)} questions answered")
    if failed:
        print(
            f"{len(failed)} have an error instead; the first: id {failed[0]['id']}: "
            f"{failed[0]['error']} (--retry-errors asks them again)"
        )
