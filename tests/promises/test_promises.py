"""The promises of the README: each names a file of this folder that is there and has tests."""

from __future__ import annotations

import ast
from pathlib import Path

from pages import README, table

FOLDER = Path(__file__).parent


def named() -> list[str]:
    return [cells[0].strip("`") for cells in table(README, "| promise |").values()]


def functions_of(name: str) -> list[str]:
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_every_promise_is_kept_by_a_file_with_tests():
    names = named()
    assert len(set(names)) == len(names) > 0
    assert all(functions_of(name) for name in names)


def test_every_file_of_promises_is_in_the_readme():
    files = {path.name for path in FOLDER.glob("test_*.py")} - {Path(__file__).name}
    assert files == set(named())


def test_no_promise_is_skipped():
    for name in named():
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not any(word in text for word in ("mark.skip", "pytest.skip", "mark.xfail"))
