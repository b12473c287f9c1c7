"""The exceptions a caller of this package may want to catch, and nothing else.

Every one derives from `VideoLlamaError`; the command line turns them into a message and exit
code 2, so their text must say what was found, what was expected, where, and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PATH = 1000
"""Characters of a path that stand in a message whole."""


class VideoLlamaError(ValueError):
    """Anything a user can cure: a file, a key, a checkpoint, a clip."""


class ConfigError(VideoLlamaError):
    """One or more mistakes in a run file; all of them are shown together.

    Args:
        problems: one full sentence per mistake, each opening with the dotted key it is about.
        where: the file the keys stand in, if there is one.
    """

    def __init__(self, problems: str | Sequence[str], *, where: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.where = where
        head = f"{where}: " if where else ""
        if len(self.problems) == 1:
            text = head + self.problems[0]
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            text = f"{head}{len(self.problems)} problems\n{lines}"
        super().__init__(text)


class UnknownName(ConfigError):
    """A registry was asked for a name nobody registered; the text lists the known ones."""


class MediaError(VideoLlamaError):
    """A picture, clip or sound cannot be used.

    Args:
        reason: what is wrong, e.g. "no video stream".
        path: the file, put in front of the reason.
    """

    def __init__(self, reason: str, *, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        where = f"{printable(_shortened(path))}: " if path else ""
        # A reason may list several things, one a line.
        super().__init__(where + "\n".join(map(printable, reason.split("\n"))))

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (data workers); the default would lose the keyword.
        return _rebuild_media_error, (self.reason, self.path)


class CheckpointMismatch(VideoLlamaError):
    """Weights and the model they are meant for do not cover each other."""


class ContextOverflow(VideoLlamaError):
    """Text and media slots together do not fit the decoder's context."""


class NothingToLearn(ContextOverflow):
    """No token of a training sample that is left in its context is a target.

    Skipped and counted like one that does not fit: its loss would be 0 / 0.
    """


def printable(text: str) -> str:
    """Return a text of one line that any terminal, log and JSON takes.

    Args:
        text: with names that somebody else chose; line ends, control characters, marks that turn
            the direction of reading, and halves of characters come back as escapes.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shortened(path: str) -> str:
    """Return a path, or beginning and end of one that would fill a screen."""
    return path if len(path) <= LONGEST_PATH else f"{path[:150]}...{path[-150:]}"


def _rebuild_media_error(reason: str, path: str | None) -> MediaError:
    return MediaError(reason, path=path)
