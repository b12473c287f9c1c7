"""`video-llama toy run`: the whole recipe on the toy world, from real clips to answers.

Makes the world, trains the five recipes through the same `train` verb as any run, evaluates on
held-out clips, writes the report, and asks three questions about a clip nobody has seen. Stage 1
of the vision branch trains beside the audio branch, one core each; what comes after takes two ranks
under torchrun. Whatever is finished is kept: a second call is quick, and a killed one goes on where
it was.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from video_llama.apps.loading import load_chat
from video_llama.apps.report import write_report
from video_llama.common.config import load
from video_llama.common.errors import VideoLlamaError
from video_llama.common.schema import Config
from video_llama.conversation.chat import Chat
from video_llama.runners.checkpoint import read_state
from video_llama.runners.retention import complete_checkpoints
from video_llama.toy import questions
from video_llama.toy.codec import encode_mp4
from video_llama.toy.plan import Counts
from video_llama.toy.render import FRAMES_PER_S, render_clip
from video_llama.toy.scenes import Scene, sample_scene
from video_llama.toy.sound import synthesize
from video_llama.toy.world import write_world

VISION = ("visionbranch_stage1_pretrain", "visionbranch_stage2_finetune")
AUDIO = ("audiobranch_stage1_pretrain", "audiobranch_stage2_finetune")
JOINT = ("audiovisual_stage3_joint",)
EVALUATION = "eval_configs/toy/withaudio.yaml"
NUM_RANKS = 2
POLL_S = 0.5
NUM_LOG_LINES = 15

FRESH_SEED = 987_654
FRESH_INDEX_LIMIT = 1000
FRESH_KINDS = ("colour", "when", "in_time")
"""One question about what is seen, one about when, one that needs eyes and ears."""


@dataclass(frozen=True)
class Recipe:
    """One training run of the toy recipe.

    Attributes:
        path: its run file.
        config: typed, with the options of this call.
        options: of this call.
    """

    path: str
    config: Config
    options: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.config.run.output_dir)

    @property
    def name(self) -> str:
        """What its bar is called."""
        root = Path(self.config.model.paths["toy_dir"])
        return str(self.folder.relative_to(root) if self.folder.is_relative_to(root) else self.path)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        run = self.config.run
        return run.max_epoch * run.iters_per_epoch // run.accum_grad_iters

    def steps_done(self) -> int:
        """Return the step of the newest complete checkpoint, 0 if there is none."""
        known = complete_checkpoints(self.folder / "checkpoints")
        return read_state(known[-1]).step if known else 0


def run_toy(
    folder: Path,
    *,
    seed: int,
    train_clips: int | None,
    console: Console,
    options: Sequence[str] = (),
) -> None:
    """Run everything that is not there yet.

    Args:
        folder: world, runs, features and report go below it.
        seed: of the training runs; the world keeps its own.
        train_clips: size of the world, None for the full one.
        console: what is said goes there.
        options: further overrides of every recipe, e.g. for a rehearsal of a few steps.

    Raises:
        VideoLlamaError: a step failed; the end of its log is shown.
    """
    start = time.perf_counter()
    counts = None if train_clips is None else Counts.scaled_to(train_clips)
    write_world(folder / "world", seed=0, counts=counts)
    where = f"model.toy_dir={folder}"
    overrides = (where, f"run.seed={seed}", *options)
    lanes = [open_recipes(names, overrides) for names in (VISION[:1], AUDIO)]
    train_lanes(lanes)
    lanes = [open_recipes((*VISION[1:], *JOINT), overrides)]
    train_lanes(lanes, num_parallel=1, num_ranks=NUM_RANKS)
    call_verb(["evaluate", "--cfg-path", EVALUATION, "--options", where], num_ranks=NUM_RANKS)
    report = folder / "report.html"
    write_report([folder], out=report, title="The toy world")
    ask_about_fresh_clip(folder, options=(where,), console=console)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in used)
    wall_s = time.perf_counter() - start
    console.print(f"\n{report}\n{wall_s:.0f} s, {cpu_s:.0f} CPU seconds")


def open_recipes(
    names: Sequence[str],
    options: Sequence[str],
    *,
    own_options: Mapping[str, Sequence[str]] | None = None,
) -> list[Recipe]:
    """Load the toy run files of these names.

    Args:
        names: of the recipes.
        options: overrides of all of them.
        own_options: further overrides by name.
    """
    recipes = []
    for name in names:
        path = f"train_configs/toy/{name}.yaml"
        words = (*options, *(own_options or {}).get(name, ()))
        recipes.append(Recipe(path, load(path, options=words), words))
    return recipes


def train_lanes(
    lanes: Sequence[Sequence[Recipe]], *, num_parallel: int = 2, num_ranks: int = 1
) -> None:
    """Train several chains of runs, as many side by side as there shall be; one bar for each run.

    Args:
        lanes: each lane's runs go one after the other.
        num_parallel: runs at the same time.
        num_ranks: processes of a run, one thread each; the global batch stays what it is.

    Raises:
        VideoLlamaError: a run failed.
    """
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    waiting = [[r for r in lane if r.steps_done() < r.num_steps] for lane in lanes]
    running: dict[int, tuple[Recipe, subprocess.Popen[bytes]]] = {}
    with Progress(*columns) as progress:
        bars = {
            recipe.folder: progress.add_task(
                recipe.name, total=recipe.num_steps, completed=recipe.steps_done()
            )
            for lane in lanes
            for recipe in lane
        }
        try:
            while any(waiting) or running:
                for index, lane in enumerate(waiting):
                    if lane and index not in running and len(running) < num_parallel:
                        recipe = lane.pop(0)
                        running[index] = (recipe, _start(recipe, num_ranks=num_ranks))
                time.sleep(POLL_S)
                for index, (recipe, process) in list(running.items()):
                    progress.update(bars[recipe.folder], completed=_last_step(recipe))
                    if process.poll() is not None:
                        del running[index]
                        _check(recipe, process)
                        progress.update(bars[recipe.folder], completed=recipe.num_steps)
        finally:
            for _, process in running.values():
                process.terminate()
                process.wait()


def call_verb(words: Sequence[str], *, num_ranks: int = 1) -> None:
    """Run a verb in processes of its own, their output on this console.

    Args:
        words: of the command line.
        num_ranks: more than one are started by torchrun.

    Raises:
        VideoLlamaError: it failed.
    """
    code = subprocess.run(_command(words, num_ranks=num_ranks), env=_environment()).returncode
    if code:
        raise VideoLlamaError(f"video-llama {' '.join(words)}: exit code {code}")


def ask_about_fresh_clip(folder: Path, *, options: Sequence[str], console: Console) -> None:
    """Write a clip that is in no data set, and ask the trained model three questions about it."""
    scene = fresh_scene()
    path = folder / "fresh.mp4"
    clip = encode_mp4(
        render_clip(scene), frames_per_s=FRAMES_PER_S, waveform=synthesize(scene.sound)
    )
    path.write_bytes(clip)
    chat: Chat = load_chat(EVALUATION, options=options)
    console.print(f"\nA clip nobody has seen: {path}")
    for question in questions.ask(scene):
        if question.kind in FRESH_KINDS:
            chat.reset()
            chat.upload(path)
            answer = chat.ask(question.question)
            console.print(f"  {question.question}  [bold]{answer}[/]  (truth: {question.answer})")


def fresh_scene() -> Scene:
    """Return a scene of a seed of its own about which all of `FRESH_KINDS` can be asked."""
    for index in range(FRESH_INDEX_LIMIT):
        scene = sample_scene(index, seed=FRESH_SEED, split="test")
        if set(FRESH_KINDS) <= {question.kind for question in questions.ask(scene)}:
            return scene
    raise AssertionError(f"no scene of {FRESH_INDEX_LIMIT} has a colour, an event and a pip")


def _start(recipe: Recipe, *, num_ranks: int) -> subprocess.Popen[bytes]:
    """Start a run; what it says goes into its folder's console.log."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    share = f"run.batch_size_train={recipe.config.run.batch_size_train // num_ranks}"
    words = ["train", "--cfg-path", recipe.path, "--options", *recipe.options, share]
    with (recipe.folder / "console.log").open("ab") as log:
        return subprocess.Popen(
            _command(words, num_ranks=num_ranks),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )


def _command(words: Sequence[str], *, num_ranks: int) -> list[str]:
    """Return the command line of a verb."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    module = ["-m", "video_llama.apps.main", *words]
    return [sys.executable, *(launcher if num_ranks > 1 else []), *module]


def _environment() -> dict[str, str]:
    """Return the environment of a process that keeps to one core."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _last_step(recipe: Recipe) -> int:
    """Return the step of the newest line of a run's metrics."""
    path = recipe.folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        lines = file.read().decode(errors="replace").splitlines()
    steps = [word for line in lines for word in line.split('"step": ')[1:2]]
    return int(steps[-1].split(",")[0].rstrip("}")) if steps else 0


def _check(recipe: Recipe, process: subprocess.Popen[bytes]) -> None:
    """Show the end of the log of a run that failed."""
    if process.returncode == 0:
        return
    lines = (recipe.folder / "console.log").read_text(errors="replace").splitlines()
    tail = "\n".join(lines[-NUM_LOG_LINES:])
    raise VideoLlamaError(
        f"{recipe.path}: exit code {process.returncode}; the end of {recipe.folder}/console.log:\n"
        f"{tail}"
    )
