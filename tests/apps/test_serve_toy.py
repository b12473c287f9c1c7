"""`video-llama serve` as a process, with the model that ships: nobody is mixed up."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from pages import ROOT, blocks
from promises.hostile_inputs import contents, png
from served import assistant, user

from video_llama.toy.codec import encode_mp4, write_jpg, write_wav
from video_llama.toy.questions import Question, ask, is_correct
from video_llama.toy.render import render_clip, render_frames
from video_llama.toy.scenes import MIRROR_S, Mix, Scene, sample_scene
from video_llama.toy.sound import synthesize

pytestmark = pytest.mark.slow

NUM_PEOPLE = 32
KEY = "open sesame"


@dataclass(frozen=True)
class Host:
    """The running process."""

    url: str
    folder: Path
    log: Path

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=300)

    def health(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/health", timeout=60).json()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("clips")
    log = tmp_path_factory.mktemp("log") / "log.txt"
    flags = ["--port", "0", "--allow-local-root", str(folder), "--kept", "20"]
    flags += ["--max-duration-s", "4", "--max-megapixels", "1", "--max-media-mib", "0.5"]
    environment = {**os.environ, "VIDEO_LLAMA_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with log.open("w") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "video_llama.apps.main", "serve", *flags],
            cwd=ROOT, env=environment, stdout=lines, stderr=lines,
        )  # fmt: skip
    try:
        yield Host(address_in(log, process), folder, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    assert code == 0, log.read_text()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait for the server to say where it is."""
    for _ in range(3000):
        if found := re.search(r"serving video_llama/toy at (http://\S+)/v1", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(log.read_text())


@cache
def scene(index: int) -> Scene:
    """A scene with one thing and a sound that is no pip."""
    return sample_scene(index, seed=11, split="test", mix=Mix(kinds={"single": 1.0}, pip=0.0))


@cache
def clip(index: int) -> dict[str, Any]:
    shown = scene(index)
    content = encode_mp4(render_clip(shown), frames_per_s=8, waveform=synthesize(shown.sound))
    return part("video_url", content)


def part(kind: str, content: bytes) -> dict[str, Any]:
    return {"type": kind, kind: {"url": "data:;base64," + base64.b64encode(content).decode()}}


def question(index: int, kind: str) -> Question:
    return next(asked for asked in ask(scene(index)) if asked.kind == kind)


def create(client: OpenAI, *messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(
        model="video_llama/toy", messages=list(messages), max_tokens=20, **more
    )


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


def talk(client: OpenAI, index: int) -> list[tuple[Question, str]]:
    """Ask about a clip in three rounds, the last one streamed."""
    messages: list[Any] = []
    said = []
    for kind in ("colour", "shape", "sound"):
        asked = question(index, kind)
        messages.append(user(clip(index), asked.question) if not messages else user(asked.question))
        if kind == "sound":
            chunks = create(client, *messages, stream=True)
            answer = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        else:
            answer = text_of(create(client, *messages))
        messages.append(assistant(answer))
        said.append((asked, answer))
    return said


def test_it_sees_and_hears_a_clip(host: Host) -> None:
    for kind in ("colour", "shape", "sound"):
        asked = question(0, kind)
        answer = text_of(create(host.client(), user(clip(0), asked.question)))
        assert is_correct(asked, reply=answer), (asked, answer)


def test_it_sees_a_picture_in_an_open_folder(host: Host) -> None:
    path = host.folder / "picture.jpg"
    write_jpg(path, render_frames(scene(1), times_s=(MIRROR_S,))[0])
    picture = {"type": "image_url", "image_url": {"url": path.as_uri()}}
    asked = question(1, "colour")
    answer = text_of(create(host.client(), user(picture, asked.question)))
    assert is_correct(asked, reply=answer), (asked, answer)


def test_it_hears_a_sound(host: Host) -> None:
    path = host.folder / "sound.wav"
    write_wav(path, synthesize(scene(2).sound), sample_rate_hz=16_000)
    data = base64.b64encode(path.read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    asked = question(2, "sound")
    answer = text_of(create(host.client(), user(sound, asked.question)))
    assert is_correct(asked, reply=answer), (asked, answer)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large.jpg", "1200 x 1000 pixels"),
        ("long.wav", "4 s"),
        ("heavy.wav", "at most 524,288"),
    ],
)
def test_media_beyond_the_limits_are_refused(host: Host, name: str, said: str) -> None:
    path = host.folder / name
    if name.endswith("jpg"):
        write_jpg(path, np.zeros((1000, 1200, 3), dtype=np.uint8))
    else:
        rate_hz = 16_000 if name == "long.wav" else 96_000
        write_wav(path, np.zeros(5 * rate_hz, dtype=np.float32), sample_rate_hz=rate_hz)
    medium = {"type": "audio_url", "audio_url": {"url": path.as_uri()}}
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        create(host.client(), user(medium, "What is it?"))
    assert str(host.folder) not in str(caught.value.body)


def test_hostile_media_are_refused_and_the_next_person_is_served(
    host: Host, tmp_path: Path
) -> None:
    lies = [png(65_535, 65_535), png(0x7FFFFFFF, 0x7FFFFFFF), png(0, 0)]
    files = [each.source for each in contents(tmp_path) if each.may_be == "refused"]
    hostile = [*lies, *files[::2]]
    assert len(hostile) > 15
    client, before = host.client(), host.health()["queue"]
    for content, kind in zip(hostile, cycle(("video_url", "image_url", "audio_url"))):
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, user(part(kind, content), "What is it?"))
        assert isinstance(told := caught.value.body, dict)
        assert told["code"] == "invalid_media"
        assert told["param"] == f"messages[0].content[0].{kind}"
        assert 10 < len(told["message"]) < 2000
    asked = question(4, "colour")
    assert is_correct(asked, reply=text_of(create(client, user(clip(4), asked.question))))
    assert host.health()["queue"] == before


