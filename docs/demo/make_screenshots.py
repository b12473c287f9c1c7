"""Take the pictures of the demo page that README and docs show, from the page itself.

    python docs/demo/make_screenshots.py [folder]

Serves the model that ships with the package, talks to it in Chromium (which must be installed, as
must the `dev` extra), and writes conversation.png and narrow.png. Answers are greedy, so what
they show changes only with the page, the model and the fonts of the machine.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from video_llama import load_chat
from video_llama.apps import demo

ROOT = Path(__file__).parents[2]
EXAMPLE = "a clip with sound"
QUESTIONS = ("What colour is the circle?", "When does it turn back?", "When is the pip?")

IDLE = """() => [...document.querySelectorAll('[data-testid=status-tracker]')]
    .every(tracker => tracker.classList.contains('hide'))"""
"""No part of the page waits for the server."""

SETTLED = """() => [...document.querySelectorAll('#turns video, .saw img')]
    .every(shown => shown.complete || shown.readyState == 4)"""
"""All media of the page are there."""

NUM_COLOURS = 256
"""A page has few; so the files stay small."""


def main() -> None:
    """Write all pictures into the folder named on the command line, or next to this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine; install one, e.g. with apt install chromium")
    chat = load_chat(ROOT / "eval_configs" / "toy" / "shipped.yaml")
    with demo.served(chat, model="toy") as page, sync_playwright() as api:
        url = demo.launch(page)
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": 1180, "height": 1085},
            reduced_motion="reduce",
            device_scale_factor=1.25,
        )
        tab.goto(url)
        talk(tab)
        take(tab, folder / "conversation.png")
        tab.set_viewport_size({"width": 430, "height": 1000})
        tab.locator("#turns").scroll_into_view_if_needed()
        take(tab, folder / "narrow.png")
        browser.close()


def talk(tab: Any) -> None:
    """Take an example and ask about it."""
    tab.get_by_text(EXAMPLE, exact=True).click()
    tab.locator(".saw").wait_for()
    for number, question in enumerate(QUESTIONS, start=1):
        tab.wait_for_function(IDLE)
        tab.locator("#question textarea").fill(question)
        tab.locator("#question textarea").press("Enter")
        tab.wait_for_function(
            "number => document.querySelectorAll('#turns [data-testid=bot]').length == number"
            " && document.querySelector('#status').innerText.includes('tokens')",
            arg=number,
        )


def take(tab: Any, path: Path) -> None:
    """Write what the window shows."""
    tab.wait_for_function(IDLE)
    tab.wait_for_function(SETTLED)
    tab.mouse.move(0, 0)
    tab.evaluate("() => document.activeElement.blur()")
    picture = Image.open(io.BytesIO(tab.screenshot()))
    picture.convert("RGB").quantize(NUM_COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
