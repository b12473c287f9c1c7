"""Going through a data set ahead of a training: every sample read as the training would read it.

Samples are looked at in spans. What a span consists of, from its rows to the sizes and times of its
files, is hashed; a span whose hash is known from an earlier audit is not read again, except for the
samples that were broken then. A folder of pictures is known by its own time of change alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from video_llama.common.errors import ContextOverflow, MediaError, VideoLlamaError
from video_llama.common.types import MediaItem, Sample
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.stream import SampleRef

SPAN = 32
"""Samples looked at together; what is lost at a kill, and read again if one file has changed."""


@dataclass(frozen=True)
class Finding:
    """A sample that cannot be used.

    Attributes:
        dataset: name of its data set.
        index: of the sample in it.
        key: of the sample.
        path: the file or row at fault, empty if it is the text as a whole.
        reason: in words.
    """

    dataset: str
    index: int
    key: str
    path: str
    reason: str


@dataclass(frozen=True)
class SpanReport:
    """What became of a span.

    Attributes:
        dataset: name of the data set.
        indices: of the samples.
        digest: hash of all that they consist of.
        num_read: samples that were read; the others were known to be good.
        findings: samples that cannot be used.
    """

    dataset: str
    indices: tuple[int, ...]
    digest: str
    num_read: int
    findings: tuple[Finding, ...]


Known = Mapping[str, Sequence[int]]
"""Indices of the broken samples of spans audited before, by digest."""


class Audit(Dataset[SpanReport | VideoLlamaError]):
    """Reads spans of a data set; a dataset of torch, so that data workers share the work.

    Args:
        data: reads samples; supervised, or a bad file may stop the audit.
        name: of the data set.
        settings: whatever else decides whether a sample can be used; part of every digest.
        known: what earlier audits found.
    """

    def __init__(self, data: MixtureDataset, *, name: str, settings: str, known: Known) -> None:
        self._data = data
        self._name = name
        self._settings = settings
        self._known = known

    def __getitem__(self, indices: Sequence[int]) -> SpanReport | VideoLlamaError:
        """Look at the samples of a span; an error that is no sample's own is returned."""
        digest = hashlib.blake2b(self._settings.encode(), digest_size=16)
        for index in indices:
            digest.update(json.dumps(self._contents(index)).encode())
        known = self._known.get(digest.hexdigest())
        to_read = indices if known is None else known
        try:
            findings = [found for index in to_read if (found := self._look_at(index))]
        except VideoLlamaError as error:
            return error
        return SpanReport(
            self._name, tuple(indices), digest.hexdigest(), len(to_read), tuple(findings)
        )

    def _ref(self, index: int) -> SampleRef:
        return SampleRef(self._name, index, pass_index=0, position=index)

    def _contents(self, index: int) -> list[object]:
        """Return what a sample consists of, JSON types only."""
        try:
            sample = self._data.named(self._ref(index))
        except MediaError as error:
            return [self._name, index, str(error)]
        return [self._name, index, sample.key, _texts(sample), list(map(_stamp, sample.media))]

    def _look_at(self, index: int) -> Finding | None:
        """Read one sample; say what is wrong with it, None if nothing is."""
        try:
            self._data.load(self._ref(index))
        except MediaError as error:
            path, reason = error.path or "", error.reason
        except ContextOverflow as error:
            path, reason = "", str(error)
        else:
            return None
        key = self._data.readers[self._name].key(index)
        return Finding(self._name, index, key, path, reason)


def audit(
    work: Audit,
    *,
    spans: Sequence[Sequence[int]],
    num_workers: int,
    worker_init: Callable[[int], None] | None = None,
) -> Iterator[SpanReport]:
    """Yield the report of every span, in order.

    Args:
        work: what is done with one.
        spans: indices of samples.
        num_workers: processes that read; 0 reads here.
        worker_init: called in each of them first.

    Raises:
        VideoLlamaError: something is wrong that is no sample's own fault.
    """
    loader: DataLoader[SpanReport | VideoLlamaError] = DataLoader(
        work,
        sampler=spans,
        num_workers=num_workers,
        collate_fn=_only,
        worker_init_fn=worker_init if num_workers else None,
    )
    for report in loader:
        if isinstance(report, VideoLlamaError):
            raise report
        yield report


def spans_of(length: int, *, every: int = 1, limit: int | None = None) -> list[list[int]]:
    """Cut a data set into spans.

    Args:
        length: samples in it.
        every: look at every so manieth only.
        limit: samples at most.
    """
    indices = list(range(0, length, every))[:limit]
    return [indices[start : start + SPAN] for start in range(0, len(indices), SPAN)]


class Journal:
    """Keeps the reports of spans in a file, a line each, so that an audit can go on.

    Args:
        path: of the file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self) -> dict[str, tuple[int, ...]]:
        """Return what is known of spans by their digests; half a line at the end is left out."""
        known: dict[str, tuple[int, ...]] = {}
        content = self._path.read_bytes() if self._path.exists() else b""
        for line in content.splitlines():
            with contextlib.suppress(ValueError, KeyError):
                span = json.loads(line)
                known[span["digest"]] = tuple(span["broken"])
        return known

    def add(self, report: SpanReport) -> None:
        """Add a line."""
        broken = [found.index for found in report.findings]
        line = {"dataset": report.dataset, "digest": report.digest, "broken": broken}
        with self._path.open("ab") as file:
            # An empty line first, so that nothing is added to half a line that a kill left.
            file.write(f"\n{json.dumps(line)}\n".encode())


def _texts(sample: Sample) -> list[list[str]]:
    return [[message.role, message.text] for message in sample.messages]


def _stamp(item: MediaItem) -> list[object]:
    """Return what tells whether an item is another one now."""
    span: list[object] = [item.kind, item.start_s, item.end_s]
    if item.member is not None:
        return [*span, item.member.digest]
    try:
        status = Path(item.path).stat()
    except (OSError, ValueError):
        return [*span, item.path]
    return [*span, item.path, status.st_size, status.st_mtime_ns]


def _only(reports: Sequence[SpanReport | VideoLlamaError]) -> SpanReport | VideoLlamaError:
    (report,) = reports
    return report
