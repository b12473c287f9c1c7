"""Where a run starts: at step 0, where it was left, or not at all.

Nothing is written here; a run that is refused leaves its folder as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from video_llama.common.dist import read_world
from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.package_paths import symbolic
from video_llama.common.schema import RunConfig
from video_llama.runners.checkpoint import RunState, find_damage, read_state
from video_llama.runners.epochs import steps_per_epoch
from video_llama.runners.optim import Compat, accumulation_decides
from video_llama.runners.provenance import changed_versions
from video_llama.runners.retention import newest_whole

MAY_CHANGE = frozenset(
    f"run.{key}"
    for key in (
        "output_dir", "resume_ckpt_path", "device", "compile", "num_workers", "feature_cache",
        "engine", "zero", "zero.stage", "zero.offload_optimizer", "zero.offload_parameters",
        "log_freq", "tracker", "peak_tflops",
        "save_freq", "async_save", "keep_last", "valid_freq", "batch_size_eval",
        "max_skip_rate", "decode_timeout_s",
        "valid", "valid.datasets", "valid.every", "valid.metric",
        "ledger", "on_nan", "on_spike", "spike_factor", "max_bad_steps", "collective_timeout_s",
        "probes", "probe_questions", "bars", "max_new_tokens",
        "batch_size_train", "accum_grad_iters", "iters_per_epoch",
    )
)  # fmt: skip
"""Keys that may differ when a run goes on. None of them changes what is learnt, but for those that
say what becomes of bad steps: a run that stopped at one must be told. Of the last three only
products count, which `RunState` holds: global_batch_size and steps_per_epoch; under `model.compat:
released` accum_grad_iters must stay besides, see `_check_same_steps`. The length of the run may not
change: the learning rate of every step depends on it."""

MAY_CHANGE_IN_MODEL = (".gradient_checkpointing", "decoder.attention")
"""Ends of keys of the `model` section of which the same holds: how a part computes, not what."""

HINTS = "model.where_from"
"""Says where to get files; another wording is no other run."""

_MISSING = object()


class _Change(NamedTuple):
    """A setting that is another one now."""

    key: str
    before: str
    now: str


@dataclass(frozen=True)
class Start:
    """Where to begin.

    Attributes:
        checkpoint: directory to load, None for a fresh start.
        state: what it says, None for a fresh start.
        is_finished: there is nothing left to do.
    """

    checkpoint: Path | None = None
    state: RunState | None = None
    is_finished: bool = False


def plan_start(
    folder: Path, *, run: RunConfig, resolved: Mapping[str, Any], world_size: int
) -> Start:
    """Decide where a run starts.

    Args:
        folder: the run's `checkpoints` directory; it need not exist.
        run: the `run` section.
        resolved: the resolved run file, compared with that of the checkpoints.
        world_size: processes of the run.

    Raises:
        ConfigError: the folder holds another run, or this one half done and
            `run.resume_ckpt_path` does not say that it shall go on.
        CheckpointMismatch: `run.resume_ckpt_path` is not a whole checkpoint.
    """
    wanted = run.resume_ckpt_path
    newest = newest_whole(folder)
    if newest is not None:
        newest = newest.resolve()
        state = read_state(newest)
        check_same_run(state, resolved=resolved, where=newest)
        goes_back = wanted not in (None, "auto")
        is_done = state.step >= run.max_epoch * state.steps_per_epoch
        if is_done and not state.validation_pending and not goes_back:
            return Start(newest, state, is_finished=True)
    if wanted is None:
        if newest is not None:
            raise ConfigError(
                f"run.output_dir: {folder.parent} holds this run, unfinished ({newest.name}); "
                "set run.resume_ckpt_path=auto to go on, or take another folder"
            )
        return Start()
    if wanted != "auto":
        newest = Path(wanted)
        if not newest.is_dir():
            raise CheckpointMismatch(
                f"run.resume_ckpt_path: there is no directory {newest}; expected auto or a "
                "checkpoint such as output/x/checkpoints/step_0001000"
            )
        newest = newest.resolve()
        if (damage := find_damage(newest, is_thorough=True)) is not None:
            raise CheckpointMismatch(
                f"run.resume_ckpt_path: {newest} is damaged ({damage}); copy it again, or use "
                "auto, which takes the newest whole one"
            )
    if newest is None:
        return Start()
    state = read_state(newest)
    check_same_run(state, resolved=resolved, where=newest)
    compat = resolved.get("model", {}).get("compat", "corrected")
    _check_same_steps(state, run=run, world_size=world_size, compat=compat)
    return Start(newest, state)


def check_same_run(state: RunState, *, resolved: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with a run under another configuration.

    Args:
        state: where the run stood.
        resolved: the resolved run file of now.
        where: the checkpoint, for the message.

    Raises:
        ConfigError: keys differ that change what is learnt; each is listed.
    """
    problems = [
        f"{change.key}: {change.before} in the run, {change.now} now"
        for change in _changes(state.config, resolved)
        if change.key not in MAY_CHANGE and not change.key.endswith(MAY_CHANGE_IN_MODEL)
    ]
    if problems:
        problems.append(
            "run.output_dir: the run found there is another one; take another folder (model.ckpt, "
            "or model.ckpt_2 where it is set, can start from its weights), or delete it"
        )
        raise ConfigError(problems, where=str(where))


