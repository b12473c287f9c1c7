"""A model for tests of chats: sees and hears through real specs, says what it was told to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Tensor

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, Shape, VideoSpec
from video_llama.conversation.chat import Chat, Shared
from video_llama.conversation.chat_model import Stop
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer
from video_llama.processors.uploads import UploadReader

LLAMA = Path(__file__).parent / "goldens" / "conversation" / "llama"
VIDEO = BranchSpec(
    name="video",
    media=("video", "image"),
    spec=VideoSpec(num_frames=4, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    frontier=Shape(4, 1, 2),
    slots=lambda num_steps: num_steps,
)
AUDIO = BranchSpec(
    name="audio",
    media=("audio",),
    spec=AudioSpec(
        num_clips=2,
        clip_s=0.25,
        sample_rate_hz=16000,
        num_mel_bins=16,
        num_mel_frames=25,
        mean=-4.268,
        std=9.138,
    ),
    frontier=Shape(2, 1, 2),
    slots=lambda num_steps: num_steps,
)


@dataclass
class Heard:
    """A prompt the parrot was given."""

    input_ids: list[int]
    slots: list[int]
    media: list[Tensor]
    settings: GenerationSettings


class ParrotCache:
    """Remembers the prompt that was read last, as a model's cache does."""

    def __init__(self) -> None:
        self.held: list[tuple[object, int]] = []
        self.num_reused = 0

    def read(self, places: list[tuple[object, int]]) -> None:
        """Count how much of a prompt is known; its last position is always read."""
        pairs = zip(self.held, places[:-1], strict=False)
        self.num_reused = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.held = places


class Parrot:
    """Gives one token per frame or sound clip, its mean, and says `says` and its end to any."""

    def __init__(
        self, says: str, *, branches: Sequence[BranchSpec] = (VIDEO, AUDIO), max_context: int = 600
    ) -> None:
        self.says = says
        self.max_context = max_context
        self.heard: list[Heard] = []
        self.encoded: list[MediaItem] = []
        self.spoken = 0
        self.tokenizer: Tokenizer = load_tokenizer(LLAMA)
        self._branches = branches

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_id})

    def branch_specs(self) -> dict[str, BranchSpec]:
        return {spec.name: spec for spec in self._branches}

    def encode_items(self, items: Sequence[MediaItem]) -> list[Tensor]:
        self.encoded += items
        raws = [item.mel if item.pixels is None else item.pixels for item in items]
        return [raw.flatten(1).mean(dim=1, keepdim=True).repeat(1, 2) for raw in raws]

    def stream_prompt(
        self,
        *,
        input_ids: Sequence[int],
        slots: Sequence[int],
        media: Sequence[Tensor],
        settings: GenerationSettings,
        stop: Stop,
        media_keys: Sequence[str] = (),
        cache: ParrotCache | None = None,
    ) -> Iterator[int]:
        self.heard.append(Heard(list(input_ids), list(slots), list(media), settings))
        if cache is not None:
            keys = [None, *media_keys]
            cache.read([(keys[k], i) for k, i in zip(slots, input_ids, strict=True)])
        ids = [*self.tokenizer.encode_run(self.says).ids, self.tokenizer.eos_id]
        room = min(settings.max_new_tokens, self.max_context - len(input_ids))
        for token_id in ids[:room]:
            self.spoken += 1
            yield token_id

    def new_prompt_cache(self) -> ParrotCache:
        return ParrotCache()

    def answer_prompts(
        self, prompts: Sequence[Prompt], *, settings: GenerationSettings, stop: Stop
    ) -> list[list[int]]:
        return [
            list(
                self.stream_prompt(
                    input_ids=prompt.input_ids,
                    slots=prompt.slots,
                    media=prompt.media,
                    settings=settings,
                    stop=stop,
                )
            )
            for prompt in prompts
        ]

    def chat(
        self,
        *,
        template: str = "vicuna_v0",
        max_new_tokens: int = 100,
        compat: ChatCompat | None = None,
        num_caches: int = 4,
        patience_s: float = 2.0,
    ) -> Chat:
        """Open a conversation with it."""
        return Chat(
            self,
            tokenizer=self.tokenizer,
            template=get_template(template),
            reader=UploadReader(self.branch_specs()),
            settings=GenerationSettings(max_new_tokens=max_new_tokens),
            compat=compat,
            shared=Shared(num_caches=num_caches, patience_s=patience_s),
        )

    def last_prompt(self) -> str:
        """The text it last read; "[k]" stands for each token of the k-th media item."""
        return self.prompt(self.heard[-1])

    def prompt(self, prompt: Heard) -> str:
        """The text of a prompt it was given, as `last_prompt`."""
        runs: list[str] = []
        text: list[int] = []
        for token_id, slot in zip(prompt.input_ids, prompt.slots, strict=True):
            if slot:
                runs += [self.tokenizer.decode(text), f"[{slot}]"]
                text = []
            else:
                text.append(token_id)
        return "".join([*runs, self.tokenizer.decode(text)])
