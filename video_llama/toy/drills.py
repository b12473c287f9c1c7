"""Drills in associative recall: facts about words drawn at random, asked like scenes are asked.

A small decoder trained on the world's own facts learns to guess from the set of words it saw;
with random words nothing is left but to look the answer up. These drills are texts only; they
have no scene.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from video_llama.toy.questions import COUNTS, LETTERS
from video_llama.toy.texts import TextSample, Turn
from video_llama.toy.words import BINS, COLOURS, DIRECTIONS, MOTIONS, PITCHES, SHAPES

# Plain words the world does not use; they give the tokenizer and the drills more to hold.
_PLAIN = """
apple arm baby ball bank bear bed bell bird boat bone book box boy bread bus cake cap car cat
chair child city clock cloud coat coin cold cow cup day deer desk dog door dress drum duck ear
egg eye face farm fire fish flag flower fly food foot fox frog garden gate girl glass goat gold
grass hair hand hat head hill home horse hot house ice iron job key king lake lamp leaf leg
lion map milk moon mouse music name neck nest night nose ocean owl paper park pen pig pipe
plant plate rain ring river road rock roof room rope salt sand sea seed sheep ship shoe shop
snow soap sock soup spoon stone street sugar sun table tail tea tiger town toy train tree
truck wall water wave wheel wind window wolf wood wool
"""
PLAIN_WORDS = tuple(_PLAIN.split())


# A word that no drill lists is copied from facts far later than the others: "low" and "high" were
# still a coin when two colours were not.
_SOUND_WORDS = ("steady", "slow", "fast", "beeps", "rising", "falling", "noise", "silence", "pip")
WORLD_WORDS = (*COLOURS, *SHAPES, *MOTIONS, *BINS, *COUNTS, *PITCHES, *_SOUND_WORDS)
DRILL_WORDS = (*WORLD_WORDS, *PLAIN_WORDS)


def copy_list(*, rng: random.Random) -> TextSample:
    """List random words and say them again: what came after this word before?"""
    said = " ".join(rng.sample(DRILL_WORDS, rng.randint(6, 14)))
    return TextSample("caption", (("video", said),), (Turn("", said),))


def recall_list(*, rng: random.Random, max_pairs: int = 5, num_queries: int = 8) -> TextSample:
    """List word pairs, then look them up in both directions.

    Half of the lists pair random words, so that no pair can be guessed from the set of words;
    the others pair colours and shapes.

    Args:
        rng: draws everything.
        max_pairs: most pairs in a list of random words, >= 2.
        num_queries: look-ups.
    """
    if rng.random() < 0.5:
        size = rng.randint(2, max_pairs)
        drawn = rng.sample(DRILL_WORDS, 2 * size)
        pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    else:
        size = rng.randint(2, min(max_pairs, len(SHAPES)))
        pairs = list(zip(rng.sample(COLOURS, size), rng.sample(SHAPES, size), strict=True))
    turns = [Turn(*_turned(rng.choice(pairs), rng=rng)) for _ in range(num_queries)]
    facts = " ; ".join(" ".join(_turned(pair, rng=rng)) for pair in pairs)
    return TextSample("recall", (("video", facts),), tuple(turns))


def thing_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Describe two or three things, each value a random word two times of three, and ask."""
    size = rng.choice((2, 2, 3))
    invented = [rng.random() < 0.67 for _ in range(3)]
    drawn = rng.sample(DRILL_WORDS, 3 * size)
    shapes, colours, motions = (
        drawn[row * size : (row + 1) * size] if invented[row] else rng.sample(values, size)
        for row, values in enumerate((SHAPES, COLOURS, MOTIONS))
    )
    ranks = rng.sample(("first", "second"), 2) if size == 2 and rng.random() < 0.5 else None
    said = []
    for index, (shape, colour, motion) in enumerate(zip(shapes, colours, motions, strict=True)):
        labelled = [f"shape {shape}", f"colour {colour}", f"motion {motion}"]
        if ranks is not None:
            labelled.append(f"moves {ranks[index]}")
        rng.shuffle(labelled)
        said.append(" , ".join(labelled))
    questions = [Turn("Which thing moves first?", shapes[ranks.index("first")])] if ranks else []
    for shape, colour, motion in zip(shapes, colours, motions, strict=True):
        questions.append(Turn(f"What colour is the {shape}?", colour))
        questions.append(Turn(f"What shape is the {colour} thing?", shape))
        questions.append(Turn(f"How does the {shape} move?", motion))
    facts = rng.choice((" ; ", " , and ", " . ")).join(said)
    asked = rng.sample(questions, min(num_turns, len(questions)))
    return TextSample("instruct", (("video", facts),), tuple(asked))


