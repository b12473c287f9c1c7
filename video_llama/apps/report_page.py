"""Pages of results: templates of this folder filled in, with one style for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from video_llama.common.errors import VideoLlamaError


def render_page(template: str, *, values: Mapping[str, Any]) -> str:
    """Fill in a template; texts are escaped.

    Args:
        template: name of a file in this folder; it may include others of it.
        values: by the names the template uses.

    Raises:
        VideoLlamaError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader
    except ImportError as error:
        raise VideoLlamaError(
            "a page of results is written with jinja2, which is not installed: "
            "pip install 'video-llama[eval]'"
        ) from error
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)


def _source(name: str) -> str:
    return (resources.files("video_llama.apps") / name).read_text(encoding="utf-8")
