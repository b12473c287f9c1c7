"""What `video-llama serve` refuses before it loads a model, and how it is told what to allow."""

from __future__ import annotations

import argparse
import importlib.util
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps import serve
from video_llama.apps.serve_errors import ApiError
from video_llama.apps.serve_line import Line
from video_llama.apps.serve_talk import StopStrings
from video_llama.common.errors import ConfigError


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(list(words))


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        serve.main(flags(*words))
    return str(caught.value)


def test_nobody_outside_is_served_and_nothing_is_opened_by_default() -> None:
    args = flags()
    assert (args.host, args.allow_remote, args.allow_origin, args.allow_local_root) == (
        "127.0.0.1",
        False,
        [],
        [],
    )


def test_what_is_not_installed_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name)
    )
    assert refused() == "serving needs uvicorn: pip install 'video-llama[demo]'"


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in refused("--port", str(port))


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert f"--port {port}" in refused(f"--port={port}")


def test_flags_that_mean_nothing_are_refused_together(tmp_path: Path) -> None:
    said = refused(
        "--allow-local-root", str(tmp_path / "missing"), "--max-body-mib=0", "--kept=-1",
        "--decode-timeout-s=-5", "--grace-s=nan", "--kept-mib=inf", "--api-key=",
    )  # fmt: skip
    for problem in (
        f"--allow-local-root {tmp_path / 'missing'}: no such folder",
        "--max-body-mib: 0; expected a number above 0",
        "--kept: -1; expected a number at least 0",
        "--decode-timeout-s: -5; expected a number above 0",
        "--grace-s: nan; expected a number at least 0",
        "--kept-mib: inf; expected a number at least 0",
        "--api-key: empty",
    ):
        assert problem in said


def test_a_model_is_called_after_its_preset_or_its_folder() -> None:
    assert serve.default_name(flags()) == "video_llama/toy"
    assert serve.default_name(flags("--model-path", "output/my_model/")) == "my_model"
    assert serve.default_name(flags("--model-path", ".")) == Path.cwd().name


@given(st.text("ab\n", max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_never_shown_however_the_answer_is_cut(
    text: str, marks: list[str]
) -> None:
    stop = StopStrings(marks)
    shown = ""
    for letter in text:
        shown += stop.push(letter)
        assert not any(mark in shown for mark in marks)
        if stop.found:
            break
    shown += stop.close()
    # Letter by letter, the mark that ends first is met first; of those, the one that is longest.
    ends = [(text.find(mark) + len(mark), -len(mark)) for mark in marks if mark in text]
    if ends:
        end, length = min(ends)
        assert shown == text[: end + length]
    else:
        assert shown == text


def test_who_leaves_takes_its_bytes_along() -> None:
    line = Line(max_waiting=3, max_bytes=100)
    leave = line.enter(90)
    line.enter(5)
    with pytest.raises(ApiError, match="2 requests are inside"):
        line.enter(20)
    leave()
    line.enter(20)


def test_the_guess_of_waiting_follows_the_pace_of_the_last_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = Line(max_waiting=3, max_bytes=100)
    leaves = [line.enter(10) for _ in range(4)]
    now[0] = 40.0
    for leave in leaves:
        leave()
    line.enter(10)
    line.enter(10)
    # 40 s for each of those before, 2 at once now: one is through every 20 s.
    assert line.retry_after_s() == 20
