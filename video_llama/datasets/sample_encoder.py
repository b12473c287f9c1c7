"""One sample from named files to loaded media and token ids, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from video_llama.common.errors import ConfigError, ContextOverflow
from video_llama.common.rng import fold
from video_llama.common.types import BranchSpec, MediaItem, Message, Sample, VideoSpec
from video_llama.conversation.encode import encode
from video_llama.conversation.layouts import Template
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.datasets.collate import EncodedSample, RoutedItem
from video_llama.datasets.feature_cache import FeatureCache, FileStamp, Lookup
from video_llama.datasets.routing import branch_of, num_steps, route
from video_llama.processors.media import Augment, Request

RANDOM_FRAME_POLICIES = frozenset({"headtail"})


class MediaReader(Protocol):
    """What reads media: `processors.media.MediaLoader`, or a test's."""

    def load_all(self, requests: Sequence[Request]) -> list[MediaItem]:
        """Return the items of one sample with pixels or mel and times.

        Raises:
            MediaError: it cannot be read.
        """


@dataclass(frozen=True)
class TextSettings:
    """How samples become tokens.

    Attributes:
        template: the prompt format.
        tokenizer: of the decoder.
        max_len: decoder positions of a sample at most, media included.
    """

    template: Template
    tokenizer: Tokenizer
    max_len: int


@dataclass(frozen=True)
class LoadedMedia:
    """A sample's media with the branches they go to, and files that had to be hashed."""

    items: tuple[RoutedItem, ...]
    stamps: tuple[FileStamp, ...] = ()


class SampleEncoder:
    """Reads a sample's media, from the cache if they are there, and tokenises its text.

    Args:
        specs: every branch of the plan, by name.
        text: how samples become tokens.
        reader: what reads media.
        cache: features of frozen encoders; None reads every file.

    Raises:
        ConfigError: two branches want the same media, or the slots alone fill the context.
    """

    def __init__(
        self,
        specs: Mapping[str, BranchSpec],
        *,
        text: TextSettings,
        reader: MediaReader,
        cache: FeatureCache | None = None,
    ) -> None:
        self.specs = specs
        self.text = text
        self.reader = reader
        self.cache = cache
        self.routes = route(specs)
        if cache is not None:
            _refuse_random_frames(specs)

    def branch_of(self, item: MediaItem, *, dataset: str) -> str:
        """Return the branch that takes an item.

        Raises:
            ConfigError: none does.
        """
        return branch_of(item.kind, routes=self.routes, dataset=dataset)

    def load_media(
        self, sample: Sample, *, augment: Augment = "none", seed: int = 0
    ) -> LoadedMedia:
        """Read a sample's media; the sample itself is not changed.

        Args:
            sample: with media that are named.
            augment: what is done to pictures.
            seed: for the augmentation.

        Raises:
            MediaError: a file cannot be used.
            ConfigError: no branch takes an item.
        """
        media = sample.media
        branches = [self.branch_of(item, dataset=sample.dataset) for item in media]
        found = [self._look_up(*pair) for pair in zip(media, branches, strict=True)]
        missing = [
            Request(named, branch, augment=augment, seed=fold(seed, index))
            for index, (named, branch) in enumerate(zip(media, branches, strict=True))
            if found[index].hit is None
        ]
        read = iter(self.reader.load_all(missing))
        items = []
        for named, branch, cached in zip(media, branches, found, strict=True):
            if (hit := cached.hit) is None:
                item = replace(next(read), feature_key=cached.key)
            else:
                item = replace(
                    named, feature_key=cached.key, features=hit.features, times_s=hit.times_s
                )
            slots = self.specs[branch].slots(num_steps(item))
            items.append(RoutedItem(item=item, branch=branch, num_slots=slots))
        stamps = tuple(cached.stamp for cached in found if cached.stamp)
        return LoadedMedia(items=tuple(items), stamps=stamps)

    def encode(self, sample: Sample, media: LoadedMedia) -> EncodedSample:
        """Tokenise a sample whose media are loaded.

        A sample that ends with a question is encoded up to where the model is to speak.

        Raises:
            ContextOverflow: it does not fit, or its media alone do not.
            ConfigError: the messages do not suit the form.
        """
        num_slots = [routed.num_slots for routed in media.items]
        if sum(num_slots) >= self.text.max_len:
            kinds = ", ".join(f"{r.item.kind} {r.num_slots}" for r in media.items)
            raise ContextOverflow(
                f"{sample.key or 'sample'}: its {len(num_slots)} media alone take {sum(num_slots)} "
                f"decoder positions ({kinds}), model.max_txt_len is {self.text.max_len}; show "
                "fewer, or raise model.max_txt_len"
            )
        encoded = encode(
            _with_media(sample, media),
            template=self.text.template,
            tokenizer=self.text.tokenizer,
            num_slots=num_slots,
            max_len=self.text.max_len,
            generation_prompt=sample.messages[-1].role == "user",
        )
        return EncodedSample(
            key=sample.key,
            dataset=sample.dataset,
            input_ids=encoded.input_ids,
            labels=encoded.labels,
            slots=encoded.slots,
            media=media.items,
            meta=sample.meta,
            stamps=media.stamps,
        )

    def _look_up(self, item: MediaItem, branch: str) -> Lookup:
        """Ask the cache, if there is one."""
        return self.cache.look_up(item, self.specs[branch]) if self.cache is not None else Lookup()


def _with_media(sample: Sample, media: LoadedMedia) -> Sample:
    """Return a copy of the sample with its named media replaced by the loaded ones, in order."""
    loaded = iter(media.items)
    messages = [
        Message(
            message.role,
            [
                next(loaded).item if isinstance(part, MediaItem) else part
                for part in message.content
            ],
        )
        for message in sample.messages
    ]
    return replace(sample, messages=messages)


def _refuse_random_frames(specs: Mapping[str, BranchSpec]) -> None:
    """A cache would freeze the frames that a random policy drew first."""
    problems = [
        f"model.branches.{name}: frame policy '{spec.spec.frame_policy}' draws other frames in "
        "every pass, run.feature_cache cannot keep them; set feature_cache: null or another policy"
        for name, spec in specs.items()
        if isinstance(spec.spec, VideoSpec) and spec.spec.frame_policy in RANDOM_FRAME_POLICIES
    ]
    if problems:
        raise ConfigError(problems)
