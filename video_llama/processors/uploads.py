"""What a person hands over, read for a model in one opening of the file.

What it is, is decided by its content. Whatever a branch of the model takes of it is read; what
has to be left out is said in notes. Limits are checked before anything is decoded. Files are
opened and decoded by `MediaFile` and `MediaLoader`, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import cast

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, MediaKind, VideoSpec
from video_llama.processors.foreign import refuse_foreign
from video_llama.processors.limits import MediaLimits
from video_llama.processors.media import MediaCompat, MediaLoader, Request
from video_llama.processors.media_file import REWINDABLE, MediaFile
from video_llama.processors.pictures import is_folder
from video_llama.processors.probe import length_s, probe
from video_llama.processors.readings import MediaInfo, Reading
from video_llama.processors.supervised import MEMORY_GIB, Supervisor
from video_llama.processors.upload_request import UploadRequest
from video_llama.processors.video import ReaderName

__all__ = ["ReadUpload", "SupervisedUploads", "UploadReader", "UploadRequest"]

MAX_FRAMES = 128
"""Frames of one clip, however many are asked for."""

TIMEOUT_S = 60.0
"""Seconds of the clock that an upload may take by default."""

UPLOAD_FOLDER_FPS = 1.0
"""Pictures a second of a folder whose `fps` is not given."""

_WORDS: Mapping[MediaKind, str] = {
    "image": "picture",
    "video": "moving pictures",
    "audio": "sound",
}


@dataclass(frozen=True)
class ReadUpload:
    """What a model sees and hears of an upload.

    Attributes:
        info: what the file is, with its length if there is a way to know.
        items: with pixels or mel and their seconds; pictures first, then sound.
        specs: branch of each item, fed as was asked for: `frames` and `fps` change `num_frames`.
        notes: what was left out and why, in full sentences.
    """

    info: MediaInfo
    items: tuple[MediaItem, ...]
    specs: tuple[BranchSpec, ...]
    notes: tuple[str, ...] = ()


class UploadReader:
    """Reads what people hand over for the branches of a model; can be sent to other processes.

    Args:
        specs: the model's branches by name; no kind of media is taken by two of them.
        compat: quirks to keep for released weights.
        limits: what is refused; None for files one trusts.
        reader: which library decodes video.
    """

    def __init__(
        self,
        specs: Mapping[str, BranchSpec],
        *,
        compat: MediaCompat | None = None,
        limits: MediaLimits | None = None,
        reader: ReaderName = "pyav",
    ) -> None:
        self.specs = dict(specs)
        self.limits = limits or MediaLimits()
        # Decoding asks for no positions, and a child that need not know models is there at once.
        light = {name: replace(spec, slots=int) for name, spec in specs.items()}
        self._branches = {kind: spec for spec in light.values() for kind in spec.media}
        self._loader = MediaLoader(light, reader=reader, compat=compat)

    def read(self, request: UploadRequest) -> ReadUpload:
        """Read all that the model takes of an upload.

        Args:
            request: what is handed over and what of it is wanted.

        Returns:
            Items to be encoded, the specs they were made by, and what the person should know. A
            short clip has fewer frames than were asked for.

        Raises:
            MediaError: it is missing, damaged, too large, of a format nobody reads, or nothing
                in it is for this model.
        """
        return self.assembled(self.reading(request))

    def reading(self, request: UploadRequest) -> Reading:
        """Do all the work of `read`; what comes back can be sent to other processes."""
        source = request.source if request.data is None else request.data
        try:
            with MediaFile(source, folder_fps=request.fps or UPLOAD_FOLDER_FPS) as media:
                return self._reading(media, request)
        except MediaError as error:
            from_memory = request.data is not None or error.path is None
            path = request.source if from_memory else error.path
            raise MediaError(error.reason, path=path) from error

    def assembled(self, reading: Reading) -> ReadUpload:
        """Give a reading the specs of its branches, which do not travel."""
        specs = []
        for item, name in zip(reading.items, reading.branches, strict=True):
            num_frames = reading.num_frames if item.kind == "video" else None
            specs.append(_with_frames(self.specs[name], num_frames))
        return ReadUpload(
            info=reading.info, items=reading.items, specs=tuple(specs), notes=reading.notes
        )

    def lightened(self) -> UploadReader:
        """Return a copy whose `reading` can be sent to a process that never imports a model."""
        light = copy(self)
        light.specs = {}
        return light

    def _reading(self, media: MediaFile, request: UploadRequest) -> Reading:
        self.limits.check_bytes(media)
        refuse_foreign(media)
        self.limits.check(media, start_s=request.start_s, end_s=request.end_s)
        header = probe(media)
        info = replace(header, duration_s=length_s(media))
        kinds, notes = self._kinds_in(info, request=request)
        num_frames = None
        if "video" in kinds:
            num_frames = self._num_frames(request, media=media, info=info, notes=notes)
        items: list[MediaItem] = []
        for kind in kinds:
            try:
                items.append(self._item(kind, media=media, request=request, num_frames=num_frames))
            except MediaError as error:
                # A broken track must not hide the pictures, but it is said.
                if kind != "audio" or not items:
                    raise
                notes.append(f"Left out: its sound ({error.reason}).")
        notes += self._unheard(items, info=info)
        notes += _missing(media, info=info, said_s=header.duration_s)
        return Reading(
            info=info,
            items=tuple(items),
            branches=tuple(self._branches[item.kind].name for item in items),
            num_frames=num_frames,
            notes=tuple(notes),
        )

    def _kinds_in(
        self, info: MediaInfo, *, request: UploadRequest
    ) -> tuple[list[MediaKind], list[str]]:
        """Say which kinds of items a file gives this model, pictures first, and what is lost."""
        present: list[MediaKind] = [info.kind]
        if info.kind == "video" and info.has_audio:
            present.append("audio")
        wanted = present if request.sound else present[:1]
        taken = [kind for kind in wanted if kind in self._branches]
        if not taken:
            takes = ", ".join(sorted(self._branches)) or "no media at all"
            silenced = " (its sound was not asked for)" if wanted != present else ""
            raise MediaError(f"this is {' with '.join(present)}{silenced}; the model takes {takes}")
        notes = [
            f"Left out: its {_WORDS[kind]}, the model has no branch for {kind}."
            for kind in wanted
            if kind not in taken
        ]
        return taken, notes

    def _num_frames(
        self, request: UploadRequest, *, media: MediaFile, info: MediaInfo, notes: list[str]
    ) -> int | None:
        """Return how many frames are asked for, None for the branch's own number."""
        wanted = request.frames
        if request.fps is not None and not is_folder(media.source):
            if wanted is not None:
                raise MediaError("frames and fps were both asked for; leave one of them out")
            if info.duration_s is None:
                raise MediaError("nobody knows how long it is; ask for frames in place of fps")
            end_s = min(info.duration_s, request.end_s or math.inf)
            span_s = max(0.0, end_s - (request.start_s or 0.0))
            wanted = max(1, round(span_s * request.fps))
        if wanted is not None and wanted > MAX_FRAMES:
            notes.append(f"{wanted} frames were asked for, {MAX_FRAMES} are the most.")
            wanted = MAX_FRAMES
        return wanted

    def _item(
        self, kind: MediaKind, *, media: MediaFile, request: UploadRequest, num_frames: int | None
    ) -> MediaItem:
        """Decode one kind of what is in a file."""
        branch = self._branches[kind]
        item = MediaItem(kind, request.source)
        if kind != "image":
            item = replace(item, start_s=request.start_s, end_s=request.end_s)
        if kind != "video":
            return self._loader.load_from(media, request=Request(item, branch))
        branch = _with_frames(branch, num_frames)
        loaded = self._loader.load_from(media, request=Request(item, branch))
        sampling = (num_frames, request.fps if is_folder(media.source) else None)
        if sampling == (None, None):
            return loaded
        # Other frames of the same file are another medium to whoever keeps its tokens.
        identity = f"{loaded.content_hash} {sampling}".encode()
        return replace(loaded, content_hash=blake2b(identity, digest_size=16).hexdigest())

    def _unheard(self, items: Sequence[MediaItem], *, info: MediaInfo) -> list[str]:
        """Say how much of a long sound a branch with consecutive clips hears."""
        for item in items:
            spec = self._branches[item.kind].spec
            if not isinstance(spec, AudioSpec) or spec.clip_policy != "consecutive":
                continue
            heard_s = item.times_s[-1] + spec.clip_s
            end_s = min(info.duration_s or 0.0, item.end_s or math.inf)
            if end_s - heard_s >= spec.clip_s:
                return [
                    f"Heard: its sound from {item.start_s or 0.0:g} to {heard_s:g} s; the model "
                    f"hears {spec.num_clips * spec.clip_s:g} s at most."
                ]
        return []


