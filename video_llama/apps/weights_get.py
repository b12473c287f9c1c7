"""`video-llama weights get NAME... | --cfg-path FILE`: fetches published files.

The only verb that uses the network. It shows sizes, terms and places first and asks; `--yes`
answers for the user. Files of the hub go through huggingface_hub (its cache, `HF_TOKEN`,
`HF_HUB_OFFLINE`), all others through `common/download`. Both go on where they were broken off and
compare published checksums.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from video_llama.apps.console import wide_console
from video_llama.apps.weights_pieces import Piece, hub_pieces, web_piece
from video_llama.apps.weights_sources import SOURCES, Source, source_of
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.hub import address, hub_ref, local_path, url_cache
from video_llama.common.registry import unknown_name

if TYPE_CHECKING:
    from video_llama.apps.checks import MissingFile

GIGABYTE = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a published file, a name of the hub, or an address; without any the list is printed",
    )
    parser.add_argument("--cfg-path", metavar="FILE", help="fetch what this run file needs instead")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--to", metavar="DIR", help="put the files there instead of into a cache")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be fetched")


def main(args: argparse.Namespace) -> int:
    """Show, ask and fetch."""
    if args.cfg_path is None and not args.names:
        _show_sources()
        return 0
    if args.cfg_path is not None and args.names:
        raise ConfigError("weights get: give names or --cfg-path, not both")
    unknown: list[MissingFile] = []
    if args.cfg_path is None:
        sources = [_named(name) for name in args.names]
        pieces = [
            piece for source in sources for piece in _pieces(source, target=_target(source, args))
        ]
    else:
        pieces, unknown = _pieces_of_run_file(args.cfg_path, args.options)
        sources = []
    _show(pieces)
    wanted = [piece for piece in pieces if not piece.is_there]
    _check_disk(wanted)
    if wanted and not args.dry_run:
        _ask(args, num_files=len(wanted))
        for piece in wanted:
            piece.fetch()
            print(f"{piece.key}: {piece.target}")
    for source in sources:
        if source.then:
            print(f"next: {source.then}")
    for file in unknown:
        print(f"not to be had by this command: {file.key}: {file.text}\n  {file.source}")
    return 2 if unknown else 0


def _named(name: str) -> Source:
    """Return what a word of the command line stands for."""
    if name in SOURCES:
        return SOURCES[name]
    if hub_ref(name) is not None or address(name) is not None:
        return Source(name, Path(name).name.split("?")[0], "", "as its page says")
    raise ConfigError(f"weights get: {unknown_name(name, SOURCES, what='published file')}")


def _target(source: Source, args: argparse.Namespace) -> Path | None:
    return Path(args.to) / source.file if args.to else None


def _pieces(source: Source, *, target: Path | None, key: str = "") -> Iterator[Piece]:
    """Yield the files of a source.

    Args:
        source: where they are.
        target: where they go; None for a cache.
        key: dotted key that asks for them.
    """
    key = key or (f"model.{source.key}" if source.key else source.where)
    ref = hub_ref(source.where)
    if ref is not None:
        yield from hub_pieces(ref, target=target, key=key, terms=source.terms)
        return
    url = address(source.where)
    assert url is not None, source.where
    place = target or url_cache(url).with_name(source.file)
    yield web_piece(url, target=place, key=key, terms=source.terms)


def _pieces_of_run_file(
    cfg_path: str, options: Sequence[str]
) -> tuple[list[Piece], list[MissingFile]]:
    """Return the files a run file lacks, and those nobody can fetch for the user."""
    from video_llama.apps.checks import missing_weights, named_files
    from video_llama.common.config import load

    model = load(cfg_path, options=options).model
    missing = {file.key: file for file in missing_weights(model)}
    pieces: list[Piece] = []
    unknown: list[MissingFile] = []
    for key, path in named_files(model):
        dotted = f"model.{key}"
        if dotted not in missing or local_path(path).exists():
            continue
        target = None
        source: Source | None
        if hub_ref(path) is not None or address(path) is not None:
            source = _named(path)
        else:
            source = source_of(path, key=key)
            target = _file_at(path, source) if source is not None else None
        if source is None:
            unknown.append(missing[dotted])
        else:
            pieces += _pieces(source, target=target, key=dotted)
    return pieces, unknown


def _file_at(path: str, source: Source) -> Path:
    """Return where a file goes for which a run file names a path, or the folder it lies in."""
    names_folder = not Path(path).suffix and Path(source.file).suffix
    return Path(path) / source.file if names_folder else Path(path)


def _show_sources() -> None:
    """Print what is known by name."""
    table = Table("name", "key", "from", "terms", title="video-llama weights get NAME")
    for name, source in SOURCES.items():
        table.add_row(name, f"model.{source.key}", source.where, source.terms)
    wide_console().print(table)


def _show(pieces: Sequence[Piece]) -> None:
    """Print every file with its size, its place and its terms."""
    table = Table()
    for header in ("for", "file", "size", "goes to", "checksum", "terms"):
        table.add_column(header, overflow="fold", justify="right" if header == "size" else "left")
    for piece in pieces:
        place = f"{piece.target} (there)" if piece.is_there else str(piece.target)
        table.add_row(
            piece.key, piece.source, _size(piece.size), place, piece.checksum or "none", piece.terms
        )
    wide_console().print(table)
    wanted = [piece for piece in pieces if not piece.is_there]
    if wanted:
        print(f"{len(wanted)} files, {_size(sum(piece.size or 0 for piece in wanted))}")
    else:
        print("everything that can be fetched is there")


def _size(num_bytes: int | None) -> str:
    """Say a size in words."""
    if num_bytes is None:
        return "unknown"
    if num_bytes >= GIGABYTE / 10:
        return f"{num_bytes / GIGABYTE:.2f} GB"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e4 else f"{num_bytes} bytes"


def _check_disk(pieces: Sequence[Piece]) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    needed: dict[Path, int] = {}
    for piece in pieces:
        folder = next(parent for parent in piece.target.absolute().parents if parent.is_dir())
        needed[folder] = needed.get(folder, 0) + (piece.size or 0)
    for folder, size in needed.items():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise VideoLlamaError(
                f"{folder}: {_size(size)} needed, {_size(free)} free; make room, or choose another "
                "place with --to or HF_HOME"
            )


def _ask(args: argparse.Namespace, *, num_files: int) -> None:
    """Let the user agree.

    Raises:
        VideoLlamaError: the user does not, or cannot be asked.
    """
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise VideoLlamaError("weights get: nobody to ask; add --yes to fetch")
    if input(f"Fetch {num_files} files? [y/N] ").strip().lower() not in ("y", "yes"):
        raise VideoLlamaError("weights get: nothing was fetched")
