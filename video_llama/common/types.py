"""The plain data that travels through the house, from a file on disk to the loss.

Shapes: B batch, L text, M rows of a branch, T time steps, N tokens a step, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from video_llama.common.media_specs import AudioSpec as AudioSpec
from video_llama.common.media_specs import MediaSpec as MediaSpec
from video_llama.common.media_specs import VideoSpec as VideoSpec

if TYPE_CHECKING:
    # Importing this module stays free.
    from torch import Tensor

    from video_llama.common.members import Member

MediaKind = Literal["image", "video", "audio"]
Role = Literal["system", "user", "assistant"]
Form = Literal["caption", "instruct", "chat"]

MEDIA_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
"""In the order in which they stand before a text and number its modality."""

IGNORE_INDEX = -100
"""Label of a position that is not supervised, as torch's cross entropy defines it."""


@dataclass(frozen=True)
class Shape:
    """Static shape of one row of features: T time steps, N tokens a step, D width."""

    num_steps: int
    num_tokens: int
    width: int

    @property
    def num_slots(self) -> int:
        """Decoder positions one row of this shape takes."""
        return self.num_steps * self.num_tokens


@dataclass
class Features:
    """What every encoder emits and every bridge stage maps to another.

    Attributes:
        tokens: float[M, T, N, D].
        mask: bool[M, T, N], true where a token is real.
        grid: rows and columns of the patches among N, None once they are mixed.
        num_prefix: class tokens in front of the patches.
        levels: inner layers of the encoder, float[M, T, N, D] by layer index.
    """

    tokens: Tensor
    mask: Tensor
    grid: tuple[int, int] | None = None
    num_prefix: int = 0
    levels: dict[int, Tensor] | None = None


@dataclass
class MediaItem:
    """One picture, clip or sound, standing in a message where its tokens will go.

    Attributes:
        kind: what it is for the reader of the text.
        path: file, or any label if the content came from memory.
        start_s: first second to use, None for the beginning.
        end_s: last second to use, None for the end.
        pixels: float[T, 3, H, W], normalised; once the media loader has run.
        mel: float[T, 1, F, W], normalised; likewise.
        times_s: seconds of the steps really used, from the start of the file.
        crop: top, left, height and width of the box cut out of every frame, None for all of it.
        content_hash: identity of the bytes and the span, for caches.
        feature_key: key in the feature cache, None when no cache is in use.
        features: float[T, N, D] at the cache frontier, instead of pixels or mel.
        member: where in a shard the content lies; `path` is only a label then.
    """

    kind: MediaKind
    path: str
    start_s: float | None = None
    end_s: float | None = None
    pixels: Tensor | None = None
    mel: Tensor | None = None
    times_s: tuple[float, ...] = ()
    crop: tuple[int, int, int, int] | None = None
    content_hash: str | None = None
    feature_key: str | None = None
    features: Tensor | None = None
    member: Member | None = None


@dataclass
class Message:
    """One turn: text and media in the order they are read."""

    role: Role
    content: list[str | MediaItem]

    @property
    def text(self) -> str:
        """The words of the turn without its media."""
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def media(self) -> list[MediaItem]:
        """The media of the turn in text order."""
        return [part for part in self.content if isinstance(part, MediaItem)]


@dataclass
class Sample:
    """One training or evaluation sample.

    Attributes:
        key: unique and stable within its data set; randomness and caches hang on it.
        messages: the conversation; a caption is one assistant message that opens with the media.
        dataset: name of the data set it came from.
        form: which form of the template renders it.
        frame_times: false keeps the seconds of frames out of the text, whatever the model says.
        meta: whatever the task needs again at scoring time (question kind, candidates, answer).
    """

    key: str
    messages: list[Message]
    dataset: str = ""
    form: Form = "instruct"
    frame_times: bool = True
    meta: dict[str, object] = field(default_factory=dict)

    @property
    def media(self) -> list[MediaItem]:
        """All media in text order."""
        return [item for message in self.messages for item in message.media]


