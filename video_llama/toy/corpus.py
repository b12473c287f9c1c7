"""The text corpus the toy decoder learns from: scenes told as facts, questions, captions, drills.

Nothing here is drawn or tokenized; `foundations.decoder` lays the samples out in the form the
real decoder input has.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Literal

from video_llama.toy import captions, drills
from video_llama.toy.questions import MULTIPLE_CHOICE_KINDS, Question, ask, letter_choice
from video_llama.toy.scenes import Mix, Scene, sample_scene
from video_llama.toy.texts import TextSample, Turn

# Binding in scenes of two things is what a small decoder finds hardest, so they come more often
# than in clips.
TEXT_MIX = Mix(
    kinds={
        "empty": 0.06,
        "single": 0.16,
        "change": 0.13,
        "bounce": 0.13,
        "pair": 0.30,
        "order": 0.22,
    }
)
MAX_TURNS = 4
_MEDIA_CHOICES = (("video",), ("audio",), ("video", "audio"))
_MEDIA_WEIGHTS = (0.4, 0.15, 0.45)
Focus = Literal["binding", "order"]
"""What a stretch of training is about most: telling two things apart, or which comes first."""

_DRILLS: dict[Focus, dict[Callable[..., TextSample], float]] = {
    "binding": {
        drills.thing_drill: 0.40,
        drills.order_drill: 0.15,
        drills.change_drill: 0.15,
        drills.sound_drill: 0.10,
        drills.same_drill: 0.14,
        drills.letter_drill: 0.06,
    },
    "order": {
        drills.thing_drill: 0.30,
        drills.order_drill: 0.35,
        drills.change_drill: 0.10,
        drills.sound_drill: 0.05,
        drills.same_drill: 0.10,
        drills.letter_drill: 0.10,
    },
}
_LETTER_SHARE = 0.12
_CAPTION_SHARE: dict[Focus, float] = {"binding": 0.15, "order": 0.25}


def sample_scenes(count: int, *, seed: int, split: str, mix: Mix = TEXT_MIX) -> list[Scene]:
    """Draw the scenes of a text corpus."""
    return [sample_scene(index, seed=seed, split=split, mix=mix) for index in range(count)]


def media_facts(
    scene: Scene, *, media: Sequence[str], rng: random.Random
) -> tuple[tuple[str, str], ...]:
    """Write the facts of a scene out, medium by medium."""
    tell = {"video": captions.visual_facts, "audio": captions.sound_facts}
    return tuple((kind, tell[kind](scene, rng=rng)) for kind in media)


def caption_sample(scene: Scene, *, media: Sequence[str], rng: random.Random) -> TextSample:
    """Let a scene's facts be told as its canonical caption."""
    tell = {"video": captions.visual_caption, "audio": captions.sound_caption}
    caption = " ".join(tell[kind](scene) for kind in media)
    facts = media_facts(scene, media=media, rng=rng)
    return TextSample("caption", facts, (Turn("", caption),))


def question_sample(
    scene: Scene, *, media: Sequence[str], questions: Sequence[Question], rng: random.Random
) -> TextSample:
    """Let questions be asked one after the other about a scene's facts."""
    facts = media_facts(scene, media=media, rng=rng)
    turns = tuple(Turn(question.question, question.answer) for question in questions)
    return TextSample("instruct", facts, turns)


def scene_sample(scene: Scene, *, rng: random.Random, focus: Focus = "binding") -> TextSample:
    """Draw one training text about a scene: a caption, or one to four questions in any order.

    Args:
        scene: what it is about.
        rng: draws everything.
        focus: "order" brings captions more often and always asks who moves first.
    """
    media = rng.choices(_MEDIA_CHOICES, weights=_MEDIA_WEIGHTS)[0]
    if rng.random() < _CAPTION_SHARE[focus]:
        return caption_sample(scene, media=media, rng=rng)
    askable = [question for question in ask(scene) if set(question.needs) <= set(media)]
    questions = rng.sample(askable, min(rng.randint(1, MAX_TURNS), len(askable)))
    if focus == "order":
        missed = [q for q in askable if q.kind == "who_first" and q not in questions]
        questions[: len(missed)] = missed
    for index, question in enumerate(questions):
        if question.kind in MULTIPLE_CHOICE_KINDS and rng.random() < _LETTER_SHARE:
            questions[index] = letter_choice(question, rng=rng)
    return question_sample(scene, media=media, questions=questions, rng=rng)


def drill_sample(*, rng: random.Random, focus: Focus = "binding") -> TextSample:
    """Draw one drill in the forms of the world's questions; `focus` decides which come often."""
    if rng.random() < 0.1:
        return drills.recall_list(rng=rng)
    drill = rng.choices(list(_DRILLS[focus]), weights=list(_DRILLS[focus].values()))[0]
    return drill(rng=rng, num_turns=rng.randint(1, MAX_TURNS))


def tokenizer_lines(*, seed: int, num_scenes: int = 3000) -> list[str]:
    """Write the lines a tokenizer is trained on: every word of the world, and plain ones.

    Template marks stand apart from sentences, so that no piece glues one to the full stop or
    question mark before it.
    """
    rng = random.Random(f"toy tokenizer/{seed}")
    lines = []
    for scene in sample_scenes(num_scenes, seed=seed, split="train"):
        lines += [captions.visual_caption(scene), captions.sound_caption(scene)]
        lines += [text for _, text in media_facts(scene, media=("video", "audio"), rng=rng)]
        for question in ask(scene):
            lines += [question.question, question.answer]
    marks = ["###Human: <Video>", "</Video><Audio>", "</Audio> <Image>", "</Image> ###Assistant:"]
    marks += ["(A) (B) (C) (D)", " ".join(string.ascii_letters + string.digits + "!'-&;:,.?/")]
    return lines + marks * num_scenes + list(drills.PLAIN_WORDS) * (num_scenes // 10)
