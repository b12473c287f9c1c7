"""`video-llama chat` with a parrot that speaks slowly, to be run in a terminal of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from parrot import Parrot

from video_llama.apps import loading
from video_llama.apps.main import main

WORDS = "one two three four five six seven eight nine ten eleven twelve"


class SlowParrot(Parrot):
    """Says a token, and thinks."""

    def stream_prompt(self, **prompt: Any) -> Iterator[int]:
        for token_id in super().stream_prompt(**prompt):
            yield token_id
            time.sleep(0.2)


if __name__ == "__main__":
    loading.load_chat = lambda *_source, **_flags: SlowParrot(f"{WORDS}###").chat()
    sys.exit(main(["chat", *sys.argv[1:]]))
