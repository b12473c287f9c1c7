"""The best that can be answered without pictures, without sound, or with the frames shuffled.

Nothing is simulated: the generator's own table of wordings, sounds and question forms is added
up. A guesser sees a view of a scene and the question (whose words may tell something: "the
circle" names a shape) and gives the likeliest verdict; the ceiling is how often that is right
when the verdicts of a kind are balanced, as `held_out.balance` does.

Views:
    blind        the question, and the sound if there is any
    deaf         the question and everything seen
    order_blind  the question, the frames as an unordered set, and the sound if there is any
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from video_llama.toy.questions import Form, option_sets, question_forms
from video_llama.toy.scenes import (
    DEFAULT_MIX,
    EVENT_KINDS,
    Event,
    Mix,
    Scene,
    Sound,
    Thing,
)
from video_llama.toy.words import (
    BINS,
    MIRRORED_BIN,
    OPPOSITE,
    PITCHED_SOUNDS,
    PITCHES,
    SOUNDS,
    Wording,
    wordings,
)

Media = Literal["video", "audio", "both"]

SHIPPED = Path(str(resources.files("video_llama"))) / "toy" / "ceilings.json"

_HEARD_KINDS = ("sound", "pitch", "pip_when", "in_time", "yn_sound")
# A pip tells something about the bin of an event, and so about whatever its bin decides.
_TIMED_KINDS = (
    "when",
    "first_colour",
    "last_colour",
    "first_direction",
    "last_direction",
    "yn_first",
)
# With two things in view the honest guess is between the two of them.
_PAIR_KINDS = ("pair_colour", "pair_shape", "pair_motion", "who_first")


@dataclass(frozen=True)
class Ceilings:
    """Best accuracies of one kind of question, each in [0, 1].

    Attributes:
        chance: of a guess among the candidates; among the two things where there are two.
        blind: without pictures.
        deaf: without sound.
        order_blind: with the frames as an unordered set.
    """

    chance: float
    blind: float
    deaf: float
    order_blind: float


@dataclass(frozen=True)
class _Case:
    """One scene (geometry left blank) and its probability."""

    probability: float
    scene: Scene


def ceilings_by_kind(
    kinds: Iterable[str], *, mix: Mix = DEFAULT_MIX, split: str = "test", media: Media = "both"
) -> dict[str, dict[str, float]]:
    """Return the ceilings of several kinds, as plain data; see `ceilings`.

    Those of the shipped mixes were computed once (a minute) and lie beside this module; a test
    computes them again.
    """
    known = _shipped().get(_name_of(mix, split=split, media=media), {})
    return {
        kind: known.get(kind) or asdict(ceilings(kind, mix=mix, split=split, media=media))
        for kind in sorted(set(kinds))
    }


def write_shipped(
    requests: Iterable[tuple[Iterable[str], Mix, str, Media]], *, path: Path = SHIPPED
) -> None:
    """Compute ceilings afresh and write them where `ceilings_by_kind` finds them.

    Args:
        requests: kinds, mix, split and media of each table.
        path: of the file.
    """
    tables = {
        _name_of(mix, split=split, media=media): {
            kind: asdict(ceilings(kind, mix=mix, split=split, media=media))
            for kind in sorted(set(kinds))
        }
        for kinds, mix, split, media in requests
    }
    path.write_text(json.dumps(tables, indent=0, sort_keys=True) + "\n", encoding="ascii")
    _shipped.cache_clear()


@functools.cache
def _shipped() -> dict[str, dict[str, dict[str, float]]]:
    """Read the tables that were computed before."""
    if not SHIPPED.is_file():
        return {}
    tables: dict[str, dict[str, dict[str, float]]] = json.loads(SHIPPED.read_text("ascii"))
    return tables


def _name_of(mix: Mix, *, split: str, media: Media) -> str:
    """Name a table after everything it depends on but the code."""
    digest = hashlib.blake2b(repr(mix).encode(), digest_size=8).hexdigest()
    return f"{split} {media} {digest}"


def ceilings(
    kind: str, *, mix: Mix = DEFAULT_MIX, split: str = "test", media: Media = "both"
) -> Ceilings:
    """Compute the ceilings of one kind of question.

    Args:
        kind: of question; "mc_" or "letter_" in front of one means four options to choose from.
        mix: of the scenes asked about.
        split: of the scenes asked about.
        media: what the model is given at all. With "video", for instance, a pip that comes with
            a bounce cannot help to tell when the bounce was.
    """
    prefix, _, rest = kind.partition("_")
    is_choice = prefix in ("mc", "letter")
    asked = rest if is_choice else kind
    views: dict[str, dict[Hashable, dict[str, float]]] = {
        name: defaultdict(lambda: defaultdict(float)) for name in ("blind", "deaf", "order_blind")
    }
    verdicts: dict[str, float] = defaultdict(float)
    num_candidates = 4
    for case in _cases(asked, mix=mix, split=split):
        seen, as_set, heard = _views(case.scene, media=media)
        for forms in question_forms(case.scene, kind=asked):
            for words, form, probability in _put(forms, is_choice=is_choice):
                weight, verdict = case.probability * probability, form.question.verdict
                verdicts[verdict] += weight
                views["blind"][words, heard][verdict] += weight
                views["deaf"][words, seen][verdict] += weight
                views["order_blind"][words, as_set, heard][verdict] += weight
                if not is_choice:
                    num_candidates = len(form.question.candidates)
    if not verdicts:
        raise ValueError(f"no scene of this mix and split is asked {kind!r}")
    best = {name: _best(view, verdicts=verdicts) for name, view in views.items()}
    chance = 0.5 if asked in _PAIR_KINDS and not is_choice else 1 / num_candidates
    return Ceilings(chance=chance, **best)


def _put(forms: list[Form], *, is_choice: bool) -> Iterator[tuple[Hashable, Form, float]]:
    """List what a guesser reads, option sets included, with probabilities."""
    for form in forms:
        if not is_choice:
            yield form.question.question, form, form.probability
            continue
        options = option_sets(form.question)
        for listed in options:
            yield (form.question.question, listed), form, form.probability / len(options)


def _best(view: Mapping[Hashable, Mapping[str, float]], *, verdicts: Mapping[str, float]) -> float:
    """Add the likeliest verdict of each view up, every verdict being equally frequent."""
    right = sum(
        max(weight / verdicts[verdict] for verdict, weight in found.items())
        for found in view.values()
    )
    # Sums of thousands of floats: what is 1 or a simple fraction should also look like it.
    return round(right / len(verdicts), 9)


def _cases(kind: str, *, mix: Mix, split: str) -> Iterator[_Case]:
    """List the scenes a kind is asked about, words and sounds, with their probabilities."""
    sound_matters = kind in _TIMED_KINDS or kind in _HEARD_KINDS
    shares = {name: share for name, share in mix.kinds.items() if wordings(name, split=split)}
    total = sum(shares.values())
    for name, share in shares.items():
        if not share:
            continue
        table = wordings(name, split=split)
        if not sound_matters and not _is_asked(kind, scene_kind=name, wording=table[0]):
            continue
        if sound_matters and name not in EVENT_KINDS:
            # Sound and things are independent here, so one wording stands for all.
            table = (Wording(1.0, table[0].things),)
        for wording in table:
            for event_probability, event in _events(name, wording=wording):
                sounds = _sounds(mix, event=event)
                if not sound_matters:
                    sounds = [(1.0, Sound("silence"))]
                for sound_probability, sound in sounds:
                    probability = wording.probability * event_probability * sound_probability
                    scene = _blank(name, wording=wording, event=event, sound=sound)
                    yield _Case(probability * share / total, scene)


def _is_asked(kind: str, *, scene_kind: str, wording: Wording) -> bool:
    """Tell whether a kind is asked about a scene kind, where sound does not decide that."""
    event = _events(scene_kind, wording=wording)[0][1]
    scene = _blank(scene_kind, wording=wording, event=event, sound=Sound("silence"))
    return bool(question_forms(scene, kind=kind))


def _events(kind: str, *, wording: Wording) -> list[tuple[float, Event | None]]:
    """List the events of a wording; the bins are equally likely."""
    if kind not in EVENT_KINDS:
        return [(1.0, None)]
    share = 1 / len(BINS)
    return [
        (share, Event(EVENT_KINDS[kind], time_bin, 0.0, wording.last_colour)) for time_bin in BINS
    ]


def _sounds(mix: Mix, *, event: Event | None) -> list[tuple[float, Sound]]:
    """List the sounds of a scene, as `scenes.sample_scene` draws them."""
    found = []
    share = (1 - mix.pip) / (len(SOUNDS) - 1)
    for kind in SOUNDS[:-1]:
        pitches = PITCHES if kind in PITCHED_SOUNDS else (None,)
        found += [(share / len(pitches), Sound(kind, pitch)) for pitch in pitches]
    for pip_bin in BINS:
        if event is None:
            probability = 1 / len(BINS)
        else:
            off = (1 - mix.in_time) / (len(BINS) - 1)
            probability = mix.in_time if pip_bin == event.bin else off
        for pitch in PITCHES:
            sound = Sound("pip", pitch, pip_bin=pip_bin)
            found.append((mix.pip * probability / len(PITCHES), sound))
    return found


def _blank(kind: str, *, wording: Wording, event: Event | None, sound: Sound) -> Scene:
    """Make a scene of words alone."""
    things = tuple(
        Thing(thing.shape, thing.colour, thing.motion, 0.0, 0.0, 0.0, 0.0)
        for thing in wording.things
    )
    return Scene("", kind, "", 0, things, event, sound, 0)


def _views(scene: Scene, *, media: Media) -> tuple[Hashable, Hashable, Hashable]:
    """Return what is seen, what is seen of shuffled frames, and what is heard."""
    seen = _seen(scene)
    as_set = _seen_as_set(scene)
    heard = (scene.sound.kind, scene.sound.pitch, scene.sound.pip_bin)
    return (
        seen if media != "audio" else None,
        as_set if media != "audio" else None,
        heard if media != "video" else None,
    )


def _seen(scene: Scene) -> tuple[Hashable, ...]:
    """Return all that is seen; the two things of an "order" scene stand in order of moving."""
    things = [(thing.shape, thing.colour, thing.motion) for thing in scene.things]
    if scene.kind == "pair":
        things.sort()
    event = scene.event
    return (scene.kind, *things, *((event.bin, event.colour) if event else ()))


def _seen_as_set(scene: Scene) -> Hashable:
    """Return what an unordered set of frames shows: scenes that share it cannot be told apart.

    Mostly those are a scene and the same played backwards. A bounce played backwards is the same
    bounce in the mirrored bin. In the middle bin its two ways cover the same places, so that
    even the side it turns at is unknown.
    """
    event = scene.event
    things = [(thing.shape, thing.colour, thing.motion) for thing in scene.things]
    if event is not None and event.kind == "bounce":
        shape, colour, motion = things[0]
        if event.bin == "midway":
            motion = min(motion, OPPOSITE[motion])
        return (scene.kind, shape, colour, motion, min(event.bin, MIRRORED_BIN[event.bin]))
    if event is not None:
        assert event.colour is not None
        shape, first, _ = things[0]
        forwards = (first, event.colour, event.bin)
        backwards = (event.colour, first, MIRRORED_BIN[event.bin])
        return (scene.kind, shape, min(forwards, backwards))
    backwards_things = [(shape, colour, OPPOSITE[motion]) for shape, colour, motion in things]
    backwards_things.reverse()
    if scene.kind == "pair":
        things.sort()
        backwards_things.sort()
    return (scene.kind, min(tuple(things), tuple(backwards_things)))