@dataclass(frozen=True)
class BatchItem:
    """Where one media item of a batch went.

    Attributes:
        branch: the branch that turns it into tokens.
        row: its row in `Batch.media[branch]`.
        num_slots: decoder positions reserved for it.
        sample: index of its sample in the batch.
        feature_key: key under which its frontier features may be stored.
        kind: of media.
    """

    branch: str
    row: int
    num_slots: int
    sample: int
    feature_key: str | None = None
    kind: MediaKind | None = None


@dataclass
class BranchInput:
    """What one branch has to work on in this batch; M may be 0.

    A row is either raw (row `raw_rows[i]` is `raw[i]`), or cached likewise; in all 0..M-1.

    Attributes:
        raw: float[M_raw, T, 3, H, W] pixels or float[M_raw, T, 1, F, W] mels.
        raw_mask: bool[M_raw, T], true where a step is real.
        raw_rows: int64[M_raw].
        cached: float[M_cached, T, N, D] frontier features.
        cached_mask: bool[M_cached, T].
        cached_rows: int64[M_cached].
    """

    raw: Tensor
    raw_mask: Tensor
    raw_rows: Tensor
    cached: Tensor | None = None
    cached_mask: Tensor | None = None
    cached_rows: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """M, raw and cached rows together."""
        return len(self.raw_rows) + (0 if self.cached_rows is None else len(self.cached_rows))


@dataclass
class Batch:
    """What the model eats.

    Attributes:
        input_ids: int64[B, L]; 0 at slots, the pad id on padding.
        attention_mask: bool[B, L], false on padding only.
        labels: int64[B, L], `IGNORE_INDEX` where nothing is supervised.
        slots: int32[B, L], 0 for text, else 1 + index into `items`.
        items: every media item of the batch.
        media: input of every branch in the step's plan.
        keys: sample keys, for the log and for error messages.
        dataset: the one data set this batch was drawn from.
        segments: int32[B, L] of packed samples; reserved.
        stage_text: text that a stage inside a branch reads, by stage; reserved.
        meta: `Sample.meta` per sample.
        beginnings: what the rows go on from, if several begin alike and that is to be read once.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    slots: Tensor
    items: Sequence[BatchItem]
    media: Mapping[str, BranchInput]
    keys: Sequence[str]
    dataset: str = ""
    segments: Tensor | None = None
    stage_text: Mapping[str, Tensor] | None = None
    meta: Sequence[Mapping[str, object]] = ()
    beginnings: Beginnings | None = None

    @property
    def num_targets(self) -> int:
        """Supervised tokens; the first of a row has nothing to predict it."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class Beginnings:
    """What the rows of another batch go on from.

    Attributes:
        batch: padded on the left, with the media.
        rows: of each row of the other batch, the row here that stands in front of it.
    """

    batch: Batch
    rows: Sequence[int]


@dataclass(frozen=True)
class BranchSpec:
    """What the rest of the house may know of a branch: a model's answers, carried across.

    Attributes:
        name: of the branch.
        media: kinds of media items it turns into tokens.
        spec: what its encoder must be fed.
        frontier: shape of a row at the cache frontier, at the full number of steps.
        slots: decoder positions of one item by its number of steps.
        frontier_id: identity of weights and config before the frontier, None if they are trained.
    """

    name: str
    media: tuple[MediaKind, ...]
    spec: MediaSpec
    frontier: Shape
    slots: Callable[[int], int]
    frontier_id: str | None = None


@dataclass
class LossOutput:
    """What a forward pass with labels gives.

    Attributes:
        loss_sum: float[], summed over supervised tokens; carries the graph.
        num_targets: int64[], supervised tokens of the batch.
        sample_loss: float[B], summed per sample, detached.
        sample_targets: int64[B].
        frontier: features just computed for raw items, float[T, N, D] by feature key.
    """

    loss_sum: Tensor
    num_targets: Tensor
    sample_loss: Tensor
    sample_targets: Tensor
    frontier: dict[str, Tensor] = field(default_factory=dict)
