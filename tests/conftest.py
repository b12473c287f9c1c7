"""What tests of several folders share."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from left_out import LeftOut

from video_llama.common.logger import get_logger

# An example that takes long on a busy machine is no fault.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tell-left-out", action="store_true", help="list the tests that -m left out at the end"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("tell_left_out", default=False):
        config.pluginmanager.register(LeftOut(config))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from a million objects that stay: all modules and tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, or one worker would wait for the last of them."""
    long_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long_files)


@pytest.fixture(autouse=True)
def _untouched_log() -> Iterator[None]:
    """Give every test the log of a library that nobody started, whatever ran before it."""
    logger = get_logger()
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers[:] = []
    logger.propagate = True
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture(scope="session")
def sounding_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of 64 x 64 pixels at 8 fps with a tone; frame i is grey of value 20 * i."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    with av.open(str(path), mode="w") as container:
        video = container.add_stream("libx264", rate=8)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(8):
            picture = np.full((64, 64, 3), 20 * i, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
        frame = av.AudioFrame.from_ndarray(
            wave.astype(np.float32)[None], format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path
