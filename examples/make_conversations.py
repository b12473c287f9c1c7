"""Ask the model that ships with the package about the examples, and put the answers into the pages.

    python examples/make_conversations.py

Writes between the marks of README.md and docs/chat.md, and nothing else. Answers are greedy, so a
second call changes nothing; a test tells when the pages are not what the model says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video_llama import load_chat
from video_llama.common.types import MediaItem
from video_llama.conversation.chat import Chat

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "chat.md")
BEGIN, END = "<!-- conversations -->\n", "<!-- /conversations -->\n"
TOY = ROOT / "eval_configs" / "toy" / "shipped.yaml"


@dataclass(frozen=True)
class Conversation:
    """One conversation about one file.

    Attributes:
        name: of the file in this folder.
        questions: asked one after the other, each with all that was said before.
    """

    name: str
    questions: tuple[str, ...]


CONVERSATIONS = (
    Conversation(
        "toy_bounce.mp4",
        (
            "What colour is the circle?",
            "When does it turn back?",
            "Is the pip in time with the bounce?",
        ),
    ),
    Conversation(
        "toy_silent.mp4",
        ("Which colour comes first?", "Which colour comes last?", "When does it change colour?"),
    ),
    Conversation(
        "toy_picture.jpg",
        (
            "How many things do you see?",
            "What shape is the red thing?",
            "What colour is the square?",
        ),
    ),
    Conversation("toy_sound.wav", ("What do you hear?", "Is the sound low or high?")),
)


def main() -> None:
    """Hold the conversations and write them into the pages."""
    text = hold_conversations(load_chat(TOY))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), text), encoding="utf-8")


def hold_conversations(chat: Chat) -> str:
    """Ask everything and return what the pages show."""
    told = []
    for conversation in CONVERSATIONS:
        chat.reset()
        upload = chat.upload(ROOT / "examples" / conversation.name)
        seen = "; ".join(describe(item) for item in upload.items)
        told.append(f"examples/{conversation.name}  ({seen})")
        width = max(map(len, conversation.questions))
        told += [f"  {text:<{width}}  {chat.ask(text)}" for text in conversation.questions]
    return "```text\n" + "\n".join(told) + "\n```\n"


def describe(item: MediaItem) -> str:
    """Say what the model got of a file."""
    if item.kind == "image":
        return "a picture"
    steps = "frames" if item.kind == "video" else "pieces of sound"
    return f"{len(item.times_s)} {steps} from {item.times_s[0]:.2f} to {item.times_s[-1]:.2f} s"


def filled(page: str, text: str) -> str:
    """Return a page with other words between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{text}{END}{after}"


if __name__ == "__main__":
    main()
