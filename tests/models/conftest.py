"""Small weights and what the published code computes with them, see goldens/models/README.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens" / "models"


@pytest.fixture(scope="session")
def goldens() -> Path:
    return GOLDENS


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Return a reader of one file of inputs and outputs, in float32 where it is float16."""

    def read(name: str) -> dict[str, Tensor]:
        tensors = load_file(GOLDENS / f"{name}.safetensors")
        return {
            key: value.float() if value.is_floating_point() else value
            for key, value in tensors.items()
        }

    return read
