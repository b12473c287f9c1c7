"""`model.released`: a folder as it was published stands for the paths of all its pieces."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from video_llama.common.registry import registry

KEY = "released"


def take_released(model: dict[str, Any], *, on_command_line: Collection[str]) -> dict[str, Any]:
    """Put the pieces of a released folder into a `model` section.

    A folder named on the command line wins over the run file; one named in the run file leaves
    the keys beside it as they are. Single keys on the command line always win.

    Args:
        model: the section with overrides, without its preset.
        on_command_line: dotted keys of the overrides.

    Raises:
        ConfigError: it is no such folder, or holds a piece twice.
        UnknownName: nobody knows folders of this arch.
    """
    directory = model.get(KEY)
    if directory is None:
        return model
    given = {key.removeprefix("model.").split(".")[0] for key in on_command_line}
    kept = given if KEY in given else {key for key, value in model.items() if value is not None}
    find = registry.get("released_folder", str(model.get("arch")))
    return {**model, **find(str(directory), model, skip=kept)}
