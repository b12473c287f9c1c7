"""Readers of media that behave as badly as a decoder can, by the name of the file."""

import ctypes
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.types import MediaItem
from video_llama.processors.media import MediaLoader
from video_llama.processors.uploads import UploadReader


class Unruly:
    """Does what the first word of a file's name says; any other file is read."""

    def load_all(self, requests):
        return [self._load(request) for request in requests]

    def _load(self, request):
        item = request.item
        deed = getattr(self, f"_{item.path.split('.')[0].split('-')[0]}", None)
        if deed is not None:
            deed(item)
        pixels = torch.full((2, 3, 4, 4), float(request.seed or 0))
        return replace(item, pixels=pixels, times_s=(0.0, 1.5), content_hash=request.branch)

    def _segfaults(self, item):
        ctypes.string_at(0)

    def _aborts(self, item):
        os.abort()

    def _sleeps(self, item):
        time.sleep(3600)

    def _loops(self, item):
        while True:
            pass

    def _hoards(self, item):
        bytearray(64 * 2**30)

    def _stumbles(self, item):
        raise IndexError("list index out of range")

    def _refuses(self, item):
        raise MediaError("no video stream", path=item.path)

    def _misconfigured(self, item):
        raise ConfigError("run.x: is wrong")

    def _pid(self, item):
        raise MediaError(str(os.getpid()))

    def _group(self, item):
        raise MediaError(str(os.getsid(0)))

    def _large(self, item):
        # Longer than what one message holds.
        raise MediaError("x" * 200_000, path=item.path)

    def _killed(self, item):
        os.kill(os.getpid(), signal.SIGKILL)


class Evil:
    """Answers with something that runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def load_all(self, requests):
        return Touches(self.path)


class Babbling(Unruly):
    """Answers with words where media belong."""

    def load_all(self, requests):
        loaded = super().load_all(requests)
        return ["words"] if requests[0].item.path.startswith("babbles") else loaded


class Mute:
    """What a child is to do; it does not get as far as knowing it."""

    def __reduce__(self):
        return time.sleep, (60,)


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


DEEDS = {"0.mp4": "segfaults", "1.mp4": "sleeps", "3.mp4": "hoards"}


class UnrulyLoader(MediaLoader):
    """Reads media, but for three files that are too much for it."""

    def load_all(self, requests):
        for request in requests:
            deed = DEEDS.get(Path(request.item.path).name)
            if deed is not None:
                getattr(Unruly(), f"_{deed}")(request.item)
        return super().load_all(requests)


class UnrulyUploads(UploadReader):
    """Does what the label of an upload says; whatever else it is, is read."""

    def reading(self, request):
        word, _, rest = request.source.partition(" ")
        deed = getattr(Unruly(), f"_{word}", None)
        if deed is not None:
            deed(MediaItem("video", request.source))
        reading = super().reading(request)
        if word == "lies":
            return replace(reading, **{rest: {"branches": ("no such",) * 2}.get(rest, (1, 2))})
        return Touches(rest) if word == "evil" else reading
