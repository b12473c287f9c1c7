"""Bars of jobs side by side: as many as a terminal can hold."""

import io

from rich.console import Console

from video_llama.apps.lanes_board import Board

MANY = [f"cell_{number:02}" for number in range(60)]


def shown(names, act):
    """What stands on the screen in the end, a line per bar."""
    file = io.StringIO()
    board = Board(names, console=Console(file=file, width=120, force_terminal=False))
    with board:
        act(board)
        file.truncate(0)
    return [line.strip() for line in file.getvalue().strip("\0").splitlines() if line.strip()]


def start(board, *positions):
    for position in positions:
        board.show(position, name="align", done=1, size=2)


def test_few_bars_are_shown_from_beginning_to_end():
    def act(board):
        start(board, 0)
        board.finish(0)

    lines = shown(["a", "b"], act)
    assert [line.split()[0] for line in lines] == ["a", "b"]


def test_of_many_bars_those_of_running_and_failed_jobs_are_shown_below_one_of_all():
    def act(board):
        start(board, 0, 1, 2, 3)
        board.finish(1)
        board.fail(2, "exit code 1")

    lines = shown(MANY, act)
    assert [line.split()[0] for line in lines] == ["all", "cell_00", "cell_02", "cell_03"]
    # One is done, and three are halfway: 2.5 of 60.
    assert "4%" in lines[0]
    assert lines[0].endswith("1 failed")


def test_bars_of_many_failed_jobs_make_room_for_those_that_run():
    def act(board):
        start(board, *range(60))
        for position in range(59):
            board.fail(position, "exit code 1")

    lines = shown(MANY, act)
    assert [line.split()[0] for line in lines] == [
        "all", "cell_00", "cell_01", "cell_02", "cell_03", "cell_59",
    ]  # fmt: skip
    assert lines[0].endswith("59 failed")
