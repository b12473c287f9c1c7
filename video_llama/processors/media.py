"""Media items from file to tensor: what a file is, its identity, and loading it for a branch.

The loader joins the readers and transforms of this folder by a branch's `BranchSpec`, so that
data sets, evaluation and chat feed an encoder alike. It knows no model and keeps no cache of
decoded media; the feature cache uses `content_hash`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, VideoSpec
from video_llama.processors.audio import MeanRemoval, clip_starts, log_mel, read_audio
from video_llama.processors.containers import Source
from video_llama.processors.identity import content_hash
from video_llama.processors.limits import MediaLimits
from video_llama.processors.media_file import MediaFile
from video_llama.processors.pictures import read_picture
from video_llama.processors.probe import probe
from video_llama.processors.readings import MediaInfo
from video_llama.processors.shard_files import ShardFiles
from video_llama.processors.squares import decoded_size, square_pixels
from video_llama.processors.tracks import Channels
from video_llama.processors.transforms import Overshoot, crop_box, normalise, random_resized_crop
from video_llama.processors.video import ReaderName, read_frames

__all__ = [
    "Augment",
    "MediaCompat",
    "MediaInfo",
    "MediaLimits",
    "MediaLoader",
    "Request",
    "content_hash",
    "probe",
]

Augment = Literal["none", "random_crop"]


@dataclass(frozen=True)
class MediaCompat:
    """Quirks of the published preprocessing, corrected by default; see `released`.

    Attributes:
        bicubic_overshoot: of `transforms.random_resized_crop`.
        mean_removal: of `audio.log_mel`.
        channels: of `audio.read_audio`.
    """

    bicubic_overshoot: Overshoot = "clamp"
    mean_removal: MeanRemoval = "copy"
    channels: Channels = "mix"

    @classmethod
    def released(cls) -> MediaCompat:
        """Return what Video-LLaMA's released weights were trained and shown with."""
        return cls(bicubic_overshoot="wrap", mean_removal="in_place", channels="separate")

    @classmethod
    def named(cls, name: Literal["corrected", "released"]) -> MediaCompat:
        """Return what a run file's `model.compat` means for media."""
        return cls.released() if name == "released" else cls()


@dataclass(frozen=True)
class Request:
    """What is to be made of an item.

    Attributes:
        item: its path (or member) and span are used; it is not changed.
        branch: the branch that takes it, or its name.
        augment: "random_crop" is the training crop, one box for the whole clip.
        seed: the crop and a drawing frame policy are functions of it.
        data: the content, where `item.path` is only a label.
    """

    item: MediaItem
    branch: BranchSpec | str
    augment: Augment = "none"
    seed: int | None = None
    data: bytes | None = None


