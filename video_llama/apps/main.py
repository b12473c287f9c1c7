"""`video-llama <verb>`: finds the verb's module, runs it, and turns errors into exit codes.

A verb's module has `add_arguments(parser)` and `main(args) -> int`; it is imported only when it
is asked for, so that `video-llama --help` needs no torch. The doors in the repository's root
(`train.py`, `evaluate.py`, `demo_audiovideo.py`) call `main` with their verb in front.

Exit codes: 0 done, 1 not all is as it should be (`compare`: two runs saw different data;
`experiment`: something is missing; `data`: some files cannot be used), 2 something the user can
cure, 3 of `predict` that some rows have an error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from video_llama import __version__
from video_llama.common.errors import VideoLlamaError
from video_llama.common.registry import did_you_mean

VERBS = {
    "train": "train a model from a run file (also: python train.py, torchrun train.py)",
    "plan": "say whether a run fits its GPUs, how long it takes, what is missing",
    "evaluate": "measure a model on held-out questions (also: python evaluate.py)",
    "chat": "talk to a picture, a clip or a sound in the terminal",
    "predict": "answer a file of questions, also on several GPUs",
    "demo": "open the Gradio page (also: python demo_audiovideo.py)",
    "serve": "answer over an OpenAI-compatible API",
    "toy": "make the toy world, its foundations, or run its whole recipe",
    "weights": "look at weight files, prove that they fit, write them out",
    "data": "read all data of a run file ahead and name what cannot be used",
    "shards": "pack data sets into tars, index tars",
    "experiment": "train and evaluate cells that differ in parts or settings, and compare them",
    "compare": "prove that two runs saw the same data, and say which is better",
    "replay": "make one step of a run again and show its samples and losses",
    "report": "write curves, tables and pictures of runs as one HTML page",
    "schema": "print the JSON Schema of run files, for editors",
    "env": "print versions and devices, for bug reports",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words of the command line without the program; None takes the process's own.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        _print_help()
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = words
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS)
        print(f"video-llama: unknown verb '{verb}'{hint} (see --help)", file=sys.stderr)
        return 2
    module = importlib.import_module(f"video_llama.apps.{verb}")
    parser = argparse.ArgumentParser(prog=f"video-llama {verb}", description=VERBS[verb])
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        code = int(module.main(args) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Who read has read enough, as in `| head`; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except VideoLlamaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def add_config_arguments(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add the published `--cfg-path` and `--options`.

    Args:
        parser: of the verb.
        default: run file taken without `--cfg-path`; None makes the flag required.
    """
    parser.add_argument(
        "--cfg-path",
        required=default is None,
        default=default,
        metavar="FILE",
        help="YAML run file" + (f" (default: {default})" if default else ""),
    )
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="overrides, e.g. run.seed=1 model.model_type=llama2_7b; or key and value in turn",
    )


def _print_help() -> None:
    """List the verbs."""
    width = max(map(len, VERBS))
    print("usage: video-llama VERB [...]\n")
    for verb, text in VERBS.items():
        print(f"  {verb:<{width}}  {text}")
    print("\n`video-llama VERB --help` lists a verb's flags.")


if __name__ == "__main__":
    sys.exit(main())
