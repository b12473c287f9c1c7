"""Parts of a message: words, and media with the span and the frames that are wanted of them.

What a medium is, is decided later by its content: a GIF under `image_url` is a clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from video_llama.apps.serve_errors import ApiError
from video_llama.apps.serve_fields import Fields, check_text
from video_llama.processors.uploads import MAX_FRAMES

MAX_SECONDS = 1e6

URL_PARTS = ("image_url", "video_url", "audio_url")


@dataclass(frozen=True)
class Sampling:
    """Which frames are wanted of a clip; None leaves it to the model.

    Attributes:
        frames: how many over its whole length.
        fps: how many a second.
    """

    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Medium:
    """A picture, clip or sound, not fetched and not decoded.

    Attributes:
        where: its field, for errors.
        address: a data URL, or one of file, http or https.
        start_s: first second to use.
        end_s: last second to use.
        sampling: of its frames.
        sound: whether the sound of a clip is heard.
    """

    where: str
    address: str = field(repr=False)
    start_s: float | None = None
    end_s: float | None = None
    sampling: Sampling = Sampling()
    sound: bool = True


Parts = tuple[str | Medium, ...]
"""Words and media in text order."""


def read_sampling(fields: Fields, *, default: Sampling) -> Sampling:
    """Read `frames` or `fps`.

    Raises:
        ApiError: both are given, or one is out of bounds.
    """
    frames = fields.integer("frames", least=1, most=MAX_FRAMES)
    fps = fields.number("fps", least=1e-3, most=1000)
    if frames is not None and fps is not None:
        raise ApiError(
            f"{fields.path('frames')} and {fields.path('fps')} are both given; give one of them",
            param=fields.path("frames"),
        )
    return default if frames is None and fps is None else Sampling(frames, fps)


def read_content(fields: Fields, *, sampling: Sampling) -> Parts:
    """Read the content of a message.

    Args:
        fields: of the message.
        sampling: of clips that do not bring their own.

    Raises:
        ApiError: names the part that is wrong.
    """
    content, where = fields.raw("content"), fields.path("content")
    if isinstance(content, str):
        check_text(content, where=where)
        return (content,)
    if not isinstance(content, list):
        raise fields.wrong("content", "a string or a list of parts")
    return tuple(
        _read_part(Fields(part, where=f"{where}[{place}]"), sampling)
        for place, part in enumerate(content)
    )


def read_words(fields: Fields) -> str:
    """Read content that may hold no media."""
    words = []
    for part in read_content(fields, sampling=Sampling()):
        if isinstance(part, Medium):
            raise ApiError(
                f"{part.where}: media stand in messages of role 'user' only", param=part.where
            )
        words.append(part)
    return "".join(words)


def _read_part(fields: Fields, sampling: Sampling) -> str | Medium:
    """Read a part of any type."""
    kind = fields.text("type", one_of=("text", *URL_PARTS, "input_audio"))
    if kind is None:
        raise ApiError(f"{fields.path('type')} is missing", param=fields.path("type"))
    # Marks where a client wishes its own prefix cache to end; prefixes are found without them.
    fields.raw("prompt_cache_breakpoint")
    if kind == "text":
        words = fields.text("text")
        if words is None:
            raise ApiError(f"{fields.path('text')} is missing", param=fields.path("text"))
        part: str | Medium = words
    else:
        inner = Fields(fields.raw(kind), where=fields.path(kind))
        part = _read_medium(inner, kind, sampling)
        inner.finish()
    fields.finish()
    return part


def _read_medium(fields: Fields, kind: str, sampling: Sampling) -> Medium:
    """Read a medium and what is wanted of it."""
    if kind == "input_audio":
        # Its content decides what it is; `format` only has to be a word.
        form = fields.text("format") or "wav"
        if not form.isalnum():
            raise fields.wrong("format", "a word such as 'wav' or 'mp3'")
        address = f"data:audio/{form};base64,{fields.required_text('data')}"
    else:
        address = fields.required_text("url")
    fields.refuse(
        "detail", unless=("auto",), why="every picture is seen at the size the model was trained at"
    )
    medium = Medium(
        where=fields.where,
        address=address,
        start_s=fields.number("start", least=0, most=MAX_SECONDS),
        end_s=fields.number("end", least=0, most=MAX_SECONDS),
        sound=fields.flag("sound") is not False,
    )
    if medium.end_s is not None and medium.end_s <= (medium.start_s or 0):
        raise fields.wrong("end", f"more than start, which is {medium.start_s or 0:g}")
    return replace(medium, sampling=read_sampling(fields, default=sampling))
