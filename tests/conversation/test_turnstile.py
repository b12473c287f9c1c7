from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from video_llama.conversation.turnstile import Turnstile

PATIENCE_S = 20.0
"""Longer than anything here takes however busy the machine."""


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, "never came about"
        time.sleep(0.005)


def stand_in_line(line: Turnstile, name: str, served: list[str]) -> threading.Thread:
    def work() -> None:
        with line.turn(name):
            served.append(name)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: name in served or line.position(name) is not None)
    return thread


def test_people_are_served_in_order_of_arrival() -> None:
    line, served = Turnstile(), []
    with line.turn("first"):
        threads = [stand_in_line(line, name, served) for name in ("b", "a", "c")]
        assert [line.position(name) for name in ("first", "b", "a", "c")] == [0, 1, 2, 3]
        assert served == []
    for thread in threads:
        thread.join(PATIENCE_S)
    assert served == ["b", "a", "c"]
    assert line.position("a") is None


def test_only_one_at_a_time_is_served() -> None:
    line, inside, most = Turnstile(), [], []

    def work(number: int) -> None:
        for _ in range(20):
            with line.turn(number):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == [1] * 160


def test_a_failure_inside_frees_the_turnstile() -> None:
    line = Turnstile()
    with pytest.raises(RuntimeError, match="broken"), line.turn("a"):
        raise RuntimeError("broken")
    with line.turn("b") as turn:
        assert turn.granted


def test_who_gives_up_leaves_the_line() -> None:
    line, enough, granted = Turnstile(), threading.Event(), []

    def work() -> None:
        with line.turn("b", given_up=enough.is_set) as turn:
            granted.append(turn.granted)

    with line.turn("a"):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        wait_until(lambda: line.position("b") == 1)
        enough.set()
        line.wake()
        thread.join(PATIENCE_S)
        assert granted == [False]
        assert line.position("b") is None


def test_a_turn_that_is_lent_too_long_is_overtaken_and_comes_again() -> None:
    line = Turnstile(patience_s=0.0)
    with line.turn("slow") as slow:
        with line.lent(slow):
            with line.turn("next") as quick:
                assert quick.granted
                assert not slow.granted
            assert line.position("slow") is None
        assert slow.granted
        assert line.position("slow") == 0


def test_an_overtaken_turn_waits_for_the_one_that_overtook() -> None:
    line, order = Turnstile(patience_s=0.0), []
    overtakes, may_go = threading.Event(), threading.Event()

    def overtake() -> None:
        with line.turn("next"):
            overtakes.set()
            may_go.wait(PATIENCE_S)
            order.append("next")

    with line.turn("slow") as slow:
        with line.lent(slow):
            thread = threading.Thread(target=overtake, daemon=True)
            thread.start()
            assert overtakes.wait(PATIENCE_S)
            threading.Timer(0.05, may_go.set).start()
        order.append("slow")
    assert order == ["next", "slow"]


def test_an_overtaken_turn_comes_before_those_who_stood_behind_it() -> None:
    line, served = Turnstile(patience_s=0.0), []
    overtakes, may_go = threading.Event(), threading.Event()

    def overtake() -> None:
        with line.turn("next"):
            overtakes.set()
            may_go.wait(PATIENCE_S)
            served.append("next")

    with line.turn("slow") as slow:
        with line.lent(slow):
            first = threading.Thread(target=overtake, daemon=True)
            first.start()
            assert overtakes.wait(PATIENCE_S)
            last = stand_in_line(line, "behind", served)
            threading.Timer(0.05, may_go.set).start()
        served.append("slow")
    first.join(PATIENCE_S)
    last.join(PATIENCE_S)
    assert served == ["next", "slow", "behind"]


def test_a_turn_in_use_is_never_overtaken() -> None:
    line, served = Turnstile(patience_s=0.0), []
    with line.turn("a") as turn:
        with line.lent(turn):
            pass
        thread = stand_in_line(line, "b", served)
        time.sleep(0.5)
        assert served == []
    thread.join(PATIENCE_S)
    assert served == ["b"]
