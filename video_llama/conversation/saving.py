"""A conversation on disk: what was said as JSON, media by path and identity.

Files stay where they are; what came from memory is written beside the JSON. Tokens are not kept:
who reads a conversation back has its media read again.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.whole_files import PARTIAL_SUFFIX, write_whole
from video_llama.conversation.rounds import Content, Round, Upload
from video_llama.processors.uploads import UploadRequest

FILE = "conversation.json"
MEDIA = "media"
"""Folder of content that came from memory."""

FORMAT = "video-llama-conversation-1"
_NUMBER = (int, float, type(None))
_REQUESTED: Mapping[str, tuple[type, ...]] = {
    "start_s": _NUMBER,
    "end_s": _NUMBER,
    "frames": (int, type(None)),
    "fps": _NUMBER,
    "sound": (bool,),
}
_SETTINGS: Mapping[str, tuple[type, ...]] = {
    name: (int, float) if isinstance(value, float) else (type(value),)
    for name, value in vars(GenerationSettings()).items()
}


@dataclass(frozen=True)
class SavedChat:
    """What is kept of a conversation.

    Attributes:
        rounds: of question and answer.
        waiting: uploads that belong to the next question.
        settings: of answers.
        system: system text, None for the template's own.
    """

    rounds: tuple[Round, ...]
    waiting: tuple[Upload, ...]
    settings: GenerationSettings
    system: str | None = None


def write_saved(saved: SavedChat, *, folder: Path) -> None:
    """Write a conversation; one that is there stays whole until the new one is.

    Raises:
        VideoLlamaError: the folder cannot be made or written into, or the disk is full.
    """
    try:
        _write(saved, folder=folder)
    except OSError as error:
        where = Path(error.filename or folder)
        around = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free_gib = shutil.disk_usage(around).free / 2**30
        raise VideoLlamaError(
            f"{where}: the conversation cannot be written here ({error.strerror or error}; "
            f"{free_gib:.2f} GiB free); name another folder or make room, and save again"
        ) from error


def _write(saved: SavedChat, *, folder: Path) -> None:
    """Write media, then the words, then take away what nobody names any more."""
    folder.mkdir(parents=True, exist_ok=True)
    uploads = {
        upload.number: upload
        for group in (*(entry.uploads for entry in saved.rounds), saved.waiting)
        for upload in group
    }
    index = {number: i for i, number in enumerate(uploads)}
    tree: dict[str, Any] = {
        "format": FORMAT,
        "settings": dataclasses.asdict(saved.settings),
        "system": saved.system,
        "media": [_describe(upload, folder=folder) for upload in uploads.values()],
        "rounds": [
            {
                "question": [
                    part if isinstance(part, str) else {"medium": index[part.number]}
                    for part in entry.content
                ],
                "answer": entry.answer,
                "num_forgotten": entry.num_forgotten,
            }
            for entry in saved.rounds
        ],
        "waiting": [index[upload.number] for upload in saved.waiting],
    }
    stored = {entry.get("stored") for entry in tree["media"]}
    words = json.dumps(tree, ensure_ascii=False, indent=2) + "\n"
    write_whole(folder / FILE, words)
    for path in folder.glob(f"{MEDIA}/*"):
        # Of the conversation that was here before, or left by who was killed while writing.
        name = path.name.removesuffix(PARTIAL_SUFFIX)
        if re.fullmatch(r"[0-9a-f]{32}", name) and path.name not in stored:
            path.unlink()


def read_saved(folder: Path, *, receive: Callable[[UploadRequest], Upload]) -> SavedChat:
    """Read a conversation back.

    Args:
        folder: as `write_saved` left it.
        receive: reads a medium again.

    Raises:
        ConfigError: there is no conversation, or not a whole one.
        MediaError: a medium is missing or has changed.
    """
    file = folder / FILE
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no conversation here ({error.strerror})", where=str(file)) from error
    except ValueError as error:
        raise ConfigError(f"not valid JSON ({error})", where=str(file)) from error
    found = tree.get("format") if isinstance(tree, dict) else None
    if found != FORMAT:
        raise ConfigError(f"format is {found!r}, expected {FORMAT!r}", where=str(file))
    with _whole(file):
        settings = GenerationSettings(**_typed(tree["settings"], kinds=_SETTINGS))
        entries = [_request(entry, folder=folder) for entry in tree["media"]]
    uploads = [_received(*entry, folder=folder, receive=receive) for entry in entries]
    with _whole(file):
        rounds = [
            Round(
                _content(entry["question"], uploads=uploads),
                str(entry["answer"]),
                max(0, int(entry["num_forgotten"])),
            )
            for entry in tree["rounds"]
        ]
        waiting = [uploads[int(i)] for i in tree["waiting"]]
        system = None if tree["system"] is None else str(tree["system"])
    return SavedChat(tuple(rounds), tuple(waiting), settings, system)


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Name the file if something in it is missing or makes no sense."""
    try:
        yield
    except MediaError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"not a whole conversation ({type(error).__name__}: {error}); save it again",
            where=str(file),
        ) from error


