"""Captions of toy scenes, and their facts in loose words.

A caption is canonical: one text per scene, things sorted by colour. Facts say the same in an
order and wording that vary; they stand in for media where there are only texts (the decoder's
own training).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from video_llama.toy import words
from video_llama.toy.scenes import Scene, Sound, Thing

_SOUND_CAPTIONS = {
    "steady": "A steady {} tone.",
    "slow beeps": "Slow beeps, {}.",
    "fast beeps": "Fast beeps, {}.",
    "rising": "A rising tone.",
    "falling": "A falling tone.",
    "noise": "Only noise.",
    "silence": "Silence.",
    "pip": "A {} pip {}.",
}


def visual_caption(scene: Scene) -> str:
    """Say what is to be seen, e.g. "A red circle moves left." (things sorted by colour)."""
    if not scene.things:
        return "Nothing to see."
    if scene.event is None:
        ordered = sorted(scene.things, key=lambda thing: words.COLOURS.index(thing.colour))
        said = " and ".join(_moving(thing, scene=scene) for thing in ordered)
        return f"A{said[1:]}."
    thing, event = scene.things[0], scene.event
    if event.kind == "colour_change":
        return f"A {thing.shape} turns from {thing.colour} to {event.colour} {event.bin}."
    back = words.OPPOSITE[thing.motion]
    return f"A {thing.colour} {thing.shape} moves {thing.motion} then {back}, bounce {event.bin}."


def sound_caption(scene: Scene) -> str:
    """Say what is to be heard, e.g. "A high pip late."."""
    sound = scene.sound
    return _SOUND_CAPTIONS[sound.kind].format(sound.pitch, sound.pip_bin)


def joint_caption(scene: Scene) -> str:
    """Say what is to be seen and heard, in this order."""
    return f"{visual_caption(scene)} {sound_caption(scene)}"


def visual_facts(scene: Scene, *, rng: random.Random) -> str:
    """Say what is to be seen in loose words: "blue square up second ; left red first circle"."""
    if not scene.things:
        return rng.choice(("nothing", "none", "Nothing to see."))
    if rng.random() < 0.2:
        return visual_caption(scene)
    things = list(scene.things)
    rng.shuffle(things)
    style = rng.choice(("plain", "labelled"))
    said = [_loose(_attributes(thing, scene=scene), style=style, rng=rng) for thing in things]
    facts = rng.choice((" ; ", " , and ", " . ")).join(said)
    if rng.random() < 0.3:
        facts = f"{'one' if len(said) == 1 else 'two'} : {facts}"
    return facts


def sound_facts(scene: Scene, *, rng: random.Random) -> str:
    """Say what is to be heard in loose words, e.g. "late pip high"."""
    if rng.random() < 0.2:
        return sound_caption(scene)
    style = rng.choice(("plain", "labelled"))
    return _loose(_sound_attributes(scene.sound), style=style, rng=rng)


def _moving(thing: Thing, *, scene: Scene) -> str:
    """Put one undisturbed thing into words."""
    verb = {"grows": "grows", "shrinks": "shrinks", "still": "stays still"}.get(
        thing.motion, f"moves {thing.motion}"
    )
    text = f"a {thing.colour} {thing.shape} {verb}"
    if scene.kind == "order":
        text += " first" if thing is scene.things[0] else " second"
    return text


def _attributes(thing: Thing, *, scene: Scene) -> list[tuple[str, str]]:
    """List (label, words) of a thing, its event included."""
    facts = [("shape", thing.shape)]
    event = scene.event
    if event is None:
        facts += [("colour", thing.colour), ("motion", thing.motion)]
        if scene.kind == "order":
            facts.append(("moves", "first" if thing is scene.things[0] else "second"))
    elif event.kind == "colour_change":
        facts += [("colour", f"from {thing.colour} to {event.colour}"), ("change", event.bin)]
    else:
        facts += [
            ("colour", thing.colour),
            ("motion", f"{thing.motion} then {words.OPPOSITE[thing.motion]}"),
            ("bounce", event.bin),
        ]
    return facts


def _sound_attributes(sound: Sound) -> list[tuple[str, str]]:
    """List (label, words) of a sound."""
    facts = [("sound", sound.kind)]
    if sound.pitch is not None:
        facts.append(("pitch", sound.pitch))
    if sound.pip_bin is not None:
        facts.append(("when", sound.pip_bin))
    return facts


def _loose(facts: Sequence[tuple[str, str]], *, style: str, rng: random.Random) -> str:
    """Say facts in random order, with or without their labels."""
    shuffled = list(facts)
    rng.shuffle(shuffled)
    if style == "labelled":
        return " , ".join(f"{label} {words}" for label, words in shuffled)
    # Bins need their label where the event is not said otherwise.
    return " ".join(
        f"{label} {words}" if label in ("change", "bounce") else words for label, words in shuffled
    )
