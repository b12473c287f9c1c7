"""Between questions and the model: media loaded once, prompts and batches made from them.

The same encoder of samples as in training, so that a question is read as it was learned. The
feature cache of training is not used: probes alter what goes into the encoders, and need it raw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from video_llama.common.types import AudioSpec, Batch, MediaItem, Sample
from video_llama.datasets.collate import RoutedItem, collate, num_steps
from video_llama.datasets.sample_encoder import LoadedMedia, SampleEncoder
from video_llama.tasks.base import StopRule


@dataclass(frozen=True)
class Prompter:
    """Makes batches of samples with loaded or encoded media.

    Attributes:
        encoder: reads media and tokenises; without a feature cache.
        stop: ends a generated answer, besides the decoder's own end token.
    """

    encoder: SampleEncoder
    stop: StopRule | None = None

    @property
    def audio_spec(self) -> AudioSpec | None:
        """What the audio encoder is fed, None if the model is deaf."""
        branch = self.encoder.routes.get("audio")
        spec = None if branch is None else self.encoder.specs[branch].spec
        return spec if isinstance(spec, AudioSpec) else None

    def load(self, sample: Sample) -> list[MediaItem]:
        """Read a sample's media.

        Raises:
            MediaError: a file cannot be used.
        """
        return [routed.item for routed in self.encoder.load_media(sample).items]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch; samples that end with a question are padded on the left.

        Args:
            samples: with loaded or encoded media, all of them prompts or none.
        """
        encoded = [self.encoder.encode(sample, self._route(sample)) for sample in samples]
        is_prompt = samples[0].messages[-1].role == "user"
        return collate(
            encoded,
            specs=self.encoder.specs,
            pad_id=self.encoder.text.tokenizer.pad_id,
            padding_side="left" if is_prompt else "right",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return generated ids as text."""
        return self.encoder.text.tokenizer.decode(ids)

    def _route(self, sample: Sample) -> LoadedMedia:
        """Say where the media of a sample go."""
        items = []
        for item in sample.media:
            branch = self.encoder.branch_of(item, dataset=sample.dataset)
            slots = self.encoder.specs[branch].slots(num_steps(item))
            items.append(RoutedItem(item=item, branch=branch, num_slots=slots))
        return LoadedMedia(items=tuple(items))