def _describe(upload: Upload, *, folder: Path) -> dict[str, Any]:
    """Say where a medium is and what makes it the same; write it if it is nowhere else."""
    request = upload.request
    identity = [f"{item.kind} {item.content_hash}" for item in upload.items]
    entry: dict[str, Any] = {"identity": identity, "name": upload.name}
    if request.data is None:
        entry["path"] = str(Path(request.source).resolve())
    else:
        # Named by how its tokens are known, which its content decides.
        entry["stored"] = upload.keys[0]
        path = folder / MEDIA / upload.keys[0]
        if not (path.is_file() and path.read_bytes() == request.data):
            write_whole(path, request.data)
    return entry | {name: getattr(request, name) for name in _REQUESTED}


def _request(entry: Mapping[str, Any], *, folder: Path) -> tuple[UploadRequest, list[str]]:
    """Return how a medium is read again, and what it has to be."""
    wanted = _typed({name: entry[name] for name in _REQUESTED}, kinds=_REQUESTED)
    identity = [str(each) for each in entry["identity"]]
    if "path" in entry:
        return UploadRequest(str(entry["path"]), **wanted), identity
    stored = folder / MEDIA / Path(str(entry["stored"])).name
    try:
        data = stored.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=str(stored)) from error
    return UploadRequest(str(entry["name"]), data=data, **wanted), identity


def _typed(values: Mapping[str, Any], *, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Refuse values of another kind, for which nobody would look any more."""
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise TypeError(f"{name} is {value!r}")
    return dict(values)


def _received(
    request: UploadRequest,
    identity: list[str],
    *,
    folder: Path,
    receive: Callable[[UploadRequest], Upload],
) -> Upload:
    """Read a medium again and make sure that it is the same."""
    try:
        upload = receive(request)
    except MediaError as error:
        raise MediaError(
            f"{error.reason}; the conversation saved in {folder} is about it", path=request.source
        ) from error
    found = [f"{item.kind} {item.content_hash}" for item in upload.items]
    if found != identity:
        kinds = [[each.partition(" ")[0] for each in which] for which in (identity, found)]
        what = (
            "it has changed since"
            if kinds[0] == kinds[1]
            else f"it gave {' and '.join(kinds[0])} then, for this model {' and '.join(kinds[1])}"
        )
        raise MediaError(
            f"not as in the conversation saved in {folder}: {what}; "
            "put the file back, or load the model it was shown to",
            path=request.source,
        )
    return upload.without_pixels()


def _content(parts: list[str | dict[str, int]], *, uploads: list[Upload]) -> Content:
    """Return a question with its uploads."""
    return tuple(part if isinstance(part, str) else uploads[part["medium"]] for part in parts)
