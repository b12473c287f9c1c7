"""The single files that `weights get` fetches: what their servers say of them, and how they come.

Nothing is asked of a server before a piece is made, and nothing is written before `fetch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from video_llama.common.download import Remote, download, file_digest, look_up
from video_llama.common.errors import VideoLlamaError
from video_llama.common.hub import HubRef, hub_errors

NOT_WEIGHTS = (".msgpack", ".h5", ".onnx", ".ot", ".gguf", ".tflite")
"""Suffixes of weights for other libraries."""

OTHER_FOLDERS = ("original", "onnx", "runs")
"""Folders of the hub that hold the same weights again, or logs."""


@dataclass(frozen=True)
class Piece:
    """One file to fetch.

    Attributes:
        key: what asks for it.
        source: address, or name of the hub.
        size: in bytes, None if the server does not tell.
        checksum: name of the algorithm whose published value is compared; None for none.
        terms: what binds its use.
        target: where it goes.
        is_there: whether it lies there already, in full size.
        fetch: brings it.
    """

    key: str
    source: str
    size: int | None
    checksum: str | None
    terms: str
    target: Path
    is_there: bool
    fetch: Callable[[], None]


def web_piece(url: str, *, target: Path, key: str, terms: str) -> Piece:
    """Ask a server about a file.

    Raises:
        VideoLlamaError: it is not there, or something else lies at `target`.
    """
    remote = look_up(url)
    return Piece(
        key=key,
        source=url,
        size=remote.size,
        checksum=remote.checksum.algorithm if remote.checksum else None,
        terms=terms,
        target=target,
        is_there=_is_there(target, size=remote.size),
        fetch=functools.partial(_fetch_with_bar, remote, target),
    )


def hub_pieces(ref: HubRef, *, target: Path | None, key: str, terms: str) -> Iterator[Piece]:
    """Ask the hub about a file, a folder or a repository, and yield its files.

    Args:
        ref: what is wanted; of a repository or folder what this package reads, and small files.
        target: where it goes; None for the hub's cache.
        key: what asks for it.
        terms: what binds its use.

    Raises:
        VideoLlamaError: there is no such thing, or it may not be had.
    """
    from huggingface_hub import HfApi, constants

    with hub_errors(ref):
        info = HfApi().model_info(ref.repo, revision=ref.revision, files_metadata=True)
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    cache = Path(constants.HF_HUB_CACHE) / f"models--{ref.repo.replace('/', '--')}"
    root = cache / "snapshots" / str(info.sha) if target is None else _root(target, ref)
    names = [ref.path] if ref.path in files else chosen_files(files, below=ref.path)
    if not names:
        raise VideoLlamaError(
            f"{ref}: the repository holds no such file or folder (it holds: "
            f"{', '.join(sorted(files)[:8]) or 'nothing'})"
        )
    for name in names:
        large = files[name].lfs
        sha256 = large.sha256 if large is not None else None
        path = root / name
        yield Piece(
            key=key,
            source=f"hf://{HubRef(ref.repo, path=name, revision=ref.revision)}",
            size=files[name].size,
            checksum="sha256" if sha256 else None,
            terms=terms,
            target=path,
            is_there=_is_there(path, size=files[name].size),
            fetch=functools.partial(
                _fetch_from_hub,
                HubRef(ref.repo, path=name, revision=ref.revision),
                local_dir=None if target is None else root,
                sha256=sha256,
            ),
        )


def chosen_files(names: Iterable[str], *, below: str = "") -> list[str]:
    """Choose what is worth fetching of a repository.

    Weights for other libraries are left out, and pickled shards where there are safetensors.

    Args:
        names: of all files of a repository.
        below: a folder; "" for all.
    """
    inside = [name for name in names if not below or name.startswith(f"{below.rstrip('/')}/")]
    safe = {str(PurePosixPath(name).parent) for name in inside if name.endswith(".safetensors")}
    chosen = []
    for name in inside:
        path = PurePosixPath(name)
        again = str(path.parent) in safe and path.name.startswith("pytorch_model")
        other = path.suffix in NOT_WEIGHTS or (path.parts[0] in OTHER_FOLDERS and not below)
        if not again and not other and path.name != ".gitattributes":
            chosen.append(name)
    return sorted(chosen)


def _root(target: Path, ref: HubRef) -> Path:
    """Return the folder below which a repository's file ends up at `target`."""
    parts = PurePosixPath(ref.path).parts if ref.path else ()
    if parts and target.parts[-len(parts) :] == parts:
        return target.parents[len(parts) - 1]
    return target.parent if parts else target


def _fetch_from_hub(ref: HubRef, *, local_dir: Path | None, sha256: str | None) -> None:
    """Fetch one file and compare its content with what the hub publishes."""
    from huggingface_hub import hf_hub_download

    with hub_errors(ref):
        path = hf_hub_download(
            ref.repo, ref.path, revision=ref.revision, local_dir=local_dir, local_files_only=False
        )
    if sha256 is None:
        return
    digest = file_digest(Path(path))
    if digest != sha256:
        Path(path).resolve().unlink()
        Path(path).unlink(missing_ok=True)
        raise VideoLlamaError(
            f"{ref}: a file with sha256 {digest} instead of {sha256} arrived and was deleted"
        )


def _fetch_with_bar(remote: Remote, target: Path) -> None:
    """Fetch one file and show how far it is."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(target.name, total=remote.size)
        download(remote, target, progress=lambda done: progress.update(bar, completed=done))


def _is_there(target: Path, *, size: int | None) -> bool:
    """Tell whether a file needs no fetching.

    Raises:
        VideoLlamaError: another file lies in its place.
    """
    if not target.exists():
        return False
    found = target.stat().st_size
    if size is not None and found != size:
        raise VideoLlamaError(
            f"{target}: {found:,} bytes lie there, the published file has {size:,}; move it away"
        )
    return True
