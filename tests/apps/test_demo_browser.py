"""The demo page in a real browser: what a visitor does, from upload to clear."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parrot import Parrot

from video_llama.apps import demo

pytestmark = pytest.mark.browser

PATIENCE_MS = 120_000
"""Longer than any step takes however busy the machine; nothing here measures speed."""

IDLE = """() => [...document.querySelectorAll('[data-testid=status-tracker]')]
    .every(tracker => tracker.classList.contains('hide'))"""
"""No part of the page waits for the server."""


class HesitantParrot(Parrot):
    """Says a dozen tokens, and the rest when it is told to go on."""

    def __init__(self) -> None:
        super().__init__(" ".join(["again"] * 50))
        self.go_on = threading.Event()
        self.said: list[int] = []

    def stream_prompt(self, **prompt: Any) -> Iterator[int]:
        for token_id in super().stream_prompt(**prompt):
            if len(self.said) == 12:
                self.go_on.wait(PATIENCE_MS / 1000)
            self.said.append(token_id)
            yield token_id


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Return a function that serves a parrot's page and opens it."""
    pages = []

    def opened(parrot: Parrot) -> Any:
        served = demo.build_page(parrot.chat(max_new_tokens=300))
        _, url, _ = served.launch(prevent_thread_lock=True, quiet=True)
        tab = browser.new_page(viewport={"width": 1300, "height": 900}, reduced_motion="reduce")
        tab.set_default_timeout(PATIENCE_MS)
        tab.requested = []
        tab.on("request", lambda request: tab.requested.append(request.url))
        tab.goto(url)
        pages.append((served, tab))
        return tab

    yield opened
    for served, tab in pages:
        tab.close()
        served.close()


def hand_over(tab: Any, path: Path) -> None:
    """Choose a file, wait until the server has it (its name is shown before), and start."""
    tab.locator("input[type=file]").first.set_input_files(str(path))
    tab.locator(f"a[download='{path.name}']").wait_for()
    tab.get_by_role("button", name="Upload & start").click()


def upload(tab: Any, path: Path) -> None:
    hand_over(tab, path)
    tab.wait_for_function("() => !document.querySelector('textarea').disabled")


def ask(tab: Any, question: str) -> None:
    tab.locator("textarea").first.fill(question)
    tab.locator("textarea").first.press("Enter")


def await_answer(tab: Any, words: str) -> None:
    tab.get_by_text(words).first.wait_for()
    tab.wait_for_function(IDLE)


def test_a_visitor_uploads_asks_and_clears(visit: Any, sounding_clip: Path, tmp_path: Path) -> None:
    tab = visit(Parrot("a red boat###"))
    assert tab.locator("textarea").first.is_disabled()
    upload(tab, sounding_clip)
    tab.get_by_text("0.8 s").wait_for()
    ask(tab, "What is it?")
    await_answer(tab, "a red boat")
    tab.screenshot(path=str(tmp_path / "page.png"))
    tab.get_by_role("button", name="Clear").last.click()
    tab.get_by_text("a red boat").wait_for(state="detached")
    assert tab.locator("textarea").first.is_disabled()
    outside = [url for url in tab.requested if "127.0.0.1" not in url and url.startswith("http")]
    assert outside == []


def test_emptying_the_conversation_also_makes_the_model_forget(
    visit: Any, sounding_clip: Path
) -> None:
    parrot = Parrot("a red boat###")
    tab = visit(parrot)
    upload(tab, sounding_clip)
    ask(tab, "What is it?")
    await_answer(tab, "a red boat")
    # The first such icon empties the upload box, the second the conversation.
    tab.locator("button[aria-label=Clear]").nth(1).click()
    tab.wait_for_function("() => document.querySelector('textarea').disabled")
    upload(tab, sounding_clip)
    ask(tab, "And now?")
    await_answer(tab, "a red boat")
    assert "What is it?" not in parrot.last_prompt()


def interrupt(tab: Any, parrot: HesitantParrot, *, button: str, heard: Any) -> None:
    """Press a button in the middle of an answer; the parrot speaks on as soon as it is heard."""
    ask(tab, "Talk")
    tab.get_by_text("again again again").first.wait_for()
    with heard:
        tab.get_by_role("button", name=button).last.click()
    parrot.go_on.set()


def test_stopping_keeps_what_was_said(visit: Any, sounding_clip: Path) -> None:
    parrot = HesitantParrot()
    tab = visit(parrot)
    upload(tab, sounding_clip)
    interrupt(tab, parrot, button="Stop", heard=tab.expect_response("**/run/**"))
    tab.wait_for_function(IDLE)
    said = tab.get_by_text("again again").last.inner_text()
    assert said == parrot.tokenizer.decode(parrot.said)
    assert len(said) < len(parrot.says)


def test_clearing_in_the_middle_of_an_answer_leaves_nothing_of_it(
    visit: Any, sounding_clip: Path
) -> None:
    parrot = HesitantParrot()
    tab = visit(parrot)
    upload(tab, sounding_clip)
    interrupt(tab, parrot, button="Clear", heard=tab.expect_request("**/cancel"))
    # It waits for the model, which is free when the answer has come to its end.
    upload(tab, sounding_clip)
    assert tab.get_by_text("again").count() == 0
    ask(tab, "And now?")
    await_answer(tab, "again again again")
    assert "Talk" not in parrot.last_prompt()


def test_a_file_that_is_no_media_is_explained(visit: Any, tmp_path: Path) -> None:
    tab = visit(Parrot(""))
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip")
    hand_over(tab, path)
    tab.get_by_text("cannot be opened").first.wait_for()
    assert tab.locator("textarea").first.is_disabled()
