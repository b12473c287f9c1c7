"""`video-llama data features`: what the frozen encoders make of all media, computed ahead.

    video-llama data features --cfg-path train_configs/visionbranch_stage1_pretrain.yaml
    torchrun --nproc_per_node=8 -m video_llama.apps.main data features --cfg-path ...

Fills `run.feature_cache` with what stands before each branch's first part that learns, as the first
pass of a training would, on as many GPUs or processes as there are and without the decoder. Every
run of the same frozen parts then starts from it. What is in the cache already is not computed
again, so that a call that was killed goes on. Exit codes: 0 all is there, 1 some media cannot be
used, 2 the run file is wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from video_llama.apps.checks import open_whole_readers
from video_llama.apps.console import wide_console
from video_llama.apps.devices import pick_device
from video_llama.apps.vocabulary import text_settings
from video_llama.common.dist import World, gather_objects, is_main, process_group
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.heap import keep_freed_memory
from video_llama.common.schema import Config
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.common.whole_files import write_whole
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.datasets.sample_encoder import LoadedMedia, SampleEncoder
from video_llama.models.branch import Branch
from video_llama.models.loading import load_heads
from video_llama.runners.data import open_encoder
from video_llama.runners.signals import StopRequest, leave_signals_to_parent

SAVE_S = 2.0
"""How often the report says how far the work is."""


@dataclass
class Work:
    """How far a rank is; what its report holds.

    Attributes:
        num_files: pictures, clips and sounds, each span of a file once.
        num_computed: now.
        num_found: in the cache before.
        num_broken: cannot be used.
        broken: why, by path.
        is_stopped: it was asked to stop before all were done.
    """

    num_files: int = 0
    num_computed: int = 0
    num_found: int = 0
    num_broken: int = 0
    is_stopped: bool = False
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def num_done(self) -> int:
        """Files that need no more work."""
        return self.num_computed + self.num_found + self.num_broken


def compute_features(config: Config, *, names: Sequence[str], report: Path | None = None) -> Work:
    """Fill the feature cache of a run file.

    Args:
        config: the typed run file.
        names: of the data sets.
        report: JSON, rewritten while the work goes on; None for none.

    Returns:
        What all ranks did together.

    Raises:
        ConfigError: no cache is named, nothing is frozen, or the run file is wrong.
    """
    if config.run.feature_cache is None:
        raise ConfigError("run.feature_cache: it names no folder to keep features in")
    readers = open_whole_readers(config, names)
    device = pick_device(config.run)
    with process_group(device) as world:
        device = world.own_device(device)
        if device == "cpu":
            keep_freed_memory()
        heads = load_heads(config.model)
        for head in heads.values():
            head.to(device).eval()
        encoder = _open_encoder(config, heads, rank=world.rank)
        media = unique_media(readers, encoder=encoder)
        mine = media[world.rank :: world.size]
        work = _fill(heads, encoder=encoder, media=mine, config=config, report=report, world=world)
        parts: list[Work] = gather_objects(work)
    total = Work(num_files=len(media))
    for part in parts:
        total.num_computed += part.num_computed
        total.num_found += part.num_found
        total.num_broken += part.num_broken
        total.is_stopped |= part.is_stopped
        total.broken |= part.broken
    if is_main() and report is not None:
        _write(report, total)
    return total


def unique_media(
    readers: dict[str, DatasetReader], *, encoder: SampleEncoder
) -> list[tuple[str, list[MediaItem]]]:
    """List what the samples of data sets show, pictures and sound of a file together.

    Args:
        readers: by name.
        encoder: knows the branches; kinds that none takes are an error.

    Returns:
        Each file and span once: a data set that shows it, and its items.
    """
    found: dict[object, tuple[str, dict[str, MediaItem]]] = {}
    for name, reader in readers.items():
        for index in range(len(reader)):
            try:
                sample = reader.sample(index)
            except MediaError:
                continue
            for item in sample.media:
                encoder.branch_of(item, dataset=name)
                what = (item.path, item.member, item.start_s, item.end_s)
                found.setdefault(what, (name, {}))[1].setdefault(item.kind, item)
    return [(name, list(items.values())) for name, items in found.values()]


@dataclass(frozen=True)
class _Media(Dataset[LoadedMedia | MediaError]):
    """Files of a rank, read one by one; a dataset of torch, so that data workers share the work."""

    media: Sequence[tuple[str, list[MediaItem]]]
    encoder: SampleEncoder

    def __len__(self) -> int:
        return len(self.media)

    def __getitem__(self, index: int) -> LoadedMedia | MediaError:
        dataset, items = self.media[index]
        message = Message("user", [*items])
        sample = Sample(items[0].path, [message], form="caption", dataset=dataset)
        try:
            return self.encoder.load_media(sample)
        except MediaError as error:
            return error


def _fill(
    heads: dict[str, Branch],
    *,
    encoder: SampleEncoder,
    media: Sequence[tuple[str, list[MediaItem]]],
    config: Config,
    report: Path | None,
    world: World,
) -> Work:
    """Compute what is missing of a rank's media."""
    cache = encoder.cache
    assert cache is not None
    work = Work(num_files=len(media))
    workers = config.run.num_workers
    loader: DataLoader[LoadedMedia | MediaError] = DataLoader(
        _Media(media, encoder),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent if workers else None,
    )
    saved_s = 0.0
    try:
        with StopRequest() as request:
            shown = _shown(loader, total=len(media), world=world)
            for loaded in shown:
                if isinstance(loaded, MediaError):
                    work.num_broken += 1
                    work.broken[loaded.path or ""] = loaded.reason
                else:
                    _keep(loaded, heads=heads, cache=cache, work=work)
                if report is not None and is_main() and time.monotonic() - saved_s > SAVE_S:
                    _write(report, work)
                    saved_s = time.monotonic()
                if request.received is not None:
                    work.is_stopped = work.num_done < len(media)
                    break
    finally:
        cache.flush()
    return work