def check_same_lengths(state: RunState, *, readers: Mapping[str, Sized]) -> None:
    """Refuse to go on with data sets of another length: all their samples would change places.

    Args:
        state: where the run stood; what it does not know is not looked at.
        readers: of the data sets now, by name.

    Raises:
        ConfigError: the numbers of samples differ; each is listed.
    """
    changed = [
        f"datasets.{name}: {len(readers[name])} samples, {length} when the run was begun"
        for name, length in state.lengths.items()
        if len(readers[name]) != length
    ]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}; some would be seen twice and others never. Restore the "
            "annotations as they were (a bad row may stay, it is skipped), or take another "
            "run.output_dir and start from these weights by model.ckpt (by model.ckpt_2 where it "
            "is set: it is loaded last)"
        )


def tell_changes(
    state: RunState, *, resolved: Mapping[str, Any], written_by: Mapping[str, Any]
) -> None:
    """Show in the log what is not as it was when a checkpoint was written.

    Args:
        state: what it says.
        resolved: the resolved run file of now.
        written_by: versions and source of now.
    """
    changes = _changes(state.config, resolved)
    num_ranks = read_world().size
    if num_ranks != state.num_ranks:
        changes.append(_Change("ranks", str(state.num_ranks), str(num_ranks)))
    changes += [
        _Change(name, before, now)
        for name, (before, now) in changed_versions(state.written_by, written_by).items()
    ]
    if changes:
        rows = [_Change("what", "in the run", "now"), *changes]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        get_logger().info("going on with changes:\n  %s", "\n  ".join(table))


def _check_same_steps(state: RunState, *, run: RunConfig, world_size: int, compat: Compat) -> None:
    """Refuse to change how many samples a step has, or how many steps an epoch.

    Where they decide, the iterations of a step must stay, too.
    """
    begun = state.config.get("run", {}).get("accum_grad_iters", RunConfig.accum_grad_iters)
    if accumulation_decides(compat) and run.accum_grad_iters != begun:
        way_out = _dividing(state, run=run, accum=begun, world_size=world_size)
        raise ConfigError(
            f"run.accum_grad_iters: {begun} in the run, {run.accum_grad_iters} now; under "
            "model.compat: released it scales the gradient and counts the warm-up; keep it, and "
            f"divide run.batch_size_train among the ranks: {way_out}"
        )
    per_iteration = run.batch_size_train * world_size
    # A pass over the data takes as many steps as it took when the run was begun.
    per_epoch = state.steps_per_epoch if run.iters_per_epoch == "auto" else steps_per_epoch(run)
    found = (per_iteration * run.accum_grad_iters, per_epoch)
    if found == (state.global_batch_size, state.steps_per_epoch):
        return
    accum, rest = divmod(state.global_batch_size, per_iteration)
    if accumulation_decides(compat):
        way_out = _dividing(state, run=run, accum=begun, world_size=world_size)
    elif accum and not rest:
        way_out = f"set run.accum_grad_iters={accum}{_epoch_of(state, run=run, accum=accum)}"
    else:
        way_out = (
            f"choose run.batch_size_train so that it times {world_size} ranks divides "
            f"{state.global_batch_size}"
        )
    raise ConfigError(
        f"run.batch_size_train: a step of this run has {state.global_batch_size} samples and an "
        f"epoch {state.steps_per_epoch} steps; batch_size_train {run.batch_size_train} x "
        f"{world_size} ranks x accum_grad_iters {run.accum_grad_iters} gives {found[0]} and "
        f"{found[1]}; {way_out}"
    )


def _dividing(state: RunState, *, run: RunConfig, accum: int, world_size: int) -> str:
    """Say what gives the ranks the samples of a step in as many iterations as before."""
    batch_size, rest = divmod(state.global_batch_size, accum * world_size)
    if rest:
        return f"take a number of ranks that divides {state.global_batch_size // accum}"
    return (
        f"set run.accum_grad_iters={accum} run.batch_size_train={batch_size}"
        f"{_epoch_of(state, run=run, accum=accum)}"
    )


def _epoch_of(state: RunState, *, run: RunConfig, accum: int) -> str:
    """Name the key that keeps the length of an epoch; `auto` needs none."""
    is_pass = run.iters_per_epoch == "auto"
    return "" if is_pass else f" run.iters_per_epoch={accum * state.steps_per_epoch}"


def _changes(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[_Change]:
    """Return the keys in which two resolved run files differ."""
    before, now = comparable(symbolic(config)), comparable(symbolic(resolved))
    return [
        _Change(key, _show(before, key), _show(now, key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _MISSING) != now.get(key, _MISSING)
    ]


def comparable(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of a resolved run file without those that only tell people things."""
    return {
        key: value
        for key, value in flatten(resolved).items()
        if key != HINTS and not key.startswith(f"{HINTS}.")
    }


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into dotted keys; JSON makes tuples into lists, so lists they are."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not set"
