"""A run's numbers in W&B or trackio, beside metrics.jsonl; both packages are optional.

A tracker works in a thread of its own, so that a slow network does not hold up the training, and
an error there ends the tracking with a warning and nothing else. Its run's id is kept in the run
folder: a run that goes on continues the same one. W&B works offline with WANDB_MODE=offline, and
`wandb sync` uploads later; trackio keeps its data on this machine by itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.schema import Config

TRACKER_FILE = "tracker.json"

PROJECT = "video_llama"
"""Where WANDB_PROJECT or TRACKIO_PROJECT names no other."""

CLOSE_TIMEOUT_S = 30.0
"""How long the end of a run waits for a tracker to send what it has."""


@dataclass(frozen=True)
class _Run:
    """A run of either package.

    Attributes:
        send: takes a step and its numbers.
        finish: ends the run.
    """

    send: Callable[[int, dict[str, float]], None]
    finish: Callable[[], None]


class Tracker:
    """Sends numbers to one tracker until it fails.

    Args:
        name: of the tracker.
        folder: of the run; keeps the tracker's id of the run.
        config: the resolved run file, shown beside the numbers.

    Raises:
        ConfigError: the package is missing, or the tracker refuses to start.
    """

    def __init__(
        self, name: Literal["wandb", "trackio"], *, folder: Path, config: Mapping[str, Any]
    ) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        require_tracker(name)
        package = importlib.import_module(name)
        open_run = {"wandb": _open_wandb, "trackio": _open_trackio}[name]
        try:
            self._run = open_run(package, folder=folder, config=config)
        except Exception as error:
            offline = "WANDB_MODE=offline, or " if name == "wandb" else ""
            raise ConfigError(
                f"run.tracker: {name} does not start: {error}; mend that, or set {offline}"
                "run.tracker=none"
            ) from error
        # A daemon: a network that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def log(self, step: int, *, values: Mapping[str, float]) -> None:
        """Send the numbers of a step; returns at once."""
        if not self._thread.is_alive():
            # It failed, and nobody would empty the queue.
            return
        sent = dict(values)
        self._jobs.put(lambda: self._run.send(step, sent))

    def close(self) -> None:
        """Wait a while for what is on its way, and end."""
        self._jobs.put(self._run.finish)
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            get_logger().warning("run.tracker: %s is still sending; not waiting", self._name)

    def _work(self) -> None:
        """Do what is asked, in order; the first failure is the last thing done."""
        try:
            for job in iter(self._jobs.get, None):
                job()
        except Exception as error:
            get_logger().warning(
                "run.tracker: %s failed and gets no more numbers, metrics.jsonl does: %s",
                self._name,
                error,
            )
            # Ends this thread and nothing else.
            raise SystemExit from error


def require_tracker(name: str) -> None:
    """Look whether the package of `run.tracker` is there, without importing it.

    Raises:
        ConfigError: it is not.
    """
    if name != "none" and name not in sys.modules and importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"run.tracker: {name} is not installed; run: pip install {name}, or set "
            "run.tracker=none"
        )


def open_tracker(config: Config, *, folder: Path) -> Tracker | None:
    """Open what `run.tracker` names, None for none.

    Raises:
        ConfigError: see `Tracker`.
    """
    name = config.run.tracker
    return None if name == "none" else Tracker(name, folder=folder, config=config.resolved)


def _run_id(folder: Path, name: str) -> str:
    """Return the id of the run in its tracker, made up once and kept."""
    path = folder / TRACKER_FILE
    ids: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if name not in ids:
        ids[name] = uuid.uuid4().hex[:8]
        path.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return ids[name]


def _open_wandb(wandb: Any, *, folder: Path, config: Mapping[str, Any]) -> _Run:  # noqa: ANN401
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=folder.name,
        id=_run_id(folder, "wandb"),
        dir=str(folder),
        config=dict(config),
        resume="allow",
    )
    # Steps come again after a resume; its own counter only grows.
    run.define_metric("*", step_metric="step")
    return _Run(lambda step, values: run.log({"step": step, **values}), run.finish)


def _open_trackio(trackio: Any, *, folder: Path, config: Mapping[str, Any]) -> _Run:  # noqa: ANN401
    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{folder.name}-{_run_id(folder, 'trackio')}",
        config=dict(config),
        resume="allow",
    )
    return _Run(lambda step, values: run.log(values, step=step), run.finish)