def _keep(
    loaded: LoadedMedia, *, heads: dict[str, Branch], cache: FeatureCache, work: Work
) -> None:
    """Compute what is not in the cache of one file."""
    fresh = [
        (routed.item, routed.item.feature_key, heads[routed.branch])
        for routed in loaded.items
        if routed.item.features is None
    ]
    for item, key, head in fresh:
        if key is not None:
            cache.put(key, head.encode_frontier(item), times_s=item.times_s)
    cache.add({}, times_s={}, stamps=loaded.stamps)
    if fresh:
        work.num_computed += 1
    else:
        work.num_found += 1


def _shown(
    loader: DataLoader[LoadedMedia | MediaError], *, total: int, world: World
) -> Iterator[LoadedMedia | MediaError]:
    """Yield what a loader gives, with a bar on rank zero."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), disable=not is_main()
    ) as bar:
        share = "" if world.size == 1 else f", rank 0 of {world.size}"
        task = bar.add_task(f"features{share}", total=total)
        for loaded in loader:
            yield loaded
            bar.advance(task)


def _open_encoder(config: Config, heads: dict[str, Branch], *, rank: int) -> SampleEncoder:
    """Join readers of media and the cache as training does."""
    specs = {name: head.branch_spec(fingerprint=True) for name, head in heads.items()}
    idle = [name for name, spec in specs.items() if spec.frontier_id is None]
    if idle:
        raise ConfigError(
            f"model.branches.{idle[0]}: its encoder learns, so that nothing of it can be kept; "
            "leave it out with null, or set its `trainable` to false"
        )
    return open_encoder(config, specs=specs, text=text_settings(config.model), rank=rank)


def _write(report: Path, work: Work) -> None:
    """Write how far the work is, whole or not at all."""
    text = json.dumps({**asdict(work), "num_done": work.num_done}, indent=2)
    write_whole(report, text + "\n")


def show_work(work: Work) -> None:
    """Print what was done, and what cannot be used."""
    console = wide_console()
    for path, reason in sorted(work.broken.items()):
        console.print(f"{path}: {reason}", highlight=False, soft_wrap=True)
    console.print(
        f"{work.num_files:,} files: {work.num_computed:,} computed, {work.num_found:,} were there, "
        f"{work.num_broken:,} cannot be used"
    )