class MediaLoader:
    """Fills media items with what a branch's encoder is fed.

    Holds settings and open shards only, so it can be shared and sent to worker processes.

    Args:
        specs: the model's branches by name.
        reader: which library decodes video.
        compat: quirks to keep for released weights.
        limits: what is refused.
    """

    def __init__(
        self,
        specs: Mapping[str, BranchSpec],
        *,
        reader: ReaderName = "pyav",
        compat: MediaCompat | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self._specs = dict(specs)
        self._reader: ReaderName = reader
        self._compat = compat or MediaCompat()
        self._limits = limits or MediaLimits()
        self._shards = ShardFiles()

    def load(
        self,
        item: MediaItem,
        *,
        branch: BranchSpec | str,
        augment: Augment = "none",
        seed: int | None = None,
        data: bytes | None = None,
    ) -> MediaItem:
        """Decode one item for a branch; see `load_all` and `Request`."""
        return self.load_all([Request(item, branch, augment=augment, seed=seed, data=data)])[0]

    def load_all(self, requests: Sequence[Request]) -> list[MediaItem]:
        """Decode items for their branches; pictures and sound of one file are read together.

        Args:
            requests: of one sample, in text order.

        Returns:
            A copy of every item with `pixels` or `mel`, `times_s` and `content_hash`. A short
            clip may have fewer steps than the branch's spec.

        Raises:
            MediaError: a file cannot be used, or a branch takes no such kind.
            ValueError: "random_crop" without a seed, or where `resize` is not "squash".
        """
        specs = [self._spec_of(request) for request in requests]
        loaded: dict[int, MediaItem] = {}
        for together in _by_file(requests):
            item = requests[together[0]].item
            try:
                with MediaFile(self._source(requests[together[0]])) as media:
                    self._limits.check(media, start_s=item.start_s, end_s=item.end_s)
                    for i in together:
                        loaded[i] = self._load(requests[i], media=media, spec=specs[i])
            except MediaError as error:
                raise MediaError(error.reason, path=item.path) from error
        return [loaded[i] for i in range(len(requests))]

    def load_from(self, media: MediaFile, *, request: Request) -> MediaItem:
        """Decode one item from a file that is open; limits are the caller's affair.

        Args:
            media: what the item's path or data name.
            request: see `load_all`, which also tells what is raised.
        """
        return self._load(request, media=media, spec=self._spec_of(request))

    def _spec_of(self, request: Request) -> BranchSpec:
        """Return a request's branch; refuse what cannot be made for it."""
        item, branch = request.item, request.branch
        spec = self._specs[branch] if isinstance(branch, str) else branch
        if item.kind not in spec.media:
            raise MediaError(
                f"branch '{spec.name}' takes {', '.join(spec.media)}, this is {item.kind}",
                path=item.path,
            )
        if request.augment == "random_crop" and request.seed is None:
            raise ValueError("augment 'random_crop' draws a box and needs a seed")
        resize = spec.spec.resize if isinstance(spec.spec, VideoSpec) else "squash"
        if request.augment == "random_crop" and resize != "squash":
            raise ValueError(
                f"augment 'random_crop' squashes its box to the square, and branch '{spec.name}' "
                f"is fed by resize '{resize}'; expected augment 'none'"
            )
        return spec

    def _source(self, request: Request) -> Source:
        if request.data is not None:
            return request.data
        member = request.item.member
        return request.item.path if member is None else self._shards.read(member)

    def _load(self, request: Request, *, media: MediaFile, spec: BranchSpec) -> MediaItem:
        item = request.item
        if isinstance(spec.spec, AudioSpec):
            loaded = self._load_sound(item, media=media, spec=spec.spec)
        else:
            loaded = self._load_pictures(request, media=media, spec=spec.spec)
        identity = content_hash(media.content, start_s=item.start_s, end_s=item.end_s)
        return replace(loaded, content_hash=identity)

    def _load_sound(self, item: MediaItem, *, media: MediaFile, spec: AudioSpec) -> MediaItem:
        waveform = read_audio(
            media,
            sample_rate_hz=spec.sample_rate_hz,
            start_s=item.start_s,
            end_s=item.end_s,
            channels=self._compat.channels,
        )
        starts = clip_starts(
            waveform.shape[-1] / spec.sample_rate_hz,
            num_clips=spec.num_clips,
            clip_s=spec.clip_s,
            policy=spec.clip_policy,
        )
        mel = log_mel(waveform, spec, starts=starts, mean_removal=self._compat.mean_removal)
        first_s = item.start_s or 0.0
        return replace(item, mel=mel, times_s=tuple(first_s + float(s) for s in starts))

    def _load_pictures(self, request: Request, *, media: MediaFile, spec: VideoSpec) -> MediaItem:
        item, seed = request.item, request.seed
        if item.kind == "image":
            frames = read_picture(media.content)[np.newaxis]
            times_s: tuple[float, ...] = (0.0,)
        else:
            clip = read_frames(
                media,
                num_frames=spec.num_frames,
                policy=spec.frame_policy,
                start_s=item.start_s,
                end_s=item.end_s,
                reader=self._reader,
                size=decoded_size(spec),
                seed=seed,
            )
            frames, times_s = clip.frames, clip.times_s
        if request.augment == "none" or seed is None:
            return replace(item, pixels=square_pixels(frames, spec), times_s=times_s, crop=None)
        box = crop_box(frames.shape[1], width=frames.shape[2], seed=seed)
        cropped = random_resized_crop(
            frames,
            image_size=spec.image_size,
            seed=seed,
            method="bicubic_smooth" if item.kind == "image" else "bicubic",
            overshoot=self._compat.bicubic_overshoot,
        )
        return replace(
            item,
            pixels=normalise(cropped, spec),
            times_s=times_s,
            crop=(box.top, box.left, box.height, box.width),
        )


def _by_file(requests: Sequence[Request]) -> list[list[int]]:
    """Return the indices of requests that are met from one opening of a file, each of a kind."""
    groups: dict[Hashable, list[int]] = {}
    times_wanted: Counter[Hashable] = Counter()
    for i, request in enumerate(requests):
        item, data = request.item, request.data
        content = (item.path, item.member, None if data is None else id(data))
        what = (content, item.start_s, item.end_s)
        groups.setdefault((what, times_wanted[what, item.kind]), []).append(i)
        times_wanted[what, item.kind] += 1
    return list(groups.values())
