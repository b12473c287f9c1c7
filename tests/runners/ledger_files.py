"""Ledgers written by hand, as a run would leave them."""

from __future__ import annotations

import dataclasses
import gzip
import json

from video_llama.datasets.trace import MediaTrace, SampleTrace
from video_llama.runners.ledger import LEDGER_FOLDER, Entry, SampleEntry


def a_clip(key, *, times_s=(0.0, 0.5), folder="videos", span_s=None, **keys):
    """What is kept of a clip that is called like its sample."""
    return MediaTrace("video", f"{folder}/{key}.mp4", "video", times_s, span_s=span_s, **keys)


def a_sample(key, position, *, loss=1.0, num_targets=2, filled_for=(), **clip):
    """A sample with one clip."""
    trace = SampleTrace(key, position, position, (a_clip(key, **clip),), filled_for)
    return SampleEntry(trace, loss, num_targets)


def a_step(step, *samples, dataset="webvid", num_ranks=1, accum=1, reader="pyav"):
    """A step of the samples given."""
    return Entry(step, dataset, 0.1, 1.0, reader, num_ranks, accum, samples)


def two_steps(**keys):
    """Steps of two samples each; what is given concerns the last sample."""
    first = a_step(1, a_sample("a", 0), a_sample("b", 1))
    return [first, a_step(2, a_sample("c", 2), a_sample(keys.pop("key", "d"), 3, **keys))]


def write_ledger(folder, entries):
    """Write entries into the folder of a run, and return the folder."""
    path = folder / LEDGER_FOLDER / "steps_0000001.jsonl.gz"
    path.parent.mkdir(parents=True)
    lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in entries]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    return folder
