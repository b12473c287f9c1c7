"""Which scenes a toy world holds: how many of each split, in which mix, in which folder.

Symbolic only; nothing is drawn and no file is touched. Scenes are a function of the seed. Of
held-out scenes only those that are asked about become clips.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from video_llama.toy.held_out import Asked, choose_questions
from video_llama.toy.scenes import Mix, Scene, belongs_to_split, sample_scene
from video_llama.toy.words import COLOURS, SHAPES

CHUNK_CLIPS = 100
FULL_TRAIN_CLIPS = 6000

# What two things do, each for itself, takes the longest to learn; they get the largest share.
TRAIN_MIX = Mix(
    kinds={
        "empty": 0.05,
        "single": 0.14,
        "change": 0.18,
        "bounce": 0.17,
        "pair": 0.38,
        "order": 0.08,
    }
)
# Such that every gated kind of question gets its 800 from as few scenes as may be.
TEST_MIX = Mix(
    kinds={
        "empty": 0.09,
        "single": 0.31,
        "change": 0.32,
        "bounce": 0.09,
        "pair": 0.15,
        "order": 0.04,
    },
    pip=0.68,
)
HELD_OUT_SPLITS = ("test", "composition")
ASKED_SPLITS = ("valid", *HELD_OUT_SPLITS)
MIXES = {"train": TRAIN_MIX, "valid": TRAIN_MIX, "test": TEST_MIX, "composition": TEST_MIX}

_STILL_MIX = Mix(kinds={"empty": 0.08, "single": 0.52, "pair": 0.4})
# Pictures are drawn from indices that no clip uses.
_FIRST_STILL_INDEX = 1_000_000


@dataclass(frozen=True)
class Counts:
    """How much a world holds.

    Attributes:
        train: clips.
        valid: clips.
        test: scenes; those that are asked about become clips.
        composition: likewise, of scenes that show only held-out triples.
        train_pictures: pictures.
        valid_pictures: pictures.
        voices: sounds of each shape in each colour.
    """

    train: int = FULL_TRAIN_CLIPS
    valid: int = 100
    test: int = 3600
    composition: int = 600
    train_pictures: int = 1500
    valid_pictures: int = 100
    voices: int = 10

    @classmethod
    def scaled_to(cls, train_clips: int) -> Counts:
        """Return counts for another number of training clips, everything in proportion.

        Args:
            train_clips: >= 1; nothing grows beyond the full world's size but the training set.
        """
        share = min(1.0, train_clips / FULL_TRAIN_CLIPS)
        full = cls()
        return cls(
            train=train_clips,
            valid=max(4, round(full.valid * share)),
            test=max(8, round(full.test * share)),
            composition=max(4, round(full.composition * share)),
            train_pictures=max(8, round(full.train_pictures * share)),
            valid_pictures=max(4, round(full.valid_pictures * share)),
            voices=max(1, round(full.voices * share)),
        )


@dataclass(frozen=True)
class Clip:
    """A scene and where its clip lies under `videos/`."""

    scene: Scene
    page_dir: str

    @property
    def path(self) -> str:
        """The clip's file, relative to the folder of videos."""
        return f"{self.page_dir}/{self.scene.key}.mp4"


@dataclass(frozen=True)
class Voice:
    """One thing heard and not seen.

    Attributes:
        key: unique name and file stem.
        shape: of the thing.
        colour: of the thing.
        seed: for the renderer.
    """

    key: str
    shape: str
    colour: str
    seed: int


@dataclass(frozen=True)
class Split:
    """Clips of a split, and what is asked of them.

    Attributes:
        clips: in order.
        asked: questions by the keys of their scenes, in the order of the clips; of training clips
            there are none.
    """

    clips: tuple[Clip, ...]
    asked: tuple[Asked, ...]


def sample_split(split: str, *, counts: Counts, seed: int) -> Split:
    """Sample the scenes of a split, and choose what is asked of them.

    Held-out scenes are shuffled: questions are chosen from the first scenes that offer an answer,
    so in the order of sampling common answers would come first and rare ones last, and a part of
    the questions would not be balanced.

    Args:
        split: one of `words.SPLITS`.
        counts: of the world.
        seed: of the world.
    """
    scenes = [
        sample_scene(index, seed=seed, split=split, mix=MIXES[split])
        for index in range(getattr(counts, split))
    ]
    asked = choose_questions(scenes) if split in ASKED_SPLITS else []
    if split in HELD_OUT_SPLITS:
        keys = {key for key, _ in asked}
        scenes = [scene for scene in scenes if scene.key in keys]
        random.Random(f"toy order/{split}/{seed}").shuffle(scenes)
    # Questions about a clip stand together, so that a reader of the file meets each clip once.
    place = {scene.key: index for index, scene in enumerate(scenes)}
    asked.sort(key=lambda pair: place[pair[0]])
    clips = (Clip(scene, page_dir(split, index=index)) for index, scene in enumerate(scenes))
    return Split(tuple(clips), tuple(asked))


def page_dir(split: str, *, index: int) -> str:
    """Name the folder of a clip by its place in its split: 100 neighbours share one."""
    return f"{split}_{index // CHUNK_CLIPS:03d}"


def still_scenes(split: str, *, counts: Counts, seed: int) -> list[Scene]:
    """List the scenes of the pictures: nothing moves, so one frame says it all.

    Things that are held out as "still" are left out, as in clips.

    Args:
        split: "train" or "valid".
        counts: of the world.
        seed: of the world.
    """
    number: int = getattr(counts, f"{split}_pictures")
    return list(itertools.islice(_all_still(split, seed=seed), number))


def voices(*, counts: Counts, seed: int) -> list[Voice]:
    """List the voices, equally many of every shape in every colour."""
    return [
        Voice(f"{colour}-{shape}-{number:02d}", shape, colour, seed=seed * 1000 + number)
        for number in range(counts.voices)
        for shape in SHAPES
        for colour in COLOURS
    ]


def _all_still(split: str, *, seed: int) -> Iterator[Scene]:
    for index in itertools.count(_FIRST_STILL_INDEX):
        scene = sample_scene(index, seed=seed, split=split, mix=_STILL_MIX)
        things = tuple(replace(thing, motion="still", speed=0.0) for thing in scene.things)
        if all(belongs_to_split(split=split, thing=thing, event=None) for thing in things):
            yield replace(scene, things=things)
