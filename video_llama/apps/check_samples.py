"""What a few samples of each training set tell before a run starts: do they fit, do they teach?

Media are not opened. One sample that cannot be used is no fault of the run file; if all of a kind
are like it, the run file does not suit the data, and every step would only skip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from video_llama.apps.vocabulary import text_settings
from video_llama.common.errors import ConfigError, ContextOverflow, MediaError
from video_llama.common.hub import local_path
from video_llama.common.schema import Config
from video_llama.common.types import MediaKind, Sample
from video_llama.datasets.annotations import FEW_FILES, MANY_PROBED
from video_llama.datasets.base import NUM_PROBED, DatasetReader
from video_llama.datasets.lengths import measure
from video_llama.datasets.sample_encoder import SampleEncoder
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.media import MediaLoader


@dataclass
class _Seen:
    """What was seen of the samples with the same kinds of media."""

    is_usable: bool = False
    faults: list[str] = field(default_factory=list)


def sample_problems(
    config: Config, readers: Mapping[str, DatasetReader], model: VideoLLM
) -> Iterator[str]:
    """Say which training sets hold samples that do not fit, or that teach nothing.

    Args:
        config: the typed run file.
        readers: of its data sets, by name; nothing they need is missing.
        model: may be on the meta device.
    """
    directory = config.model.tokenizer or config.model.decoder.file
    if directory is None or not local_path(directory).is_dir():
        # Said elsewhere.
        return
    specs = model.branch_specs()
    try:
        encoder = SampleEncoder(specs, text=text_settings(config.model), reader=MediaLoader(specs))
    except ConfigError as error:
        yield from error.problems
        return
    for name, reader in readers.items():
        if config.datasets[name].split == "train":
            yield from _problems_of(reader, encoder)


def _problems_of(reader: DatasetReader, encoder: SampleEncoder) -> Iterator[str]:
    """Look at samples until one of every kind can be used."""
    num_probed = NUM_PROBED if reader.kinds is not None else MANY_PROBED
    step = max(1, len(reader) // num_probed)
    by_kinds: dict[frozenset[MediaKind], _Seen] = defaultdict(_Seen)
    for index in islice(range(0, len(reader), step), num_probed):
        try:
            sample = reader.sample(index)
        except MediaError:
            continue
        seen = by_kinds[frozenset(item.kind for item in sample.media)]
        if seen.is_usable:
            continue
        try:
            fault = _fault(sample, encoder)
        except ConfigError as error:
            yield from error.problems
            return
        seen.is_usable = fault is None
        seen.faults += [fault] if fault else []
        if seen.is_usable and reader.kinds is not None:
            return
    is_any_usable = any(seen.is_usable for seen in by_kinds.values())
    for kinds, seen in by_kinds.items():
        if not seen.is_usable and (not is_any_usable or len(seen.faults) >= FEW_FILES):
            yield (
                f"datasets.{reader.name}: none of {len(seen.faults)} samples looked at with "
                f"{', '.join(sorted(kinds)) or 'text alone'} can be trained on, e.g. "
                f"{seen.faults[0]}"
            )


def _fault(sample: Sample, encoder: SampleEncoder) -> str | None:
    """Say why nothing can be learnt from a sample, None if something can.

    Raises:
        ConfigError: no branch takes its media, or its messages do not suit the template.
    """
    if sample.messages[-1].role == "user":
        return f"{sample.key} ends with a question; a set of questions is for evaluation"
    try:
        measure(sample, encoder=encoder)
    except ContextOverflow as error:
        return str(error)
    except MediaError as error:
        return error.reason
    return None
