"""Tell which tests a marker expression left out, so that a green run never hides one.

Told at the end of the run that left them out: to collect all tests once more would take as long
as many of them. Of several processes that share the tests every one collects all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


class LeftOut:
    """Lists the tests that were deselected.

    Args:
        config: of this process.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._names: list[str] | None = None

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._names = (self._names or []) + [item.nodeid for item in items]

    def pytest_sessionfinish(self) -> None:
        """Hand the names to the process that writes the summary, if this one does not."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["left_out"] = self._names or []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the names from one of the processes that share the tests."""
        self._names = getattr(node, "workeroutput", {}).get("left_out", self._names)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        names = self._names
        if names is None and not self._config.pluginmanager.hasplugin("dsession"):
            names = []  # one process, and -m fits all
        options = self._config.option
        why = " and ".join(filter(None, (options.markexpr, options.keyword)))
        number = "nobody knows how many" if names is None else len(names)
        terminalreporter.write_line(f"left out ({why}): {number} tests")
        for name in sorted(names or []):
            terminalreporter.write_line(f"  {name}")
