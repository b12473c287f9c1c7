"""The demo page in a real browser, over the toy model that ships: what visitors do and see.

The model can be told to hesitate in the middle of an answer, so that what is seen there is seen for
certain, however fast or slow the machine is. Everything is waited for; nothing is timed.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from video_llama.apps import demo
from video_llama.apps.demo_visits import Visits
from video_llama.apps.loading import load_chat
from video_llama.apps.votes import VoteLog

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
TOY = ROOT / "eval_configs" / "toy" / "shipped.yaml"
EXAMPLES = ROOT / "examples"
CLIP, STAR, PICTURE = (
    EXAMPLES / name for name in ("toy_bounce.mp4", "toy_silent.mp4", "toy_picture.jpg")
)

LONG = "Is the pip in time with the bounce?"
"""The toy model answers it about the clip in a handful of tokens."""

PATIENCE_MS = 120_000
"""Longer than any step takes however busy the machine; nothing here measures speed."""

IDLE = """() => [...document.querySelectorAll('[data-testid=status-tracker]')]
    .every(tracker => tracker.classList.contains('hide'))"""
"""No part of the page waits for the server."""

TWO_FRAMES = "() => new Promise(go_on => requestAnimationFrame(() => requestAnimationFrame(go_on)))"
"""The browser has drawn twice."""


class Breath:
    """Lets a model hold its breath after the second token of an answer when it is told to."""

    def __init__(self, model: Any) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.said: list[int] = []
        self._stream = model.stream_prompt
        model.stream_prompt = self.stream_prompt

    def hold(self) -> None:
        self.go_on.clear()

    def stream_prompt(self, **prompt: Any) -> Iterator[int]:
        self.said = said = []
        for token_id in self._stream(**prompt):
            if len(said) == 2:
                assert self.go_on.wait(PATIENCE_MS / 1000)
            said.append(token_id)
            yield token_id


@dataclass
class Server:
    """The page and what stands behind it."""

    url: str
    breath: Breath
    votes: Path
    files: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    votes = tmp_path_factory.mktemp("demo") / "votes.jsonl"
    chat = load_chat(TOY, decode_timeout_s=120)
    breath = Breath(chat.model)
    with demo.served(chat, model="toy", votes=VoteLog(votes)) as page:
        yield Server(demo.launch(page), breath, votes, Path(page.GRADIO_CACHE))
        breath.go_on.set()


class Tab:
    """A visitor's tab, in a browser context of its own."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.requested: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(url)
        self.settle()

    def settle(self) -> None:
        self.page.locator("#question textarea").wait_for()
        self.page.wait_for_function(IDLE)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click()

    def unfolded(self, part: Any) -> Any:
        """Return a part of an accordion or a tab that was just opened, once it keeps what it gets.

        Gradio makes these parts when they are opened for the first time. One frame after that has
        ended it writes their first values into them again (`render_previously_invisible_children`),
        over anything entered by then: at the latest in the second frame they are there for. That is
        sooner than anybody can reach what they have seen, but not sooner than a script.
        """
        part.wait_for(state="attached")
        self.page.evaluate(TWO_FRAMES)
        return part

    def choose(self, path: Path, *, box: str = "Video") -> None:
        """Choose a file; it is handed over when its box shows it."""
        self.page.get_by_role("tab", name=box).click()
        field = self.unfolded(self.page.locator(f"#{box.lower()} input[type=file]"))
        self.page.wait_for_function(IDLE)
        with self.page.expect_response(lambda response: "/upload?" in response.url):
            field.set_input_files(str(path))
        self.page.locator(f"#{box.lower()} :is(video, img)").wait_for(state="attached")
        self.page.wait_for_function(IDLE)

    def upload(self, path: Path, *, box: str = "Video") -> None:
        self.choose(path, box=box)
        self.press("Upload & start")
        self.page.locator(".saw h4", has_text=path.name).wait_for()
        self.settle()

    def ask(self, question: str) -> None:
        self.page.locator("#question textarea").fill(question)
        self.page.locator("#question textarea").press("Enter")

    def answers(self) -> list[str]:
        return [
            text.strip() for text in self.page.locator("#turns [data-testid=bot]").all_inner_texts()
        ]

    def await_answer(self, number: int) -> str:
        """Wait until the numbered answer is complete and return it."""
        self.page.locator("#status", has_text="tokens").wait_for()
        self.page.wait_for_function(
            f"() => document.querySelectorAll('#turns [data-testid=bot]').length == {number}"
        )
        self.settle()
        return self.answers()[-1]


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Any]:
    """Return a function that opens a tab."""
    contexts = []

    def opened() -> Tab:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
        )
        contexts.append(context)
        return Tab(context, server.url)

    yield opened
    server.breath.go_on.set()
    for context in contexts:
        context.close()


