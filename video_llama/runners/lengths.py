"""The lengths of a run's training samples: counted or read by one process, told to the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from video_llama.common.cores import num_cores
from video_llama.common.dist import gather_objects, is_main
from video_llama.common.errors import VideoLlamaError
from video_llama.common.hub import cache_folder
from video_llama.common.logger import get_logger
from video_llama.common.schema import RunConfig
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.length_files import lengths_of
from video_llama.datasets.length_order import POOLS, SampleLengths
from video_llama.datasets.lengths import Counting
from video_llama.datasets.sample_encoder import SampleEncoder
from video_llama.runners.signals import leave_signals_to_parent

FOLDER = "lengths"
"""In the run's feature cache, or in the user's cache where a run has none."""


def shared_lengths(
    readers: Mapping[str, DatasetReader], *, encoder: SampleEncoder, run: RunConfig
) -> dict[str, SampleLengths]:
    """Return how long the samples of all training sets are; every rank must call this.

    Args:
        readers: of the training sets, by name.
        encoder: knows branches, template and tokenizer.
        run: says where features are kept, and whether processes may be started.

    Returns:
        By name; nothing if the run does not group by length.

    Raises:
        VideoLlamaError: something is wrong with a data set as a whole; on all ranks alike.
    """
    if not run.group_by_length:
        return {}
    own: dict[str, SampleLengths] | VideoLlamaError = {}
    if is_main():
        folder = Path(run.feature_cache) if run.feature_cache is not None else cache_folder()
        num_workers = num_cores() if run.num_workers else 0
        counting = Counting(encoder, num_workers, leave_signals_to_parent)
        try:
            own = {
                name: lengths_of(reader, counting=counting, folder=folder / FOLDER)
                for name, reader in readers.items()
            }
        except VideoLlamaError as error:
            own = error
    # By way of memory: machines need not share a disk, and nobody waits for a file.
    found: dict[str, SampleLengths] | VideoLlamaError = gather_objects(own)[0]
    if isinstance(found, VideoLlamaError):
        raise found
    for name, lengths in found.items() if is_main() else ():
        get_logger().info("datasets.%s: %s", name, described(lengths))
    return found


def described(lengths: SampleLengths) -> str:
    """Say in words how many samples each pool has, and how long they are."""
    parts = []
    for number, pool in enumerate(POOLS):
        positions = lengths.positions[lengths.pools == number]
        if len(positions):
            middle, longest = np.median(positions), positions.max()
            parts.append(f"{len(positions):,} {pool} (median {middle:.0f}, longest {longest})")
    return "samples by length: " + ", ".join(parts)
