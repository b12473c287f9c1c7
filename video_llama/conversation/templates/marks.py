"""What templates have in common: marks around media, and how text from outside is kept harmless."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from video_llama.common.types import MediaKind
from video_llama.conversation.layouts import Piece, Text

MEDIA_MARKS: Mapping[MediaKind, tuple[str, str]] = {
    "image": ("<Image>", "</Image>"),
    "video": ("<Video>", "</Video>"),
    "audio": ("<Audio>", "</Audio>"),
}
BARE_MEDIA: Mapping[MediaKind, tuple[str, str]] = dict.fromkeys(MEDIA_MARKS, ("", ""))
"""Media that stand in the text without marks."""

PLACEHOLDERS = (
    *("<ImageHere>", "<AudioHere>"),
    *(mark for pair in MEDIA_MARKS.values() for mark in pair),
)
SPECIAL = ("<s>", "</s>", "<unk>")
"""What special tokens look like when spelled out, in vocabularies of the LLaMA family."""


def supervised(text: str) -> tuple[Piece, ...]:
    """Return text that is a target, as a layout wants it."""
    return (Text(text, supervised=True),)


def neutralise(text: str, *, marks: Iterable[str]) -> str:
    """Make the marks of a template harmless in text that came from outside.

    A space goes into every mark, which leaves it readable: "### Title" becomes "## # Title" and
    "</s>" becomes "</s >". Look-alikes that a vocabulary folds into a mark (full-width "#") count
    as the mark. A mark that overlaps itself also gets a space if its beginning ends the text,
    since the template's own mark may follow: "C#" becomes "C# ". Applying it twice is the same as
    once. Half a surrogate pair, which no vocabulary can spell, becomes "?".

    Args:
        text: a question, caption, answer or system text.
        marks: strings to break up, without white space.
    """
    marks = tuple(marks)
    if not text.isascii():  # ASCII has neither half characters nor look-alikes.
        text = text.encode("utf-8", "replace").decode("utf-8")
        folded = unicodedata.normalize("NFKC", text)
        if any(mark in folded and mark not in text for mark in marks):
            text = folded
    # Inserting spaces cannot create a mark, so this ends; the loop is for "####".
    while any(mark in text for mark in marks):
        for mark in marks:
            text = text.replace(mark, f"{mark[:-1]} {mark[-1]}")
    overlapping = (mark for mark in marks if len(mark) > 1 and mark[0] == mark[-1])
    if any(text.endswith(mark[0]) for mark in overlapping):
        text += " "
    return text