def outside(tab: Tab) -> list[str]:
    """What a tab asked of other machines."""
    inside = re.compile(r"https?://127\.0\.0\.1[:/]|data:|blob:")
    return [url for url in tab.requested if not inside.match(url)]


def test_a_visitor_uploads_a_clip_with_sound_and_asks_twice(visit: Any, server: Server) -> None:
    tab = visit()
    assert tab.page.locator("#question textarea").is_disabled()
    tab.upload(CLIP)
    quarters = [f"{i / 4:.2f} s" for i in range(8)]
    assert tab.page.locator(".frames figcaption").all_inner_texts() == quarters
    assert tab.page.locator(".mels figcaption").all_inner_texts() == quarters
    server.breath.hold()
    tab.ask(LONG)
    tab.page.locator("#turns [data-testid=bot]").wait_for()
    piece = tab.answers()[0]
    server.breath.go_on.set()
    whole = tab.await_answer(1)
    assert whole.startswith(piece)
    assert len(whole) > len(piece) > 0
    tab.ask("What colour is the circle?")
    assert tab.await_answer(2) == "purple"
    assert "known from before" in tab.page.locator("#status").inner_text()
    assert outside(tab) == []


def test_stopping_keeps_what_was_said(visit: Any, server: Server) -> None:
    tab = visit()
    tab.upload(CLIP)
    server.breath.hold()
    tab.ask(LONG)
    tab.page.locator("#turns [data-testid=bot]").wait_for()
    said = tab.answers()[0]
    with tab.page.expect_response(lambda response: "/run/" in response.url):
        tab.press("Stop")
    server.breath.go_on.set()
    stopped = tab.await_answer(1)
    assert stopped.startswith(said)
    assert ", stopped" in tab.page.locator("#status").inner_text()
    assert len(server.breath.said) == 3


def test_clearing_in_the_middle_of_an_answer_leaves_nothing(
    visit: Any, server: Server, tmp_path: Path
) -> None:
    tab = visit()
    # Nobody else has this very file: an mp4 may end in a box of nothing.
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(CLIP.read_bytes() + b"\0\0\0\x08free")
    tab.upload(mine)
    assert list(server.files.rglob("mine.mp4"))
    server.breath.hold()
    tab.ask(LONG)
    tab.page.locator("#turns [data-testid=bot]").wait_for()
    with tab.page.expect_response(lambda response: "/run/" in response.url):
        tab.press("Clear")
    server.breath.go_on.set()
    tab.page.locator("#question textarea:disabled").wait_for()
    assert not list(server.files.rglob("mine.mp4"))
    # The model is free again, and knows nothing of it.
    tab.upload(STAR)
    assert tab.answers() == []
    tab.ask("Which colour comes first?")
    assert tab.await_answer(1) == "yellow"


def test_a_picture_is_uploaded_asked_about_again_and_taken_back(visit: Any) -> None:
    tab = visit()
    tab.upload(PICTURE, box="Picture")
    assert tab.page.locator(".saw figcaption").all_inner_texts() == ["as the model sees it"]
    tab.ask("What shape is the red thing?")
    assert tab.await_answer(1) == "triangle"
    tab.press("Regenerate")
    assert tab.await_answer(1) == "triangle"
    with tab.page.expect_response(lambda response: "/run/" in response.url):
        tab.press("Undo")
    tab.page.locator("#turns [data-testid=bot]").wait_for(state="detached")
    assert tab.page.locator("#question textarea").input_value() == "What shape is the red thing?"


def test_part_of_a_clip_and_other_frames_are_a_matter_of_settings(visit: Any) -> None:
    tab = visit()
    tab.page.get_by_text("Which part of a clip").click()
    tab.unfolded(tab.page.get_by_label("To second")).fill("1")
    frames = tab.unfolded(tab.page.get_by_label("number input for Frames"))
    frames.fill("4")
    frames.press("Enter")
    tab.upload(STAR)
    shown = tab.page.locator(".frames figcaption").all_inner_texts()
    assert shown == ["0.00 s", "0.25 s", "0.50 s", "0.75 s"]


