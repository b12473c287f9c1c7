"""A request to stop ends a wait, wherever in it the signal arrives."""

from __future__ import annotations

import signal

import pytest

from video_llama.runners.signals import StopRequest


class EndedInAFinalizer:
    """Gets the signal in the middle of being deleted, where Python swallows what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def wait_for_workers_that_are_gone() -> None:
    """Wait as a data loader does whose workers were ended."""
    thing = EndedInAFinalizer()
    del thing
    raise RuntimeError("DataLoader worker (pid(s) 14345) exited unexpectedly")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_request_in_a_finalizer_ends_the_wait_like_any_other():
    with StopRequest() as request:
        assert request.wait_for(wait_for_workers_that_are_gone) is None
        assert request.received is signal.SIGTERM


def test_an_error_of_a_wait_that_nobody_asked_to_stop_is_one():
    def fail() -> None:
        raise RuntimeError("out of memory")

    with StopRequest() as request, pytest.raises(RuntimeError, match="out of memory"):
        request.wait_for(fail)


@pytest.mark.parametrize("count", [0, 7])
def test_a_number_is_added_up_as_long_as_nobody_asked(count):
    with StopRequest() as request:
        assert request.sum_unless_asked(count) == count
        signal.raise_signal(signal.SIGTERM)
        assert request.sum_unless_asked(count) is None
