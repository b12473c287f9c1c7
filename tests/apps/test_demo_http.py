"""What a program may make the demo page do over HTTP that no button of the page does."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parrot import Parrot

from video_llama.apps import demo

EXAMPLES = Path(__file__).parents[2] / "examples"


class Page:
    """A served page and the number of its function `start`."""

    def __init__(self, url: str) -> None:
        self.api = f"{url}gradio_api/"
        config = json.loads(urllib.request.urlopen(f"{url}config").read())
        (self.start_id,) = (
            function["id"] for function in config["dependencies"] if function["api_name"] == "start"
        )

    def start(self, path: Path, *, session: str, frames: Any = 4) -> dict[str, Any]:
        """Name a path as if it were an upload; return what comes of it.

        The box for pictures is the one where Gradio itself does not look where a path leads.
        """
        body = {
            "data": [None, {"path": str(path)}, None, 0, 0, frames, True],
            "fn_index": self.start_id,
            "session_hash": session,
        }
        request = urllib.request.Request(
            f"{self.api}queue/join",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).read()
        address = f"{self.api}queue/data?session_hash={session}"
        with urllib.request.urlopen(address, timeout=60) as events:
            done = next(line for line in events if b"process_completed" in line)
        return dict(json.loads(done.decode().removeprefix("data: ")))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with demo.served(Parrot("a boat###").chat(), model="parrot") as blocks:
        yield Page(demo.launch(blocks))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_bounce.mp4", "toy_picture.jpg", "toy_sound.wav"])
def test_a_file_of_the_server_that_nobody_uploaded_is_not_shown(
    page: Page, tmp_path: Path, name: str
) -> None:
    private = tmp_path / f"private-{name}"
    shutil.copy(EXAMPLES / name, private)
    got = page.start(private, session=f"private-{name}")
    assert not got["success"]
    assert "is not here any more; choose it again" in got["output"]["error"]


@pytest.mark.slow
def test_an_example_is_shown_to_a_program_too(page: Page) -> None:
    got = page.start(EXAMPLES / "toy_picture.jpg", session="example")
    assert got["success"]
    assert "as the model sees it" in json.dumps(got["output"]["data"])


@pytest.mark.slow
@pytest.mark.parametrize("frames", [33, 10**7, 0, -3, 2.5, "many"])
def test_frames_that_the_slider_does_not_have_are_refused(page: Page, frames: Any) -> None:
    got = page.start(EXAMPLES / "toy_bounce.mp4", session=f"frames-{frames}", frames=frames)
    assert got["output"]["error"] == f"frames: {frames}, expected a whole number from 1 to 32"


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "count"), [(None, 4), (4, 4), (2, 2)])
def test_frames_that_it_has_are_what_the_model_sees(
    page: Page, frames: int | None, count: int
) -> None:
    got = page.start(EXAMPLES / "toy_silent.mp4", session=f"some-{frames}", frames=frames)
    assert json.dumps(got["output"]["data"]).count("<figcaption>") == count