def test_later_rounds_read_only_what_is_new_and_answer_the_same(host: Host) -> None:
    client, asked = host.client(), question(3, "colour").question
    rounds = [user(clip(3), asked), assistant(question(3, "colour").answer)]
    create(client, rounds[0])
    known = create(client, *rounds, user("Which shape is it?"))
    # Frame by frame the same clip, but in a file of its own: nothing of it is known.
    again = part("video_url", base64.b64decode(clip(3)["video_url"]["url"][13:]) + b"\0" * 8)
    unknown = create(client, user(again, asked), rounds[1], user("Which shape is it?"))
    assert known.usage.prompt_tokens == unknown.usage.prompt_tokens
    assert known.usage.prompt_tokens_details.cached_tokens > 20
    assert unknown.usage.prompt_tokens_details.cached_tokens == 0
    assert text_of(known) == text_of(unknown)


def test_many_at_once_get_their_own_answers_in_bounded_memory(host: Host) -> None:
    client = host.client()
    resident = []
    for number, first in enumerate((10, 10, 50, 50)):
        people = NUM_PEOPLE if number == 0 else NUM_PEOPLE // 4
        with ThreadPoolExecutor(people) as pool:
            talks = list(pool.map(lambda i: talk(client, i), range(first, first + people)))
        wrong = [
            (asked, answer)
            for said in talks
            for asked, answer in said
            if not is_correct(asked, reply=answer)
        ]
        assert not wrong
        if number == 0:
            assert len({tuple(answer for _, answer in said) for said in talks}) > 20
        health = host.health()
        assert health["kept"]["conversations"] <= 20
        assert health["kept"]["key_values"] <= 4
        assert health["queue"] == {"inside": 0, "waiting": 0, "max_waiting": 64}
        resident.append(health["memory_gib"]["process"])
    assert resident[-1] - resident[0] < 0.1, resident


def test_the_key_is_asked_for(host: Host) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0).models.list()


def test_the_python_of_the_docs_runs(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = blocks(ROOT / "docs" / "serving.md", "py")
    code = code.replace("http://127.0.0.1:8000", host.url).replace('"none"', repr(KEY))
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out == "late"


def test_the_log_has_a_line_a_request_and_no_fault(host: Host) -> None:
    lines = host.log.read_text()
    assert len(re.findall(r"req_\w+ 127.0.0.1 POST '/v1/chat/completions' 200", lines)) > 100
    assert "Traceback" not in lines
    assert KEY not in lines
