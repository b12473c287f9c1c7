"""What can be asked and said about a toy scene: questions with answers, captions, facts.

All texts follow from the scene. A question kind lists every form it can take for a scene with
its probability (`question_forms`), so the sampler (`ask`) and the closed-form ceilings share one
description. Comparing kinds are answered evidence first ("midway late: no"): the part after the
last colon is the verdict, which is what is scored.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from video_llama.toy import words
from video_llama.toy.scenes import Scene, Thing

COUNTS = ("none", "one", "two")
YES_NO = ("yes", "no")
LETTERS = ("A", "B", "C", "D")

_COLOUR_WORDS = {colour: colour for colour in words.COLOURS}
_MOTION_VERBS = {
    **{direction: f"move {direction}" for direction in words.DIRECTIONS},
    "grows": "grow",
    "shrinks": "shrink",
    "still": "stay still",
}
_SOUND_NOUNS = {
    "steady": "a steady tone",
    "slow beeps": "slow beeps",
    "fast beeps": "fast beeps",
    "rising": "a rising tone",
    "falling": "a falling tone",
    "noise": "noise",
    "silence": "silence",
    "pip": "a pip",
}


@dataclass(frozen=True)
class Question:
    """One question about one scene.

    Args:
        kind: one of KINDS, or "mc_" and such a kind after `multiple_choice`.
        question: what the person says.
        answer: the whole answer, evidence included.
        candidates: what the verdict can be; the four options of a multiple choice.
        needs: media without which only a guess is left, of "video" and "audio".
    """

    kind: str
    question: str
    answer: str
    candidates: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The part of the answer that is scored."""
        return verdict_of(self.answer)


@dataclass(frozen=True)
class Form:
    """One way a question can be put, and how likely it is among those of its kind and thing."""

    probability: float
    question: Question


@dataclass(frozen=True)
class _Kind:
    """How a kind is made: `matter` gives (question, answer, probability) for one thing or scene."""

    candidates: tuple[str, ...]
    needs: tuple[str, ...]
    applies: Callable[[Scene], bool]
    matter: Callable[[Scene, Thing | None], list[tuple[str, str, float]]]
    each_thing: bool = False


def verdict_of(answer: str) -> str:
    """Return the scored part of an answer: "midway late: no" gives "no", "red" gives "red"."""
    return answer.rpartition(":")[2].strip()


def is_correct(question: Question, *, reply: str) -> bool:
    """Score a reply by its verdict, case and a final full stop aside."""
    return verdict_of(reply.strip().rstrip(".")).lower() == question.verdict.lower()


