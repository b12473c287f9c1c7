"""Readers of the published numbers, and a table of how far ours are from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import LARGEST
from safetensors.torch import load_file
from tiny_released import shared_model
from torch import Tensor

from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="session")
def tensors() -> Callable[[str], dict[str, Tensor]]:
    """Return a reader of one file, e.g. "models/encode_video"; float16 inputs come as float32."""

    def read(name: str) -> dict[str, Tensor]:
        return {
            key: value.float() if value.dtype is torch.float16 else value
            for key, value in load_file(GOLDENS / f"{name}.safetensors").items()
        }

    return read


@pytest.fixture(scope="session")
def record() -> Callable[[str], Any]:
    """Return a reader of one file of texts and numbers, e.g. "training/losses"."""
    return lambda name: json.loads((GOLDENS / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(GOLDENS / "conversation" / "llama")


@pytest.fixture(scope="session", autouse=True)
def _models_are_let_go() -> Any:
    yield
    shared_model.cache_clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the largest error of every kind, which docs/parity.md repeats."""
    if LARGEST and terminalreporter.config.get_verbosity() >= 0:
        terminalreporter.section("largest relative errors")
        for kind, error in sorted(LARGEST.items()):
            terminalreporter.write_line(f"{error:.1e}  {kind}")
