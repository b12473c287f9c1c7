"""What samples begin with alike, so that it is read once: pure functions on encoded samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import eq

from video_llama.common.types import IGNORE_INDEX
from video_llama.datasets.collate import EncodedSample


@dataclass(frozen=True)
class Split:
    """Samples cut into beginnings, each of which stands once, and endings.

    Attributes:
        beginnings: with the media.
        endings: text alone, one of each sample.
        rows: of each ending, the index of its beginning.
    """

    beginnings: list[EncodedSample]
    endings: list[EncodedSample]
    rows: list[int]


def split_prompts(prompts: Sequence[EncodedSample]) -> Split | None:
    """Cut prompts where those with the same media part.

    Two questions about clip a and one about clip b, v and w their tokens:

        1 v v 5 6 9                   1 v v        5 6 9
        1 v v 7 9       beginnings    1 w w 5      7 9       rows 0 0 1
        1 w w 5 9                                  9

    Args:
        prompts: without labels; media are the same where they are the same objects.

    Returns:
        The parts, none of them empty; None if nothing is shared, or if media stand behind the
        words in which prompts differ.
    """
    by_media: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        media = tuple(id(routed.item) for routed in prompt.media)
        by_media.setdefault(media, []).append(index)
    groups = [[prompts[index] for index in members] for members in by_media.values()]
    if len(groups) == len(prompts):
        return None
    # At one length where possible, so that no beginning is padded to that of a lone long prompt.
    limits = list(map(_most_shared, groups))
    shortest = min(limits)
    beginnings, endings, rows = [], list(prompts), [0] * len(prompts)
    for row, members in enumerate(by_media.values()):
        first = groups[row][0]
        end = max(shortest, _media_end(first))
        if not 1 <= end <= limits[row]:
            return None
        beginnings.append(beginning(first, end))
        for index in members:
            endings[index] = ending(prompts[index], end)
            rows[index] = row
    return Split(beginnings, endings, rows)


def _most_shared(group: Sequence[EncodedSample]) -> int:
    """Count what prompts may share; the last position of each is left to it."""
    return min(shared_length(group), *(len(prompt.input_ids) - 1 for prompt in group))


def _media_end(prompt: EncodedSample) -> int:
    """Return the position behind the last token of media."""
    return max((i for i, slot in enumerate(prompt.slots, start=1) if slot), default=0)


def shared_length(samples: Sequence[EncodedSample]) -> int:
    """Count the positions from the beginning that are equal in all samples and not supervised."""
    first = samples[0]
    length = len(first.input_ids)
    unsupervised = [IGNORE_INDEX] * length
    for sample in samples:
        length = _num_equal(sample.input_ids[:length], first.input_ids[:length])
        length = _num_equal(sample.slots[:length], first.slots[:length])
        length = _num_equal(sample.labels[:length], unsupervised[:length])
    return length


def _num_equal(values: list[int], others: list[int]) -> int:
    """Count the values from the beginning that are equal in both."""
    return len(values) if values == others else sum(takewhile(bool, map(eq, values, others)))


def beginning(sample: EncodedSample, end: int) -> EncodedSample:
    """Return the text up to a position, with the media."""
    return replace(
        sample,
        input_ids=sample.input_ids[:end],
        labels=sample.labels[:end],
        slots=sample.slots[:end],
    )


def ending(sample: EncodedSample, start: int) -> EncodedSample:
    """Return the text from a position on, without the media."""
    return replace(
        sample,
        input_ids=sample.input_ids[start:],
        labels=sample.labels[start:],
        slots=sample.slots[start:],
        media=(),
    )