def _has(*kinds: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.kind in kinds


def _has_sound(*sounds: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.sound.kind in sounds


def _even(texts: Iterable[str], *, answer: str) -> list[tuple[str, str, float]]:
    """Give equally likely wordings of one question."""
    listed = list(texts)
    return [(text, answer, 1 / len(listed)) for text in listed]


def _yes_no(text: str, *, truth: str, values: Mapping[str, str]) -> list[tuple[str, str, float]]:
    """Ask about the truth half of the time, else about one of the other values.

    Args:
        text: the question with a hole for the value.
        truth: the value that holds.
        values: each value as an answer, and as it stands in the question.
    """
    others = [value for value in values if value != truth]
    forms = [(text.format(values[truth]), f"{truth}: yes", 0.5)]
    share = 0.5 / len(others)
    return forms + [(text.format(values[other]), f"{truth}: no", share) for other in others]


def _colour(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert thing is not None
    texts = (f"What colour is the {thing.shape}?", f"Which colour does the {thing.shape} have?")
    return _even(texts, answer=thing.colour)


def _shape(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert thing is not None
    texts = (f"What shape is the {thing.colour} thing?", f"Which shape is {thing.colour}?")
    return _even(texts, answer=thing.shape)


def _motion(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert thing is not None
    texts = (f"How does the {thing.shape} move?", f"What does the {thing.shape} do?")
    return _even(texts, answer=thing.motion)


def _first_colour(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    texts = ("What colour is it at first?", "Which colour comes first?")
    return _even(texts, answer=scene.things[0].colour)


def _last_colour(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert scene.event is not None
    assert scene.event.colour is not None
    texts = ("What colour is it at last?", "Which colour comes last?")
    return _even(texts, answer=scene.event.colour)


def _first_direction(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    texts = ("Which way does it move at first?", "Where does it go first?")
    return _even(texts, answer=scene.things[0].motion)


def _last_direction(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    texts = ("Which way does it move at last?", "Where does it go last?")
    return _even(texts, answer=words.OPPOSITE[scene.things[0].motion])


def _when(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert scene.event is not None
    if scene.event.kind == "bounce":
        texts = ("When does it bounce?", "When does it turn back?")
    else:
        texts = ("When does it change colour?", "When does the colour change?")
    return _even(texts, answer=scene.event.bin)


def _count(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    texts = ("How many things are there?", "How many things do you see?")
    return _even(texts, answer=COUNTS[len(scene.things)])


def _sound(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    return _even(("What do you hear?", "What is the sound?"), answer=scene.sound.kind)


def _pitch(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert scene.sound.pitch is not None
    texts = ("Is the sound low or high?", "Which pitch does the sound have?")
    return _even(texts, answer=scene.sound.pitch)


def _pip_when(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert scene.sound.pip_bin is not None
    return _even(("When is the pip?", "When do you hear the pip?"), answer=scene.sound.pip_bin)


def _in_time(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert scene.event is not None
    assert scene.sound.pip_bin is not None
    word = "bounce" if scene.event.kind == "bounce" else "change"
    verdict = "yes" if scene.event.bin == scene.sound.pip_bin else "no"
    texts = (f"Is the pip in time with the {word}?", f"Does the pip come with the {word}?")
    return _even(texts, answer=f"{scene.event.bin} {scene.sound.pip_bin}: {verdict}")


def _who_first(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    texts = ("Which thing moves first?", "Which shape moves first?")
    return _even(texts, answer=scene.things[0].shape)


def _yn_colour(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert thing is not None
    text = f"Is the {thing.shape} {{}}?"
    return _yes_no(text, truth=thing.colour, values=_COLOUR_WORDS)


def _yn_motion(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    assert thing is not None
    text = f"Does the {thing.shape} {{}}?"
    return _yes_no(text, truth=thing.motion, values=_MOTION_VERBS)


def _yn_first(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    text = "Is it {} at first?"
    return _yes_no(text, truth=scene.things[0].colour, values=_COLOUR_WORDS)


def _yn_sound(scene: Scene, thing: Thing | None) -> list[tuple[str, str, float]]:
    return _yes_no("Do you hear {}?", truth=scene.sound.kind, values=_SOUND_NOUNS)


def _has_pip_and_event(scene: Scene) -> bool:
    return scene.sound.kind == "pip" and scene.event is not None


_ONE = _has("single", "bounce")
_TWO = _has("pair", "order")
_ANY = _has(*words.SCENE_KINDS)
_SEEN, _HEARD, _BOTH = ("video",), ("audio",), ("video", "audio")
_PITCHED = _has_sound(*words.PITCHED_SOUNDS)

_KINDS: dict[str, _Kind] = {
    "colour": _Kind(words.COLOURS, _SEEN, _ONE, _colour, each_thing=True),
    "shape": _Kind(words.SHAPES, _SEEN, _ONE, _shape, each_thing=True),
    "motion": _Kind(words.MOTIONS, _SEEN, _has("single"), _motion, each_thing=True),
    "first_colour": _Kind(words.COLOURS, _SEEN, _has("change"), _first_colour),
    "last_colour": _Kind(words.COLOURS, _SEEN, _has("change"), _last_colour),
    "first_direction": _Kind(words.DIRECTIONS, _SEEN, _has("bounce"), _first_direction),
    "last_direction": _Kind(words.DIRECTIONS, _SEEN, _has("bounce"), _last_direction),
    "when": _Kind(words.BINS, _SEEN, _has("change", "bounce"), _when),
    "count": _Kind(COUNTS, _SEEN, _ANY, _count),
    "sound": _Kind(words.SOUNDS, _HEARD, _ANY, _sound),
    "pitch": _Kind(words.PITCHES, _HEARD, _PITCHED, _pitch),
    "pip_when": _Kind(words.BINS, _HEARD, _has_sound("pip"), _pip_when),
    "in_time": _Kind(YES_NO, _BOTH, _has_pip_and_event, _in_time),
    "pair_colour": _Kind(words.COLOURS, _SEEN, _TWO, _colour, each_thing=True),
    "pair_shape": _Kind(words.SHAPES, _SEEN, _TWO, _shape, each_thing=True),
    "pair_motion": _Kind(words.MOTIONS, _SEEN, _TWO, _motion, each_thing=True),
    "who_first": _Kind(words.SHAPES, _SEEN, _has("order"), _who_first),
    "yn_colour": _Kind(YES_NO, _SEEN, _ONE, _yn_colour, each_thing=True),
    "yn_motion": _Kind(YES_NO, _SEEN, _has("single"), _yn_motion, each_thing=True),
    "yn_first": _Kind(YES_NO, _SEEN, _has("change"), _yn_first),
    "yn_sound": _Kind(YES_NO, _HEARD, _ANY, _yn_sound),
}
KINDS = tuple(_KINDS)


def needs_of(kind: str) -> tuple[str, ...]:
    """Return the media a kind of question needs, also with "mc_" or "letter_" in front."""
    return _KINDS[kind.removeprefix("mc_").removeprefix("letter_")].needs


MULTIPLE_CHOICE_KINDS = (
    "colour",
    "shape",
    "motion",
    "first_colour",
    "last_colour",
    "first_direction",
    "last_direction",
    "sound",
)
"""Open kinds with four options or more; `multiple_choice` and `letter_choice` build on them."""


def question_forms(scene: Scene, *, kind: str) -> list[list[Form]]:
    """List every question of a kind about a scene: per thing asked about, its possible forms.

    Args:
        scene: what is asked about.
        kind: one of KINDS.

    Returns:
        One list per thing (or one for the scene) of forms whose probabilities add up to 1;
        empty if the kind does not apply.
    """
    spec = _KINDS[kind]
    if not spec.applies(scene):
        return []
    things: Sequence[Thing | None] = scene.things if spec.each_thing else (None,)
    return [
        [
            Form(probability, Question(kind, text, answer, spec.candidates, spec.needs))
            for text, answer, probability in spec.matter(scene, thing)
        ]
        for thing in things
    ]


def ask(scene: Scene) -> tuple[Question, ...]:
    """Put one form of every applicable question; equal scenes are asked equally."""
    rng = random.Random(f"toy questions/{scene.key}")
    asked = []
    for kind in KINDS:
        for forms in question_forms(scene, kind=kind):
            weights = [form.probability for form in forms]
            asked.append(rng.choices(forms, weights=weights)[0].question)
    return tuple(asked)


def multiple_choice(question: Question, *, rng: random.Random) -> Question:
    """Turn an open question into one with four options, to be scored by option likelihood.

    Distractors are drawn evenly from the other candidates, so that the set of options says
    nothing about which is right.
    """
    others = [other for other in question.candidates if other != question.answer]
    options = [question.answer, *rng.sample(others, 3)]
    rng.shuffle(options)
    return replace(question, kind=f"mc_{question.kind}", candidates=tuple(options))


def letter_choice(question: Question, *, rng: random.Random) -> Question:
    """Write four options into the question; the answer is "red: B", evidence first."""
    options = multiple_choice(question, rng=rng).candidates
    listed = " ".join(
        f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)
    )
    letter = LETTERS[options.index(question.answer)]
    return replace(
        question,
        kind=f"letter_{question.kind}",
        question=f"{question.question} {listed}",
        answer=f"{question.answer}: {letter}",
        candidates=LETTERS,
    )


def option_sets(question: Question) -> list[tuple[str, ...]]:
    """List the option sets `multiple_choice` may give, all equally likely, order aside."""
    others = [other for other in question.candidates if other != question.answer]
    return [tuple(sorted((question.answer, *three))) for three in itertools.combinations(others, 3)]
