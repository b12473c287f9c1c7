"""Train and talk to language models that watch and listen.

What is listed in `__all__` is the public API; it is imported when it is first asked for, so that
`import video_llama` costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from video_llama.apps.lavis import (
        Zoo,
        load_dataset,
        load_model,
        load_model_and_preprocess,
        load_preprocess,
        load_processor,
    )
    from video_llama.apps.loading import load_chat
    from video_llama.common.config import load as load_config
    from video_llama.common.registry import registry
    from video_llama.models.video_llm import VideoLLM

    model_zoo: Zoo
    dataset_zoo: Zoo

__all__ = [
    "VideoLLM",
    "dataset_zoo",
    "load_chat",
    "load_config",
    "load_dataset",
    "load_model",
    "load_model_and_preprocess",
    "load_preprocess",
    "load_processor",
    "model_zoo",
    "registry",
]

_HOMES = {
    "VideoLLM": ("video_llama.models.video_llm", "VideoLLM"),
    "load_chat": ("video_llama.apps.loading", "load_chat"),
    "load_config": ("video_llama.common.config", "load"),
    "registry": ("video_llama.common.registry", "registry"),
}
"""Where a public name lives, if not in `apps/lavis`."""

_TABLES = ("model_zoo", "dataset_zoo")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'video_llama' has no attribute '{name}'")
    home, known_as = _HOMES.get(name, ("video_llama.apps.lavis", name))
    value = getattr(importlib.import_module(home), known_as)
    # LAVIS's tables are objects, not functions.
    globals()[name] = value = value() if name in _TABLES else value
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported."""
    return sorted({*globals(), *__all__})
