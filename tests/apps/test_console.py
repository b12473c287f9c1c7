"""Where tables are printed."""

from __future__ import annotations

from rich.table import Table

from video_llama.apps.console import wide_console


def test_brackets_in_names_and_paths_are_no_markup(capsys):
    table = Table("kind", title="[/set]")
    table.add_row("[/kind]")
    wide_console().print(table, "[red]data/[a].json")
    said = capsys.readouterr().out
    assert all(text in said for text in ("[/set]", "[/kind]", "[red]data/[a].json"))
