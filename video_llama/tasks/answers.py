"""What counts as the same answer: pure functions on strings.

Does not know models, files or question kinds. An answer may carry its evidence in front,
"midway late: no"; the verdict is the part after the last colon, and only the verdict is scored.
An empty answer is never right (counting it is a known fault of published scorers).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

STOP_MARK = "###"
"""Ends a turn in the Vicuna-v0 style templates; whatever follows is not part of the answer."""

YES_NO = ("yes", "no")

NUM_REMEMBERED = 4096
"""Texts whose verdict is not sought again: right answers and options are few and come often."""

_ARTICLES = re.compile(r"^(?:(?:a|an|the)\s+)+(?=\S)")
_EVIDENCE_COLON = re.compile(r"(?<!\d):|:(?!\d)|\uff1a")
_LETTER = re.compile(r"^\s*(?:\(([A-Za-z])\)|([A-Za-z])(?:[.):]|\s*$))")
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese;
and Korean, whose words carry their particles."""


def normalise(text: str) -> str:
    """Bring an answer into the form in which answers are compared.

    Everything from the first `###` on is cut, case and surrounding punctuation go, inner white
    space becomes one blank, and a leading article goes if a word follows it:
    " A red  Circle.###Human:" becomes "red circle", "A" stays "a".

    Args:
        text: as generated, or as written in a data set.

    Returns:
        The comparable form, possibly empty.
    """
    words = " ".join(text.split(STOP_MARK, 1)[0].casefold().split())
    return _ARTICLES.sub("", _without_edges(words))


@lru_cache(maxsize=NUM_REMEMBERED)
def verdict(text: str) -> str:
    """Return the normalised part of an evidence-first answer that decides.

    "midway late: no" gives "no"; an answer without a colon is its own verdict; the colon of a
    time of day or a score ("12:30") separates nothing.

    Args:
        text: as generated, or as written in a data set.
    """
    answer = _without_edges(text.split(STOP_MARK, 1)[0])
    return normalise(_EVIDENCE_COLON.split(answer)[-1])


def is_correct(prediction: str, answer: str) -> bool:
    """Say whether a prediction has the right verdict.

    Args:
        prediction: as generated.
        answer: the right one, with or without evidence in front.
    """
    found = verdict(prediction)
    return bool(found) and found == verdict(answer)


def mentions(prediction: str, answer: str) -> bool:
    """Say whether a free answer holds the right one, in whatever sentence.

    "The man is playing a guitar." mentions "guitar", "No, he is not." mentions "no". What says yes
    and no mentions neither, and no word is taken for another: "guitars" is not "guitar".

    Args:
        prediction: as generated.
        answer: the right one, with or without evidence in front.
    """
    found, right = normalise(prediction), verdict(answer)
    if not found or not right:
        return False
    if right in YES_NO:
        return {word for word in YES_NO if _stands_in(word, found)} == {right}
    return _stands_in(right, found)


def matching_candidate(prediction: str, candidates: Sequence[str]) -> int | None:
    """Find the candidate that a free answer names.

    In this order: the same verdict; a letter in front ("(B) red", "B."); the one candidate whose
    words all stand in the answer in a row. "red or blue" names two and therefore none.

    Args:
        prediction: as generated.
        candidates: the options, in the order of their letters.

    Returns:
        Its index, None if no candidate or more than one is named.
    """
    found = verdict(prediction)
    if not found:
        return None
    options = [normalise(candidate) for candidate in candidates]
    if found in options:
        return options.index(found)
    letter = _LETTER.match(prediction)
    if letter:
        index = string.ascii_lowercase.index((letter[1] or letter[2]).lower())
        return index if index < len(options) else None
    named = [index for index, option in enumerate(options) if option and _stands_in(option, found)]
    return named[0] if len(named) == 1 else None


def _stands_in(option: str, answer: str) -> bool:
    """Say whether an option stands in an answer as whole words, where a script has such."""
    before = "" if _UNSPACED.match(option[0]) else r"(?<!\w)"
    after = "" if _UNSPACED.match(option[-1]) else r"(?!\w)"
    return re.search(before + re.escape(option) + after, answer) is not None


def _without_edges(text: str) -> str:
    """Take white space and punctuation of any script off both ends."""
    start, end = 0, len(text)
    while start < end and _is_edge(text[start]):
        start += 1
    while start < end and _is_edge(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_edge(char: str) -> bool:
    is_punctuation = char in string.punctuation or unicodedata.category(char).startswith("P")
    return is_punctuation or char.isspace()