class SupervisedUploads:
    """Reads uploads in a child process, which a file may crash or hang; see `supervised`.

    Safe for many threads: they are served one after the other, and a file that hangs holds the
    others up for `timeout_s` and no longer. Can be sent to other processes.

    Args:
        reader: does the work in the child.
        timeout_s: seconds of the clock that one upload may take.
        memory_gib: what the child may take beside what it starts with, None for no limit.
    """

    def __init__(
        self,
        reader: UploadReader,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_gib: float | None = MEMORY_GIB,
    ) -> None:
        self.reader = reader
        self._supervisor = Supervisor(
            reader.lightened().reading, timeout_s=timeout_s, memory_gib=memory_gib
        )

    def read(self, request: UploadRequest) -> ReadUpload:
        """Read all that the model takes of an upload, see `UploadReader.read`.

        Raises:
            MediaError: likewise, or it crashed its decoder, or took too long.
        """
        if request.data is not None:
            # Before it is copied to the child.
            self.reader.limits.check_content(request.data, name=request.source)
        reading = cast(Reading, self._supervisor.call(request, files=request.source))
        if not self.reader.specs.keys() >= set(reading.branches):
            # Nothing but a decoder that somebody took over answers so.
            names = ", ".join(reading.branches)
            raise MediaError(f"the decoder answered for '{names}'", path=request.source)
        return self.reader.assembled(reading)

    def close(self) -> None:
        """End the child, if there is one; a later call starts another."""
        self._supervisor.close()


def _missing(media: MediaFile, *, info: MediaInfo, said_s: float | None) -> list[str]:
    """Say that a part of a clip is not there."""
    if media.is_cut_off:
        return ["The file is damaged or cut off: what could be decoded is used."]
    found_s = info.duration_s
    if info.kind != "video" or said_s is None or found_s is None or found_s >= said_s:
        return []
    # Other formats have no header that knows; what FFmpeg says of them is a guess.
    if media.container.format.name not in REWINDABLE:
        return []
    return [f"The file says it lasts {said_s:.1f} s, only {found_s:.1f} s are there."]


def _with_frames(branch: BranchSpec, num_frames: int | None) -> BranchSpec:
    """Return a branch that is fed another number of frames."""
    spec = branch.spec
    if num_frames is None or not isinstance(spec, VideoSpec):
        return branch
    return replace(branch, spec=replace(spec, num_frames=num_frames))
