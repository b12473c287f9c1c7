"""`video-llama replay`: one step of a run again, on any machine that has its data and weights.

    video-llama replay --run output/toy/stage1 --step 57
    video-llama replay --run output/toy/stage1 --step 57 --save look/ \
        --options datasets.clips.media=/data/clips

Prints a table of the step's samples: what was read of each, its loss in the run, its loss now.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from video_llama.apps.console import wide_console
from video_llama.apps.devices import pick_device
from video_llama.apps.replay_files import save_batches
from video_llama.apps.run_parts import build_parts
from video_llama.common.config import load
from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.schema import Config
from video_llama.datasets.fills import read_record
from video_llama.datasets.trace import SampleTrace
from video_llama.runners.data import open_readers
from video_llama.runners.epochs import num_steps, settle_epochs
from video_llama.runners.folder import CONFIG_FILE, SKIPPED_FILE, RunFolder
from video_llama.runners.ledger import Entry, SampleEntry, read_entry, samples_of
from video_llama.runners.optim import LearningRate
from video_llama.runners.replay import (
    Replay,
    as_one_process,
    find_start,
    layout_of,
    left_out_steps,
)
from video_llama.runners.resume import Start
from video_llama.runners.step import StepRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument(
        "--step", required=True, type=int, metavar="N", help="as metrics.jsonl counts, from 1"
    )
    parser.add_argument(
        "--as-saved",
        action="store_true",
        help="take the weights of the checkpoint before as they are, without training on to N",
    )
    parser.add_argument(
        "--save", metavar="DIR", help="write the batches, what is known of them and their pictures"
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="overrides, e.g. where data and weights lie here",
    )


def main(args: argparse.Namespace) -> int:
    """Replay a step and print it.

    Raises:
        VideoLlamaError: the folder is no run, or does not reach so far.
    """
    start_logging()
    folder = Path(args.run)
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"--run: {folder} holds no {CONFIG_FILE}; expected the folder that run.output_dir named"
        )
    config = load(folder / CONFIG_FILE, options=args.options)
    entry = read_entry(folder, step=args.step)
    start = find_start(folder, step=args.step)
    config = _settled(config, entry=entry, start=start)
    _check_step(config, folder, step=args.step)
    replay = build_replay(config, folder, entry=entry, start=start, device=args.device)
    weights_step = 0 if start.state is None else start.state.step
    if args.as_saved:
        record = replay.make_alone(args.step)
    else:
        record = replay.make(args.step, start=weights_step, left_out=left_out_steps(folder))
        weights_step = args.step - 1
    samples = [sample for iteration in samples_of(record) for sample in iteration]
    _show(record, entry=entry, samples=samples, weights_step=weights_step)
    if args.save:
        target, specs = Path(args.save), replay.model.branch_specs()
        save_batches(target, record=record, samples=samples, recorded=entry, specs=specs)
        get_logger().info("written: %s", target)
    return 0


def build_replay(
    config: Config, folder: Path, *, entry: Entry | None, start: Start, device: str
) -> Replay:
    """Put the parts of a run together for one process.

    Args:
        config: the run file.
        folder: of the run.
        entry: of the step, None if the run kept none.
        start: the checkpoint whose weights are loaded.
        device: of this process.
    """
    layout = layout_of(config, entry=entry, state=start.state)
    alone = as_one_process(config, layout=layout, device=device)
    device = pick_device(alone.run)
    # As a run starts: a replay may begin before the first checkpoint.
    parts = build_parts(
        alone,
        readers=open_readers(alone),
        record=read_record(folder / SKIPPED_FILE),
        world=World(),
        device=device,
    )
    RunFolder(folder, start=start).load(parts.engine)
    return Replay(
        alone,
        model=parts.model,
        task=parts.task,
        data=parts.data,
        engine=parts.engine,
        learning_rate=LearningRate(config.run, compat=config.model.compat),
        layout=layout,
    )


def _settled(config: Config, *, entry: Entry | None, start: Start) -> Config:
    """Say how many steps an epoch of the run had."""
    layout = layout_of(config, entry=entry, state=start.state)
    return settle_epochs(
        config,
        readers=open_readers(config),
        global_batch_size=layout.batch_size * layout.accum * layout.num_ranks,
        state=start.state,
    )


def _check_step(config: Config, folder: Path, *, step: int) -> None:
    """Refuse a step that no run of this file has.

    Raises:
        ConfigError: with the steps there are.
    """
    last = num_steps(config.run)
    if not 1 <= step <= last:
        raise ConfigError(f"--step: found {step}; the run in {folder} has steps 1 to {last}")


def _show(
    record: StepRecord, *, entry: Entry | None, samples: list[SampleEntry], weights_step: int
) -> None:
    """Print the table."""
    before = [] if entry is None else list(entry.samples)
    table = Table(title=f"step {record.step + 1}: '{record.dataset}', lr {record.lr:.3g}")
    for name in ("place", "sample", "read", "outcome"):
        table.add_column(name)
    for name in ("tokens", "loss in the run", "loss now", "difference"):
        table.add_column(name, justify="right")
    differences, others = [], 0
    for index, now in enumerate(samples):
        then = before[index] if index < len(before) else None
        loss, recorded = now.mean_loss, None if then is None else then.mean_loss
        shown = "-"
        if then is not None and then.trace.key != now.trace.key:
            others += 1
            shown = f"was {then.trace.key}"
        elif loss is not None and recorded is not None:
            differences.append(abs(loss - recorded))
            shown = "0" if loss == recorded else f"{loss - recorded:+.1e}"
        table.add_row(
            str(now.trace.position),
            now.trace.key,
            _read(now.trace),
            _outcome(now.trace),
            str(now.num_targets),
            "-" if recorded is None else f"{recorded:.6f}",
            "-" if loss is None else f"{loss:.6f}",
            shown,
        )
    wide_console().print(table)
    if others:
        get_logger().warning(
            "%d of %d samples are not those of the run: their files cannot be read here, or the "
            "data set has changed; --options datasets.NAME.media=... says where the files lie",
            others,
            len(samples),
        )
    _judge(differences, step=record.step + 1, weights_step=weights_step, is_known=bool(before))


def _judge(differences: list[float], *, step: int, weights_step: int, is_known: bool) -> None:
    """Say what the differences are worth."""
    if not is_known:
        get_logger().warning("the run kept no ledger of step %d (run.ledger: true does)", step)
        return
    if weights_step != step - 1:
        get_logger().warning(
            "the weights are those after step %d and the run's were those after step %d, so the "
            "losses differ; without --as-saved the steps between are made first",
            weights_step,
            step - 1,
        )
        return
    largest = max(differences, default=0.0)
    get_logger().info(
        "%d losses, %s",
        len(differences),
        "all equal to the bit" if largest == 0 else f"largest difference {largest:.1e}",
    )


def _read(trace: SampleTrace) -> str:
    """Say what was used of a sample's media."""
    parts = []
    for item in trace.media:
        times = ""
        if item.times_s:
            times = f" {len(item.times_s)} at {item.times_s[0]:g}..{item.times_s[-1]:g} s"
        crop = "" if item.crop is None else " crop {3}x{2}+{1}+{0}".format(*item.crop)
        parts.append(f"{item.kind}{times}{crop}")
    return "; ".join(parts) or "text"


def _outcome(trace: SampleTrace) -> str:
    if not trace.filled_for:
        return "ok"
    return "in place of " + ", ".join(f"{key} ({reason})" for key, reason in trace.filled_for)
