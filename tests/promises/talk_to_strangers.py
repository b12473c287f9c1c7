"""A process with one model that is given hostile inputs one after the other.

    python -m promises.talk_to_strangers FOLDER FIRST

Hands `hostile_inputs` from number FIRST on to a chat over the toy model, whose uploads are read in
a child. A line is written before an input and one after it, so that whoever listens knows the
input that ended or stopped the process. After every input a well-behaved person is served; the
first line tells how that is before anybody else came. Every now and then the child is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from promises.hostile_inputs import Hostile, hostile_inputs

from video_llama.apps.loading import load_chat
from video_llama.common.errors import VideoLlamaError
from video_llama.conversation.chat import Chat
from video_llama.processors.limits import MediaLimits

REPOSITORY = Path(__file__).parents[2]
RUN_FILE = REPOSITORY / "eval_configs" / "toy" / "shipped.yaml"
LIMITS = MediaLimits(max_duration_s=60.0, max_pixels=4096 * 4096, max_bytes=32 << 20)
TIMEOUT_S = 30.0
KILLED_EVERY = 50
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def outcome_of(hostile: Hostile, chat: Chat) -> str:
    """Hand it over; a refusal must be one that a person can be shown."""
    try:
        if hostile.source is not None:
            upload = chat.upload(hostile.source, **hostile.wanted)
            for item in upload.items:
                tensor = item.mel if item.kind == "audio" else item.pixels
                assert tensor.isfinite().all(), "a tensor is not finite"
        answer = chat.ask(hostile.question)
        json.dumps(answer, ensure_ascii=False).encode()
    except VideoLlamaError as refusal:
        text = str(refusal)
        json.dumps(text, ensure_ascii=False).encode()
        assert 10 < len(text) < 2000, f"a refusal of {len(text)} characters"
        return f"refused: {text}"
    return "served"


def descendants(pid: int) -> list[int]:
    """List the processes below one, those that ended and were not taken leave of included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid:
                found += [int(path.parent.name), *descendants(int(path.parent.name))]
    return found


def main() -> None:
    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    chat = load_chat(RUN_FILE, limits=LIMITS, decode_timeout_s=TIMEOUT_S)
    chat.settings = dataclasses.replace(chat.settings, max_new_tokens=3)
    inputs = list(hostile_inputs(folder))
    clip = folder / "clip.mp4"
    print(json.dumps(state_after(chat, clip=clip)), flush=True)
    for number, hostile in enumerate(inputs[first:], first):
        print(json.dumps({"number": number, "name": hostile.name}), flush=True)
        if number % KILLED_EVERY == 0:
            kill_child()
        started_s = time.monotonic()
        try:
            outcome = outcome_of(hostile, chat.another())
        except Exception as error:  # noqa: BLE001 - which error it is, is what is asked
            outcome = f"{type(error).__name__}: {error!a}"
        done = {
            "outcome": outcome, "may_be": hostile.may_be, "taken_s": time.monotonic() - started_s
        }  # fmt: skip
        print(json.dumps(done | state_after(chat, clip=clip)), flush=True)


def kill_child() -> None:
    """Kill the process that decodes, and wait until it is gone."""
    child = descendants(os.getpid())[-1]
    os.kill(child, signal.SIGKILL)
    while child in descendants(os.getpid()):
        time.sleep(0.01)


def state_after(chat: Chat, *, clip: Path) -> dict[str, object]:
    """Serve a well-behaved person, and say how things are then."""
    person = chat.another()
    person.upload(clip)
    return {
        "answer": person.ask("What happens?"),
        "num_open": len(list(Path("/proc/self/fd").iterdir())),
        "num_processes": len(descendants(os.getpid())),
        "memory_mb": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB,
        "left": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
    }


if __name__ == "__main__":
    main()
