"""What a chat asks of a model and of the reader of its uploads; `models.VideoLLM` answers to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.types import BranchSpec, MediaItem
from video_llama.processors.uploads import ReadUpload, UploadRequest

if TYPE_CHECKING:
    from torch import Tensor


Stop = Callable[[int, Sequence[int]], bool]
"""Told a row and the ids generated so far, says whether it is finished; `StopRule` is one."""


class ChatModel(Protocol):
    """A model in eval mode; nothing here keeps a graph."""

    @property
    def max_context(self) -> int:
        """Decoder positions there are, prompt and answer together."""

    @property
    def end_ids(self) -> Collection[int]:
        """Token ids by which the decoder ends an answer."""

    def branch_specs(self) -> Mapping[str, BranchSpec]:
        """Return the branches by name; no kind of media is taken by two of them."""

    def encode_items(self, items: Sequence[MediaItem]) -> list[Tensor]:
        """Run loaded media items through the branches that take their kinds.

        Args:
            items: with `pixels` or `mel`; their number of steps may differ from the branch's spec.

        Returns:
            Per item float[S, H]: S decoder positions of width H.
        """

    def new_prompt_cache(self) -> Any:
        """Return an empty cache for `stream_prompt`; its `num_reused` tells of the last prompt."""

    def stream_prompt(
        self,
        *,
        input_ids: Sequence[int],
        slots: Sequence[int],
        media: Sequence[Tensor],
        settings: GenerationSettings,
        stop: Stop,
        media_keys: Sequence[str],
        cache: Any,
    ) -> Iterator[int]:
        """Yield the ids of an answer one by one, until it ends or the limit is reached.

        Args:
            input_ids: int[L] of one prompt; 0 at media positions.
            slots: int[L], 0 for text, k for a token of `media[k - 1]`; fewer than it has tokens
                where the prompt was cut, then for its last ones.
            media: float[S, H] per item, as `encode_items` returned them.
            settings: length, temperature, seed.
            stop: called with row 0 and its ids after each token.
            media_keys: identity of each item's tokens.
            cache: what was read last, and never anything half-read, even if this fails; None reads
                everything again.

        Yields:
            Token ids; closing the iterator ends the generation.
        """

    def answer_prompts(
        self, prompts: Sequence[Prompt], *, settings: GenerationSettings, stop: Stop
    ) -> list[list[int]]:
        """Return the ids of the answer to each prompt, generated in one batch."""


class Reader(Protocol):
    """What reads uploads, e.g. `processors.uploads.UploadReader`; used by several threads."""

    def read(self, request: UploadRequest) -> ReadUpload:
        """Return what the model sees and hears of a file.

        Raises:
            MediaError: it cannot be read, or the model takes nothing that is in it.
        """