def order_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Say which of two things comes first, in every wording facts use, and ask."""
    words = SHAPES if rng.random() < 0.4 else DRILL_WORDS
    first, second = rng.sample(words, 2)
    tagged = []
    for shape, rank in ((first, "first"), (second, "second")):
        colour, motion = rng.choice(COLOURS), rng.choice(MOTIONS)
        parts = rng.sample((shape, colour, motion, rank), 4)
        tagged.append(" ".join(parts))
    rng.shuffle(tagged)
    questions = [
        Turn("Which thing moves first?", first),
        Turn("Which shape moves first?", first),
    ]
    facts = rng.choice((" ; ", " , and ", " . ")).join(tagged)
    asked = [rng.choice(questions) for _ in range(min(num_turns, 2))]
    return TextSample("instruct", (("video", facts),), tuple(asked))


def change_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Tell what comes first and what last, and ask for either."""
    words = rng.choice((COLOURS, DIRECTIONS, DRILL_WORDS, DRILL_WORDS))
    first, last = rng.sample(words, 2)
    change = rng.choice((f"from {first} to {last}", f"{first} then {last}"))
    facts = [rng.choice(SHAPES), change, f"{rng.choice(('change', 'bounce'))} {rng.choice(BINS)}"]
    rng.shuffle(facts)
    questions = [
        (f"{text} {rank}{end}", first if rank == "first" else last)
        for rank in ("first", "last")
        for text, end in (
            ("What colour is it at", "?"),
            ("Which way does it move at", "?"),
            ("Where does it go", "?"),
        )
    ]
    questions += [("Which colour comes first?", first), ("Which colour comes last?", last)]
    turns = tuple(Turn(*asked) for asked in rng.sample(questions, num_turns))
    return TextSample("instruct", (("video", " ".join(facts)),), turns)


def sound_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Label a sound, its pitch and its time with words, most of them random, and ask."""
    sound, pitch, when = rng.sample(DRILL_WORDS, 3)
    if rng.random() < 0.6:
        pitch = rng.choice(PITCHES)
    facts = [f"sound {sound}", f"pitch {pitch}", f"when {when}"]
    rng.shuffle(facts)
    questions = [
        Turn("What do you hear?", sound),
        Turn("What is the sound?", sound),
        Turn("Which pitch does the sound have?", pitch),
        Turn("Is the sound low or high?", pitch),
        Turn("When is the pip?", when),
    ]
    turns = rng.sample(questions, num_turns)
    return TextSample("instruct", (("audio", " , ".join(facts)),), tuple(turns))


def same_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Compare something seen with something heard, or with a word of the question."""
    words = BINS if rng.random() < 0.4 else rng.sample(DRILL_WORDS, 6)
    turns = []
    seen, heard = rng.choice(words), rng.choice(words)
    if rng.random() < 0.5:
        heard = seen
    for _ in range(num_turns):
        if rng.random() < 0.5:
            text = rng.choice(("Is the pip in time with the {}?", "Does the pip come with the {}?"))
            verdict = "yes" if seen == heard else "no"
            turn = Turn(text.format(rng.choice(("change", "bounce"))), f"{seen} {heard}: {verdict}")
        else:
            asked = seen if rng.random() < 0.5 else rng.choice(words)
            text = rng.choice(("Is the circle {}?", "Is it {} at first?", "Does the star move {}?"))
            turn = Turn(text.format(asked), f"{seen}: {'yes' if asked == seen else 'no'}")
        turns.append(turn)
    media = (("video", f"change {seen}"), ("audio", f"pip {heard}"))
    return TextSample("instruct", media, tuple(turns))


def letter_drill(*, rng: random.Random, num_turns: int) -> TextSample:
    """Find the letter of a shown word among four options."""
    words: Sequence[str] = rng.choice((COLOURS, DIRECTIONS, SHAPES, DRILL_WORDS, DRILL_WORDS))
    shown = rng.choice(words)
    turns = []
    for _ in range(min(num_turns, 3)):
        options = [shown, *rng.sample([word for word in words if word != shown], 3)]
        rng.shuffle(options)
        listed = " ".join(
            f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)
        )
        letter = LETTERS[options.index(shown)]
        turns.append(Turn(f"Which colour comes first? {listed}", f"{shown}: {letter}"))
    return TextSample("instruct", (("video", f"colour {shown}"),), tuple(turns))


def _turned(pair: tuple[str, str], *, rng: random.Random) -> tuple[str, str]:
    """Give a pair in either order."""
    return pair if rng.random() < 0.5 else (pair[1], pair[0])
