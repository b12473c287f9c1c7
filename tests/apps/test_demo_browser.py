"""The demo page in a real browser: what a visitor does, from upload to clear."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parrot import Parrot

from video_llama.apps import demo

pytestmark = pytest.mark.browser


class SlowParrot(Parrot):
    """Speaks slowly enough to be interrupted."""

    def stream_prompt(self, **prompt: Any) -> Iterator[int]:
        for token_id in super().stream_prompt(**prompt):
            time.sleep(0.05)
            yield token_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as api:
        opened = api.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Return a function that serves a parrot's page and opens it."""
    pages = []

    def opened(parrot: Parrot) -> Any:
        served = demo.build_page(parrot.chat(max_new_tokens=300))
        _, url, _ = served.launch(prevent_thread_lock=True, quiet=True)
        tab = browser.new_page(viewport={"width": 1300, "height": 900})
        tab.requested = []
        tab.on("request", lambda request: tab.requested.append(request.url))
        tab.goto(url)
        pages.append((served, tab))
        return tab

    yield opened
    for served, tab in pages:
        tab.close()
        served.close()


def upload(tab: Any, path: Path) -> None:
    tab.locator("input[type=file]").first.set_input_files(str(path))
    tab.get_by_text(path.name).first.wait_for()
    tab.get_by_role("button", name="Upload & start").click()
    tab.wait_for_function("() => !document.querySelector('textarea').disabled")


def ask(tab: Any, question: str) -> None:
    tab.locator("textarea").first.fill(question)
    tab.locator("textarea").first.press("Enter")


def test_a_visitor_uploads_asks_and_clears(visit: Any, sounding_clip: Path, tmp_path: Path) -> None:
    tab = visit(Parrot("a red boat###"))
    assert tab.locator("textarea").first.is_disabled()
    upload(tab, sounding_clip)
    tab.get_by_text("0.8 s").wait_for()
    ask(tab, "What is it?")
    tab.get_by_text("a red boat").wait_for()
    tab.screenshot(path=str(tmp_path / "page.png"))
    tab.get_by_role("button", name="Clear").last.click()
    tab.wait_for_function("() => document.querySelector('textarea').disabled")
    assert tab.get_by_text("a red boat").count() == 0
    outside = [url for url in tab.requested if "127.0.0.1" not in url and url.startswith("http")]
    assert outside == []


def test_emptying_the_conversation_also_makes_the_model_forget(
    visit: Any, sounding_clip: Path
) -> None:
    parrot = Parrot("a red boat###")
    tab = visit(parrot)
    upload(tab, sounding_clip)
    ask(tab, "What is it?")
    tab.get_by_text("a red boat").wait_for()
    # The first such icon empties the upload box, the second the conversation.
    tab.locator("button[aria-label=Clear]").nth(1).click()
    tab.wait_for_function("() => document.querySelector('textarea').disabled")
    upload(tab, sounding_clip)
    ask(tab, "And now?")
    tab.get_by_text("a red boat").wait_for()
    assert "What is it?" not in parrot.last_prompt()


def test_stopping_keeps_what_was_said(visit: Any, sounding_clip: Path) -> None:
    tab = visit(SlowParrot(" ".join(["again"] * 150)))
    upload(tab, sounding_clip)
    ask(tab, "Talk")
    tab.get_by_text("again again again").first.wait_for()
    tab.get_by_role("button", name="Stop").click()
    time.sleep(1)
    said = tab.get_by_text("again again").last.inner_text()
    time.sleep(1)
    assert tab.get_by_text("again again").last.inner_text() == said
    assert 3 <= len(said.split()) < 100


def test_a_file_that_is_no_media_is_explained(visit: Any, tmp_path: Path) -> None:
    tab = visit(Parrot(""))
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip")
    tab.locator("input[type=file]").first.set_input_files(str(path))
    tab.get_by_text("notes.mp4").first.wait_for()
    tab.get_by_role("button", name="Upload & start").click()
    tab.get_by_text("cannot be opened").first.wait_for()
    assert tab.locator("textarea").first.is_disabled()
