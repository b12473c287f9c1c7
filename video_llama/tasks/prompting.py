"""Between questions and the model: media loaded once, prompts and batches made from them.

The same encoder of samples as in training, so that a question is read as it was learned, and the
same feature cache, so that a clip is decoded once for all evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from video_llama.common.types import AudioSpec, Batch, Beginnings, MediaItem, Sample
from video_llama.conversation.stopping import StopRule, answer_text
from video_llama.datasets.collate import EncodedSample, RoutedItem, collate
from video_llama.datasets.routing import num_steps
from video_llama.datasets.sample_encoder import LoadedMedia, SampleEncoder
from video_llama.tasks.beginnings import beginning, ending, shared_length, split_prompts


@dataclass(frozen=True)
class Forks:
    """Prompts, and several ways to go on from each; what `Model.score` takes.

    Attributes:
        prompts: padded on the left, media and all.
        continuations: text, padded on the right.
        rows: of each continuation, the row of its prompt.
    """

    prompts: Batch
    continuations: Batch
    rows: list[int]


@dataclass(frozen=True)
class Prompter:
    """Makes batches of samples with loaded or encoded media.

    Attributes:
        encoder: reads media, or finds their features, and tokenises.
        shares_beginnings: whether what prompts about one clip begin with is read once for all of
            them; the model must tolerate gaps.
    """

    encoder: SampleEncoder
    shares_beginnings: bool = False

    @property
    def audio_spec(self) -> AudioSpec | None:
        """What the audio encoder is fed, None if the model is deaf."""
        branch = self.encoder.routes.get("audio")
        spec = None if branch is None else self.encoder.specs[branch].spec
        return spec if isinstance(spec, AudioSpec) else None

    @property
    def stop_rule(self) -> StopRule:
        """What ends a generated answer."""
        return StopRule(self.encoder.text.tokenizer, self.encoder.text.template.stop)

    def load(self, sample: Sample) -> list[MediaItem]:
        """Read a sample's media, as features if the cache has them.

        Raises:
            MediaError: a file cannot be used.
        """
        loaded = self.encoder.load_media(sample)
        if self.encoder.cache is not None:
            self.encoder.cache.add({}, times_s={}, stamps=loaded.stamps)
        return [routed.item for routed in loaded.items]

    def load_raw(self, sample: Sample) -> list[MediaItem]:
        """Read a sample's media from their files, as they are before any encoder.

        Raises:
            MediaError: a file cannot be used.
        """
        text, reader = self.encoder.text, self.encoder.reader
        uncached = SampleEncoder(self.encoder.specs, text=text, reader=reader)
        return [routed.item for routed in uncached.load_media(sample).items]

    def keep(self, item: MediaItem, features: Tensor) -> None:
        """Put the features of an item into the cache, if it has a place there.

        Args:
            item: raw, as `load` gave it.
            features: float[T, N, D] at the cache frontier, valid steps only.
        """
        if self.encoder.cache is not None and item.feature_key is not None:
            self.encoder.cache.put(item.feature_key, features, times_s=item.times_s)

    def flush(self) -> None:
        """Bring what was kept to disk."""
        if self.encoder.cache is not None:
            self.encoder.cache.flush()

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch; samples that end with a question are padded on the left.

        Args:
            samples: with loaded or encoded media, all of them prompts or none.
        """
        encoded = self._encode(samples)
        if samples[0].messages[-1].role == "user":
            return self._pad_prompts(encoded)
        return self._pad(encoded, side="right")

    def collate_forks(self, groups: Sequence[Sequence[Sample]]) -> Forks:
        """Make the batches in which samples that begin alike are read once up to their answers.

        Args:
            groups: each of samples that differ in their last answer only; loaded or encoded media.
        """
        prompts, continuations, rows = [], [], []
        for row, group in enumerate(groups):
            encoded = self._encode(group)
            # The last token in common goes with the answers, whose first token it predicts.
            end = shared_length(encoded) - 1
            assert end >= 1, f"{group[0].key}: nothing stands before the answers"
            prompts.append(beginning(encoded[0], end))
            continuations += [ending(sample, end) for sample in encoded]
            rows += [row] * len(encoded)
        return Forks(self._pad_prompts(prompts), self._pad(continuations, side="right"), rows)

    def decode(self, ids: Sequence[int]) -> str:
        """Return generated ids as the answer a person reads."""
        text = self.encoder.text
        return answer_text(ids, tokenizer=text.tokenizer, stop=text.template.stop)

    def _encode(self, samples: Sequence[Sample]) -> list[EncodedSample]:
        """Tokenise samples with loaded or encoded media."""
        return [self.encoder.encode(sample, self._route(sample)) for sample in samples]

    def _pad_prompts(self, prompts: Sequence[EncodedSample]) -> Batch:
        """Put prompts side by side, and apart from them what they begin with alike."""
        split = split_prompts(prompts) if self.shares_beginnings else None
        if split is None:
            return self._pad(prompts, side="left")
        beginnings = Beginnings(self._pad(split.beginnings, side="left"), split.rows)
        return replace(self._pad(split.endings, side="left"), beginnings=beginnings)

    def _pad(self, encoded: Sequence[EncodedSample], *, side: Literal["left", "right"]) -> Batch:
        """Put encoded samples side by side."""
        pad_id = self.encoder.text.tokenizer.pad_id
        return collate(encoded, specs=self.encoder.specs, pad_id=pad_id, padding_side=side)

    def _route(self, sample: Sample) -> LoadedMedia:
        """Say where the media of a sample go."""
        items = []
        for item in sample.media:
            branch = self.encoder.branch_of(item, dataset=sample.dataset)
            slots = self.encoder.specs[branch].slots(num_steps(item))
            items.append(RoutedItem(item=item, branch=branch, num_slots=slots))
        return LoadedMedia(items=tuple(items))
