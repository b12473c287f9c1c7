"""`video-llama data`: `check` reads every sample ahead of a run; `features`: see `data_features`.

    video-llama data check --cfg-path train_configs/visionbranch_stage2_finetune.yaml
    video-llama data check --cfg-path ... --dataset webvid --every 100

Samples are read as training reads them: same frames, same time limit, same texts. The report names
those that cannot be used; a check that was stopped, or is given again, reads only what is new,
changed or was broken. Exit codes: 0 all can be used, 1 some cannot, 2 the run file is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from video_llama.apps.checks import meta_model, open_whole_readers
from video_llama.apps.console import wide_console
from video_llama.apps.data_features import compute_features, show_work
from video_llama.apps.main import add_config_arguments
from video_llama.apps.vocabulary import text_settings
from video_llama.common.config import load
from video_llama.common.cores import num_cores
from video_llama.common.dist import is_main
from video_llama.common.errors import ConfigError
from video_llama.common.logger import start_logging
from video_llama.common.schema import Config
from video_llama.common.whole_files import write_whole
from video_llama.datasets.audit import Audit, Finding, Journal, audit, spans_of
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.mixture import MixtureDataset
from video_llama.runners.data import open_encoder
from video_llama.runners.signals import leave_signals_to_parent

REPORT = "data_check.jsonl"
NUM_REASONS = 5
"""Reasons that are listed of a data set in the table; the report has all."""


@dataclass
class Result:
    """What was found in a data set.

    Attributes:
        dataset: its name.
        num_samples: in it.
        num_checked: looked at.
        num_read: of those read; the others were known to be good.
        seconds: it took.
        findings: samples that cannot be used.
    """

    dataset: str
    num_samples: int
    num_checked: int = 0
    num_read: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def read_per_s(self) -> float | None:
        """Samples read per second, None if there were none."""
        return self.num_read / self.seconds if self.num_read and self.seconds else None

    @property
    def reasons(self) -> dict[str, int]:
        """How often a reason occurs, the most frequent first."""
        return dict(Counter(found.reason for found in self.findings).most_common())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    text = "read every sample of a run file and name those that cannot be used"
    check = verbs.add_parser("check", help=text, description=text)
    add_config_arguments(check)
    check.add_argument(
        "--dataset", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    check.add_argument("--every", type=int, default=1, metavar="K", help="every K-th sample (1)")
    check.add_argument("--limit", type=int, metavar="N", help="N samples of each data set at most")
    check.add_argument("--jobs", type=int, metavar="N", help="processes that read (one per core)")
    check.add_argument(
        "--report", type=Path, metavar="FILE", help=f"default: run.output_dir/{REPORT}"
    )
    text = "compute the features of all media of a run file ahead, into run.feature_cache"
    features = verbs.add_parser("features", help=text, description=text)
    add_config_arguments(features)
    features.add_argument(
        "--dataset", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    features.add_argument("--report", type=Path, metavar="FILE", help="JSON: how far it is")


def main(args: argparse.Namespace) -> int:
    """Check the data of a run file, or compute its features.

    Raises:
        VideoLlamaError: the run file, or a data set as a whole, is wrong.
    """
    start_logging()
    if args.verb == "features":
        config = load(args.cfg_path, options=args.options)
        names = args.dataset or list(config.datasets)
        work = compute_features(config, names=names, report=args.report)
        if is_main():
            show_work(work)
        if work.is_stopped:
            return 128 + signal.SIGINT
        return 1 if work.num_broken else 0
    if args.every < 1 or (args.limit is not None and args.limit < 1):
        raise ConfigError("--every, --limit: must be at least 1")
    if args.jobs is not None and args.jobs < 0:
        raise ConfigError(f"--jobs {args.jobs}: must be at least 0, which reads in this process")
    config = load(args.cfg_path, options=args.options)
    report = args.report or Path(config.run.output_dir) / REPORT
    jobs = num_cores() if args.jobs is None else args.jobs
    results = check_data(
        config,
        names=args.dataset or list(config.datasets),
        report=report,
        every=args.every,
        limit=args.limit,
        jobs=jobs,
    )
    console = wide_console()
    console.print(summary_table(results))
    has_broken = any(result.findings for result in results)
    last = f"named one by one in {report}" if has_broken else f"nothing is broken; kept in {report}"
    console.print(last, highlight=False, soft_wrap=True)
    return 1 if has_broken else 0


def check_data(
    config: Config,
    *,
    names: Sequence[str],
    report: Path,
    every: int = 1,
    limit: int | None = None,
    jobs: int = 1,
) -> list[Result]:
    """Read the samples of data sets and write the report.

    Args:
        config: the typed run file.
        names: of the data sets.
        report: a line per sample that cannot be used, and a summary at the end; beside it a
            journal is kept of what has been seen to be good.
        every: look at every so manieth sample only.
        limit: samples of a data set at most.
        jobs: processes that read; 0 reads here.

    Raises:
        VideoLlamaError: the run file, or a data set as a whole, is wrong.
    """
    readers = open_whole_readers(config, names)
    data = _open_data(config, readers)
    report.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(report.with_suffix(".journal.jsonl"))
    known = journal.known()
    results = [Result(name, len(reader)) for name, reader in readers.items()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as bar:
            for result in results:
                spans = spans_of(result.num_samples, every=every, limit=limit)
                work = Audit(
                    data, name=result.dataset, settings=_settings(config, result), known=known
                )
                task = bar.add_task(result.dataset, total=sum(map(len, spans)))
                started_s = time.perf_counter()
                for span in audit(
                    work,
                    spans=spans,
                    num_workers=min(jobs, len(spans)),
                    worker_init=leave_signals_to_parent,
                ):
                    if span.num_read:
                        journal.add(span)
                    result.num_checked += len(span.indices)
                    result.num_read += span.num_read
                    result.findings += span.findings
                    result.seconds = time.perf_counter() - started_s
                    bar.advance(task, len(span.indices))
    finally:
        _write(report, results)
    return results


def summary_table(results: Sequence[Result]) -> Table:
    """Return a row per data set: how many samples, how many of them are good, how long it takes."""
    table = Table(title="data")
    for header in ("data set", "samples", "checked", "ok", "broken", "s", "read/s", "all, s"):
        table.add_column(header, justify="left" if header == "data set" else "right")
    table.add_column("why", overflow="fold")
    for result in results:
        rate, reasons = result.read_per_s, list(result.reasons.items())
        why = [f"{count} x {reason}" for reason, count in reasons[:NUM_REASONS]]
        if len(reasons) > NUM_REASONS:
            why.append(f"and {len(reasons) - NUM_REASONS} more reasons")
        table.add_row(
            result.dataset,
            f"{result.num_samples:,}",
            f"{result.num_checked:,}",
            f"{result.num_checked - len(result.findings):,}",
            f"{len(result.findings):,}",
            f"{result.seconds:.1f}",
            "" if rate is None else f"{rate:.1f}",
            "" if rate is None else f"{result.num_samples / rate:.0f}",
            "\n".join(why),
        )
    return table


def _open_data(config: Config, readers: dict[str, DatasetReader]) -> MixtureDataset:
    """Join readers and model as training does; no weight is read, no feature taken from a cache."""
    plain = replace(config, run=replace(config.run, feature_cache=None))
    specs, text = meta_model(config.model).branch_specs(), text_settings(config.model)
    encoder = open_encoder(plain, specs=specs, text=text, rank=0)
    augment = {name: config.datasets[name].augment for name in readers}
    return MixtureDataset(readers, encoder=encoder, seed=config.run.seed, augment=augment)


def _settings(config: Config, result: Result) -> str:
    """Say what decides, besides its row and its files, whether a sample can be used."""
    model, entry = config.model, config.datasets[result.dataset]
    specs = {n: [s.media, s.spec] for n, s in meta_model(model).branch_specs().items()}
    tokenizer = model.tokenizer or model.decoder.file
    how = [model.template, model.compat, model.frame_times, model.max_txt_len, tokenizer]
    reading = [config.run.seed, config.run.video_reader, config.run.decode_timeout_s]
    return repr([specs, how, reading, entry.type, entry.config, entry.augment])


def _write(report: Path, results: Sequence[Result]) -> None:
    """Write the report, whole or not at all."""
    lines = [{"kind": "broken", **asdict(found)} for r in results for found in r.findings]
    summary = [
        {
            "dataset": result.dataset,
            "num_samples": result.num_samples,
            "num_checked": result.num_checked,
            "num_read": result.num_read,
            "num_broken": len(result.findings),
            "reasons": result.reasons,
            "seconds": round(result.seconds, 3),
        }
        for result in results
    ]
    content = [*lines, {"kind": "summary", "datasets": summary}]
    write_whole(report, "".join(json.dumps(line) + "\n" for line in content))
