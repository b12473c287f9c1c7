"""What the demo page says of its model, and the examples it offers for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.common.generation import GenerationSettings
from video_llama.common.package_paths import ROOT
from video_llama.common.types import VideoSpec

if TYPE_CHECKING:
    from video_llama.apps.votes import VoteLog
    from video_llama.conversation.chat import Chat

EXAMPLES = ROOT.parent / "examples"
"""There in a clone; an installed package has none."""


@dataclass(frozen=True)
class Example:
    """A file to click on, and a question to begin with."""

    path: Path
    kind: str
    told: str
    question: str


@dataclass(frozen=True)
class About:
    """What the page says of its model.

    Attributes:
        model: its name.
        template: name of its prompt format.
        settings: of answers, unless a visitor changes them.
        num_frames: frames it was trained with; 0 if it does not see.
        hears: whether it has a branch for sound.
        examples: files to click on.
        votes: the file votes go to; None shows no thumbs.
    """

    model: str
    template: str
    settings: GenerationSettings
    num_frames: int
    hears: bool
    examples: Sequence[Example] = ()
    votes: Path | None = None

    @property
    def most_frames(self) -> int:
        """Frames that may be asked for: a few times those it was trained with, 32 at least."""
        return max(32, 4 * self.num_frames)


OFFERED = (
    ("toy_bounce.mp4", "video", "a clip with sound", "When does it turn back?"),
    ("toy_silent.mp4", "video", "a silent clip", "Which colour comes first?"),
    ("camera_720p.mp4", "video", "a rolling ball, 720p", "What happens?"),
    ("toy_picture.jpg", "picture", "two shapes", "What shape is the red thing?"),
    ("picture.jpg", "picture", "a ball", "What is to be seen?"),
    ("toy_sound.wav", "sound", "slow beeps", "What do you hear?"),
    ("sound.wav", "sound", "a rising tone", "What do you hear?"),
)
"""Files of `examples/` with their kind, a name and a question; the toy world's first."""


def about(chat: Chat, *, model: str, votes: VoteLog | None = None) -> About:
    """Look at a chat's model.

    Args:
        chat: anybody's.
        model: what to call it.
        votes: where votes go.
    """
    branches = {kind: spec for spec in chat.model.branch_specs().values() for kind in spec.media}
    clips = branches["video"].spec if "video" in branches else None
    takes = {"video": "video", "picture": "image", "sound": "audio"}
    return About(
        model=model,
        template=chat.template.name,
        settings=chat.settings,
        num_frames=clips.num_frames if isinstance(clips, VideoSpec) else 0,
        hears="audio" in branches,
        examples=[
            Example(EXAMPLES / name, kind, told, question)
            for name, kind, told, question in OFFERED
            if takes[kind] in branches and (EXAMPLES / name).is_file()
        ],
        votes=None if votes is None else votes.path,
    )
