"""Moving pictures: which frames of a clip are used, and reading them from a file.

The policies are weight-bound: a model sees the frames it was trained to see. Files, formats and
damage are the business of `readers`; cropping and normalisation of `transforms`.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from video_llama.common.errors import MediaError
from video_llama.processors.containers import Source
from video_llama.processors.media_file import MediaFile, opened
from video_llama.processors.pictures import (
    AnimationReader,
    PictureReader,
    Size,
    is_folder,
    movement_of,
)
from video_llama.processors.readers import (
    DECORD_BROKEN_WIDTHS,
    DecordReader,
    FrameReader,
    PyavReader,
)

ReaderName = Literal["pyav", "decord"]


@dataclass(frozen=True)
class FramePolicy:
    """A rule for choosing frames.

    Attributes:
        source: whose rule it is.
        short_clip: what it does with fewer frames than wanted.
        choose: (num_total, num_frames, generator) to indices; only "headtail" draws.
    """

    source: str
    short_clip: Literal["fewer frames", "frames repeat"]
    choose: Callable[[int, int, random.Random], list[int]]


def _segment_start(num_total: int, num_frames: int, _: random.Random) -> list[int]:
    num_frames = min(num_frames, num_total)
    return [i * num_total // num_frames for i in range(num_frames)]


def _headtail(num_total: int, num_frames: int, generator: random.Random) -> list[int]:
    num_frames = min(num_frames, num_total)
    middle, num_head = num_total // 2, num_frames // 2
    head = sorted(generator.sample(range(middle), num_head))
    # The published code draws num_frames // 2 here too, and so loses a frame of an odd number.
    return head + sorted(generator.sample(range(middle, num_total), num_frames - num_head))


def _segment_middle(num_total: int, num_frames: int, _: random.Random) -> list[int]:
    num_segments = min(num_frames, num_total)
    edges = [i * num_total // num_segments for i in range(num_segments + 1)]
    middles = [(edges[i] + edges[i + 1] - 1) // 2 for i in range(num_segments)]
    return middles + [middles[-1]] * (num_frames - num_segments)


def _mvbench(num_total: int, num_frames: int, _: random.Random) -> list[int]:
    segment = (num_total - 1) / num_frames
    return [min(int(segment / 2) + round(segment * i), num_total - 1) for i in range(num_frames)]


def _linspace(num_total: int, num_frames: int, _: random.Random) -> list[int]:
    return [int(x) for x in np.linspace(0, num_total - 1, num_frames)]


FRAME_POLICIES = {
    "segment_start": FramePolicy(
        "Video-LLaMA, load_video's 'uniform': floor(i * total / frames)",
        "fewer frames",
        _segment_start,
    ),
    "headtail": FramePolicy(
        "Video-LLaMA, load_video's 'headtail' (LAVIS alpro_video_train): half of the frames "
        "drawn from each half of the clip",
        "fewer frames",
        _headtail,
    ),
    "segment_middle": FramePolicy(
        "VideoChat2, get_frame_indices' 'middle': the middle frame of equal segments",
        "frames repeat",
        _segment_middle,
    ),
    "mvbench": FramePolicy(
        "MVBench's get_index: half a segment, then whole segments, of total - 1 frames",
        "frames repeat",
        _mvbench,
    ),
    "linspace": FramePolicy(
        "Video-LLaVA, LanguageBind's decord loader: first to last frame, evenly",
        "frames repeat",
        _linspace,
    ),
}
"""Which frames are used, by name, with the source of each rule."""


@dataclass(frozen=True)
class Clip:
    """Frames chosen from a video.

    Attributes:
        frames: uint8[T, H, W, 3], red, green, blue, upright.
        times_s: T seconds from the first frame of the file, non-decreasing.
        num_total: frames the file (or the span of it) has.
        fps: mean frames per second of the file.
        duration_s: length of the file, the last frame included.
        num_damaged: packets that could not be decoded on the way.
    """

    frames: NDArray[np.uint8]
    times_s: tuple[float, ...]
    num_total: int
    fps: float
    duration_s: float
    num_damaged: int = 0


def sample_frames(
    num_total: int, *, num_frames: int, policy: str, seed: int | None = None
) -> NDArray[np.int64]:
    """Choose which frames of a video the encoder will see.

    For 10 frames and 4 wanted: "segment_start" (Video-LLaMA) [0, 2, 5, 7]; "segment_middle"
    (VideoChat2) [0, 3, 5, 8]; "mvbench" [1, 3, 5, 8]; "linspace" (Video-LLaVA) [0, 3, 6, 9].

    Args:
        num_total: decodable frames in the file, >= 1.
        num_frames: frames wanted, >= 1; a shorter video gives all it has or repeats some, see
            the policy's `short_clip`.
        policy: the rule the weights were trained with, a name in `FRAME_POLICIES`.
        seed: what "headtail" draws by; the others do not draw.

    Returns:
        int64[T] with T = num_frames (or fewer), non-decreasing, each in [0, num_total).

    Raises:
        MediaError: if num_total is 0.
        ValueError: unknown policy, no frame wanted, or a drawing policy without a seed.
    """
    if policy not in FRAME_POLICIES:
        raise ValueError(f"unknown frame policy '{policy}' (known: {', '.join(FRAME_POLICIES)})")
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, expected at least 1")
    if num_total < 1:
        raise MediaError("the clip has no frames")
    if policy == "headtail" and seed is None:
        raise ValueError("frame policy 'headtail' draws frames and needs a seed")
    indices = FRAME_POLICIES[policy].choose(num_total, num_frames, random.Random(seed))
    return np.asarray(indices, dtype=np.int64)


def read_frames(
    source: Source | MediaFile,
    *,
    num_frames: int,
    policy: str,
    start_s: float | None = None,
    end_s: float | None = None,
    reader: ReaderName = "pyav",
    size: Size = None,
    seed: int | None = None,
) -> Clip:
    """Read the chosen frames of a video, an animation, a picture or a folder of pictures.

    Args:
        source: a file, open already or not, the content of one, or a folder whose pictures are
            the frames.
        num_frames: frames wanted.
        policy: a name in `FRAME_POLICIES`, applied to the frames of the span.
        start_s: first second to use, None for the beginning.
        end_s: last second to use, None for the end.
        reader: "pyav" reads everything; "decord" is faster on long clips, see `readers`.
        size: applied while decoding; see `pictures.Size`.
        seed: for a policy that draws.

    Returns:
        The frames and when they are shown.

    Raises:
        MediaError: nothing usable; the reason says what is wrong with the file.
    """
    with opened(source) as media:
        frames = _open_reader(media, reader=reader, size=size)
        for attempt in ("as indexed", "as decoded"):
            if attempt == "as decoded":
                if not isinstance(frames, PyavReader):
                    break
                # Damage: choose again among the frames that really come out.
                frames = PyavReader(media, index="decoded")
            span = _frames_in_span(frames, start_s=start_s, end_s=end_s, name=media.name)
            chosen = sample_frames(len(span), num_frames=num_frames, policy=policy, seed=seed)
            indices = [span[i] for i in chosen]
            pictures = frames.read(indices, size=size)
            if all(i in pictures for i in indices):
                return Clip(
                    frames=np.stack([pictures[i] for i in indices]),
                    times_s=tuple(frames.times_s[i] for i in indices),
                    num_total=len(span),
                    fps=frames.fps,
                    duration_s=frames.times_s[-1] + 1.0 / frames.fps,
                    num_damaged=frames.num_damaged,
                )
        raise MediaError(
            "the chosen frames cannot be decoded, the file is damaged", path=media.name
        )


def _open_reader(media: MediaFile, *, reader: ReaderName, size: Size) -> FrameReader:
    source = media.source
    if is_folder(source):
        return PictureReader(source, fps=media.folder_fps)
    try:
        if (
            reader == "decord"
            and movement_of(source) == "clip"
            and not _breaks_decord(media, size=size)
        ):
            return DecordReader(source, size=size)
        return PyavReader(media)
    except MediaError:
        movement = movement_of(source)
        if movement == "clip":
            raise
        if movement == "animation":
            return AnimationReader(source, name=media.name)
        return PictureReader(source)


def _breaks_decord(media: MediaFile, *, size: Size) -> bool:
    """Whether decord would fail on the width of its output; PyAV gives the same pixels."""
    if isinstance(size, tuple):
        return size[1] in DECORD_BROKEN_WIDTHS
    return media.video is not None and media.video.width in DECORD_BROKEN_WIDTHS


def _frames_in_span(
    reader: FrameReader, *, start_s: float | None, end_s: float | None, name: str
) -> range:
    """Return the frames that appear in [start_s, end_s), or the one on show if none does."""
    times_s = np.asarray(reader.times_s)
    last_s = float(times_s[-1]) + 1.0 / reader.fps
    if start_s is not None and start_s >= last_s:
        raise MediaError(
            f"the span starts at {start_s:g} s, the clip is {last_s:.2f} s long", path=name
        )
    first = 0 if start_s is None else int(np.searchsorted(times_s, start_s, side="left"))
    last = len(times_s) if end_s is None else int(np.searchsorted(times_s, end_s, side="left"))
    if first >= last:
        shown = int(np.searchsorted(times_s, start_s or 0.0, side="right")) - 1
        return range(max(shown, 0), max(shown, 0) + 1)
    return range(first, last)
