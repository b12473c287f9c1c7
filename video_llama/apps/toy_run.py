"""`video-llama toy run`: the whole recipe on the toy world, from real clips to answers.

Makes the world, computes what the frozen encoders make of its pictures, trains the five recipes
through the same `train` verb as any run, evaluates on held-out clips, writes the report, and asks
three questions about a clip nobody has seen. Captions of the vision branch are learnt beside the
features of sounds and all of the audio branch, one core each, with what can be done of the
held-out clips behind the latter; all else takes two ranks. Whatever is finished is kept: a second
call is quick, and a killed one goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from video_llama.apps.features_job import FeaturesJob
from video_llama.apps.lanes import Job, run_lanes
from video_llama.apps.run_progress import done_steps, kept_steps
from video_llama.apps.verb_processes import Verbs
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config
from video_llama.runners.epochs import num_steps
from video_llama.toy import questions
from video_llama.toy.codec import encode_mp4
from video_llama.toy.plan import CHUNK_CLIPS, HELD_OUT_SPLITS, Counts
from video_llama.toy.render import FRAMES_PER_S, render_clip
from video_llama.toy.scenes import Scene, sample_scene
from video_llama.toy.sound import synthesize
from video_llama.toy.world import MANIFEST, write_world

VISION = ("visionbranch_stage1_pretrain", "visionbranch_stage2_finetune")
AUDIO = ("audiobranch_stage1_pretrain", "audiobranch_stage2_finetune")
JOINT = ("audiovisual_stage3_joint",)
EVALUATION = "eval_configs/toy/withaudio.yaml"
NUM_RANKS = 2

EVALUATED_SPLIT = "test"
"""The other held-out clips are asked about, and written, by `video-llama toy experiments`."""

OWN_FILES = "run.decode_timeout_s=null"
"""Files that this call has written itself need not be decoded in a process apart."""

MIN_TRAIN_CLIPS = 3
"""The joint recipe asks whether a pip comes with an event; clip three is the first with both."""

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

    ok_exit_codes: ClassVar[tuple[int, ...]] = (0,)

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
    def size(self) -> int:
        """Optimizer steps of the whole run."""
        return num_steps(self.config.run)

    def kept(self) -> int:
        """Return the step of the newest complete checkpoint, 0 if there is none."""
        return kept_steps(self.folder)

    def done(self) -> int:
        """Return the step of the newest line of the run's metrics."""
        return done_steps(self.folder)

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line; the global batch is the same for any number of ranks."""
        share = f"run.batch_size_train={self.config.run.batch_size_train // num_ranks}"
        return ["train", "--cfg-path", self.path, "--options", *self.options, share]


@dataclass(frozen=True)
class HeldOutClips:
    """The clips the model is evaluated on, written while there is a core to spare.

    Attributes:
        world: folder of a world where the clips that are learned from are there.
        train_clips: size it was asked for, None for the full one.
    """

    world: Path
    train_clips: int | None
    name: str = "held-out clips"
    ok_exit_codes: ClassVar[tuple[int, ...]] = (0,)

    @property
    def folder(self) -> Path:
        """Where its log goes: beside the world."""
        return self.world.parent

    @property
    def size(self) -> int:
        """Clips to write, as the world's manifest has them."""
        manifest = json.loads((self.world / MANIFEST).read_text(encoding="ascii"))
        return int(manifest["clips"][EVALUATED_SPLIT])

    def kept(self) -> int:
        """Return about how many clips are in finished folders, exactly once all of them are."""
        pages = (self.world / "videos").glob(f"{EVALUATED_SPLIT}_*")
        num_pages = sum(page.suffix != ".part" for page in pages)
        return min(num_pages * CHUNK_CLIPS, self.size)  # the last one may hold fewer

    def done(self) -> int:
        """Return the same; a folder is in its place when it is whole."""
        return self.kept()

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line; one process writes."""
        assert num_ranks == 1, "clips are written by one process"
        clips = [] if self.train_clips is None else ["--clips", str(self.train_clips)]
        later = [split for split in HELD_OUT_SPLITS if split != EVALUATED_SPLIT]
        words = ["toy", "world", "--out", str(self.world), "--workers", "1", *clips]
        return [*words, "--later", *later]


def run_toy(
    folder: Path,
    *,
    seed: int,
    train_clips: int | None,
    console: Console,
    verbs: Verbs,
    options: Sequence[str] = (),
) -> None:
    """Run everything that is not there yet.

    Args:
        folder: world, runs, features and report go below it.
        seed: of the training runs; the world keeps its own.
        train_clips: size of the world, None for the full one.
        console: what is said goes there.
        verbs: runs them.
        options: further overrides of every recipe, e.g. for a rehearsal of a few steps.

    Raises:
        ConfigError: so small a world lacks what a recipe learns from.
        VideoLlamaError: a step failed; the end of its log is shown.
    """
    if train_clips is not None and train_clips < MIN_TRAIN_CLIPS:
        raise ConfigError(f"--clips: the recipes need {MIN_TRAIN_CLIPS}, found {train_clips}")
    world = folder / "world"
    where = f"model.toy_dir={folder}"
    overrides = (where, f"run.seed={seed}", *options)
    with ThreadPoolExecutor(1) as thread:
        # The first recipe that is opened imports every part there is; other processes draw clips.
        opening = thread.submit(open_recipes, (*AUDIO, *VISION, *JOINT), overrides)
        write_world(world, counts=_counts(train_clips), later=HELD_OUT_SPLITS)
    recipes = opening.result()
    audio_1, audio_2, vision_1, vision_2, joint = recipes
    pictures, sounds = features_ahead(recipes, folder=folder, options=overrides)
    run_lanes([pictures], verbs=verbs, num_parallel=1, num_ranks=NUM_RANKS)
    # What is left of them when the lanes are done, the evaluation computes on both cores.
    ahead = _features("held-out clips", EVALUATION, folder=folder, options=(where,))
    beside: list[Job] = [*sounds, audio_1, audio_2, HeldOutClips(world, train_clips)]
    run_lanes([[vision_1], beside], verbs=verbs, spare=[ahead])
    run_lanes([[vision_2, joint]], verbs=verbs, num_parallel=1, num_ranks=NUM_RANKS)
    verbs.call(["evaluate", "--cfg-path", EVALUATION, "--options", where], num_ranks=NUM_RANKS)
    from video_llama.apps.report import write_report  # late: the world needs none of it

    report = folder / "report.html"
    write_report([folder], out=report, title="The toy world")
    ask_about_fresh_clip(folder, options=(where,), console=console)
    console.print(f"\n{report}")


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


def features_ahead(
    recipes: Sequence[Recipe], *, folder: Path, options: tuple[str, ...]
) -> tuple[list[FeaturesJob], list[FeaturesJob]]:
    """Return the jobs that compute what frozen encoders make of pictures, and of sounds.

    Not in one reading: beside the captions there is a core for sounds that would wait otherwise.

    Args:
        recipes: all five in their order; when they are finished, or keep no features, none is due.
        folder: of `run_toy`.
        options: of this call.
    """
    _, audio_2, _, vision_2, _ = recipes
    is_finished = all(recipe.kept() >= recipe.size for recipe in recipes)
    if is_finished or vision_2.config.run.feature_cache is None:
        return [], []
    return (
        [_features("training pictures", vision_2.path, folder=folder, options=options)],
        [_features("training sounds", audio_2.path, folder=folder, options=options)],
    )


def ask_about_fresh_clip(folder: Path, *, options: Sequence[str], console: Console) -> None:
    """Write a clip that is in no data set, and ask the trained model three questions about it."""
    from video_llama.apps.loading import load_chat  # likewise

    scene = fresh_scene()
    path = folder / "fresh.mp4"
    clip = encode_mp4(
        render_clip(scene), frames_per_s=FRAMES_PER_S, waveform=synthesize(scene.sound)
    )
    path.write_bytes(clip)
    chat = load_chat(EVALUATION, options=(*options, OWN_FILES))
    console.print(f"\nA clip nobody has seen: {path}")
    for question in questions.ask(scene):
        if question.kind in FRESH_KINDS:
            chat.reset()
            chat.upload(path)
            answer = chat.ask(question.question)
            console.print(f"  {question.question}  [bold]{answer}[/]  (truth: {question.answer})")


def _features(media: str, file: str, *, folder: Path, options: tuple[str, ...]) -> FeaturesJob:
    """Return the job that computes what frozen encoders make of the media of a run file."""
    return FeaturesJob(
        f"features of {media}",
        folder / "features",
        file,
        (*options, OWN_FILES),
        report=f"{media.replace(' ', '_').replace('-', '_')}.json",
    )


def _counts(train_clips: int | None) -> Counts:
    """Return the size of the world."""
    return Counts() if train_clips is None else Counts.scaled_to(train_clips)


def fresh_scene() -> Scene:
    """Return a scene of a seed of its own about which all of `FRESH_KINDS` can be asked."""
    for index in range(FRESH_INDEX_LIMIT):
        scene = sample_scene(index, seed=FRESH_SEED, split="test")
        if set(FRESH_KINDS) <= {question.kind for question in questions.ask(scene)}:
            return scene
    raise AssertionError(f"no scene of {FRESH_INDEX_LIMIT} has a colour, an event and a pip")