def test_a_file_that_is_no_media_is_explained(visit: Any, tmp_path: Path) -> None:
    tab = visit()
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip")
    tab.choose(path)
    tab.press("Upload & start")
    tab.page.get_by_text("this is text; supported are video: mp4").wait_for()
    assert tab.page.get_by_text(str(tmp_path)).count() == 0
    assert tab.page.locator("#question textarea").is_disabled()
    # One that has no name of a clip either is not even handed over.
    text = tmp_path / "notes.txt"
    text.write_text("not a clip")
    other = visit()
    other.page.get_by_role("tab", name="Video").click()
    other.page.locator("#video input[type=file]").set_input_files(str(text))
    other.page.get_by_text("Invalid file type").wait_for()
    assert not [url for url in other.requested if "/upload?" in url]


def test_an_example_is_one_click_and_brings_a_question(visit: Any) -> None:
    tab = visit()
    tab.page.get_by_role("tab", name="Sound").click()
    tab.unfolded(tab.page.get_by_text("slow beeps")).click()
    tab.page.locator(".mels").wait_for()
    tab.page.wait_for_function("() => document.querySelector('#question textarea').value")
    tab.settle()
    tab.press("Ask")
    assert "slow beeps" in tab.await_answer(1)


def test_what_a_microphone_hears_is_uploaded(visit: Any) -> None:
    tab = visit()
    tab.page.get_by_role("tab", name="Sound").click()
    tab.unfolded(tab.page.get_by_label("Record audio")).click()
    tab.page.locator("#sound .record-button").click()
    # A click at once would end a recording of nothing.
    tab.page.locator("#sound").get_by_text("0:01").first.wait_for()
    tab.page.locator("#sound .stop-button").click()
    tab.page.get_by_label("Play", exact=True).wait_for()
    tab.press("Upload & start")
    tab.page.locator(".saw h4", has_text="audio.wav").wait_for()
    assert outside(tab) == []


def test_two_visitors_at_once_wait_for_each_other_and_get_their_own_answers(
    visit: Any, server: Server
) -> None:
    first, second = visit(), visit()
    first.upload(CLIP)
    second.upload(STAR)
    server.breath.hold()
    first.ask(LONG)
    first.page.locator("#turns [data-testid=bot]").wait_for()
    second.ask("Which colour comes first?")
    second.page.get_by_text("queue: 1/1").wait_for()
    server.breath.go_on.set()
    assert second.await_answer(1) == "yellow"
    assert first.await_answer(1) != "yellow"


def test_closing_the_tab_in_the_middle_of_an_answer_frees_the_model(
    visit: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = visit(), visit()
    left, leave = threading.Event(), Visits.leave

    def noticed(visits: Visits, session: str) -> None:
        leave(visits, session)
        left.set()

    monkeypatch.setattr(Visits, "leave", noticed)
    gone.upload(CLIP)
    stays.upload(STAR)
    server.breath.hold()
    gone.ask(LONG)
    gone.page.locator("#turns [data-testid=bot]").wait_for()
    unheard = server.breath.said
    gone.page.close()
    assert left.wait(PATIENCE_MS / 1000)
    server.breath.go_on.set()
    stays.ask("Which colour comes first?")
    assert stays.await_answer(1) == "yellow"
    assert len(unheard) == 3


def test_a_thumb_is_a_line_in_the_log(visit: Any, server: Server) -> None:
    tab = visit()
    tab.upload(STAR)
    tab.ask("Which colour comes first?")
    tab.await_answer(1)
    with tab.page.expect_response(lambda response: "/queue/data" in response.url):
        tab.page.get_by_label("Like", exact=True).click()
    tab.settle()
    *_, line = server.votes.read_text("utf-8").splitlines()
    vote = json.loads(line)
    assert (vote["verdict"], vote["question"], vote["answer"]) == (
        "up",
        "Which colour comes first?",
        "yellow",
    )


def test_a_program_asks_over_the_page_s_api(server: Server) -> None:
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False, download_files=False)
    clip = {"video": handle_file(str(CLIP)), "picture": None, "sound": None}
    client.predict(**clip, api_name="/start")
    client.predict("What colour is the circle?", api_name="/ask")
    job = client.submit(api_name="/answer")
    turns, *_ = job.result(timeout=PATIENCE_MS / 1000)
    assert turns[-1]["content"][0]["text"] == "purple"
    assert len(job.outputs()) > 1
