"""`video-llama train`: from a run file to a trained model.

    python train.py --cfg-path train_configs/toy/visionbranch_stage1_pretrain.yaml
    torchrun --nproc_per_node=8 train.py --cfg-path ... --options run.seed=1

Everything that can be wrong with a run is looked at before a weight is read, and nothing is
written before the first step. Exit code 0: finished (now or before), or asked to stop and saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from video_llama.apps.checks import check_start
from video_llama.apps.devices import pick_device
from video_llama.apps.main import add_config_arguments
from video_llama.apps.plan import show_plan
from video_llama.apps.run_parts import build_parts
from video_llama.common.config import load
from video_llama.common.dist import World, process_group, read_world
from video_llama.common.heap import keep_freed_memory
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.schema import Config
from video_llama.datasets.base import DatasetReader
from video_llama.runners.data import open_readers
from video_llama.runners.engines import refuse_unusable
from video_llama.runners.epochs import settle_epochs
from video_llama.runners.flop_rate import measure_flop_rate
from video_llama.runners.folder import RunFolder
from video_llama.runners.goal import check_goal
from video_llama.runners.resume import check_same_lengths, plan_start
from video_llama.runners.runner import Runner, RunSummary
from video_llama.runners.sanity import StartCheck
from video_llama.runners.trackers import require_tracker
from video_llama.runners.watchdog import group_timeout
from video_llama.runners.write_errors import require_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be built, its sizes, and every missing file; train nothing",
    )


def main(args: argparse.Namespace) -> int:
    """Train, or show what would be trained.

    Raises:
        VideoLlamaError: the run file, the files it names or the data are wrong.
    """
    start_logging()
    config = load(args.cfg_path, options=args.options)
    if args.dry_run:
        return show_plan(config)
    train(config)
    return 0


def train(config: Config) -> RunSummary:
    """Train a run to its end; one that is finished already is left as it is.

    Args:
        config: the typed run file.

    Raises:
        VideoLlamaError: the run file, the files it names or the data are wrong.
    """
    start_logging()
    run = config.run
    path = Path(run.output_dir)
    start = plan_start(
        path / "checkpoints", run=run, resolved=config.resolved, world_size=read_world().size
    )
    if start.is_finished and start.state is not None:
        get_logger().info("finished already: %s (step %d)", path, start.state.step)
        return RunSummary(folder=path, state=start.state, num_steps=start.state.step)
    require_writable(path)
    require_tracker(run.tracker)
    check_goal(config)
    readers = open_readers(config)
    check_start(config, readers, learning=True)
    if start.state is not None:
        check_same_lengths(start.state, readers=readers)
    config = settle_epochs(
        config,
        readers=readers,
        global_batch_size=run.batch_size_train * run.accum_grad_iters * read_world().size,
        state=start.state,
    )
    device = pick_device(run)
    refuse_unusable(config, device=device)
    timeout = group_timeout(run.collective_timeout_s)
    with process_group(device, also_alone=run.engine == "deepspeed", timeout=timeout) as world:
        device = world.own_device(device)
        if device == "cpu":
            keep_freed_memory()
        folder = RunFolder(path, start=start)
        runner = build_runner(config, readers=readers, folder=folder, world=world, device=device)
        summary = runner.train()
    done = "done" if summary.is_finished else "stopped (run.resume_ckpt_path=auto goes on)"
    best, at_step = summary.state.best_metric, summary.state.best_step
    get_logger().info(
        "%s: step %d of %d%s, everything is in %s",
        done,
        summary.state.step,
        summary.num_steps,
        "" if best is None else f", best {run.valid.metric} {best:.4f} at step {at_step}",
        summary.folder,
    )
    return summary


def build_runner(
    config: Config,
    *,
    readers: dict[str, DatasetReader],
    folder: RunFolder,
    world: World,
    device: str,
) -> Runner:
    """Put model, data and engine of a run together.

    Args:
        config: the typed run file.
        readers: of its data sets.
        folder: where the run is kept, and where it starts.
        world: this process among the others.
        device: of this process.
    """
    parts = build_parts(
        config,
        readers=readers,
        record=folder.record,
        world=world,
        device=device,
        shows_parts=True,
    )
    return Runner(
        config,
        model=parts.model,
        task=parts.task,
        data=parts.data,
        engine=parts.engine,
        folder=folder,
        start_check=StartCheck(parts.model),
        flop_rate=measure_flop_rate(config, device=device),
    )
