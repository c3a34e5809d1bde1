"""SIGINT and SIGTERM: at once, or after what must not be torn."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from proxytune.tuning.store.interrupts import check_interrupted, interruptible, uninterrupted

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


def get(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    done.append("after the signal")


def interrupted(work: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        work()


@BOTH
def test_a_signal_ends_what_runs_and_the_handlers_are_those_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    interrupted(lambda: get(number))
    assert not done
    assert signal.getsignal(number) is before


@BOTH
def test_a_signal_waits_for_the_end_of_the_outermost_work(number: signal.Signals) -> None:
    @uninterrupted()
    def work() -> None:
        with uninterrupted():
            get(number)
        done.append("all of the work")

    interrupted(work)
    assert done == ["after the signal", "all of the work"]
    with interruptible(), uninterrupted():
        done.append("nothing was left of it")
    assert len(done) == 3


def test_a_second_signal_does_not_wait() -> None:
    @uninterrupted()
    def work() -> None:
        get(signal.SIGINT)
        get(signal.SIGTERM)

    interrupted(work)
    assert done == ["after the signal"]
    with interruptible(), uninterrupted():
        done.append("nothing was left of it")
    assert len(done) == 2


def test_a_long_wait_can_be_ended_within_the_work() -> None:
    @uninterrupted()
    def work() -> None:
        check_interrupted()
        get(signal.SIGINT)
        check_interrupted()
        done.append("after the wait")

    interrupted(work)
    assert done == ["after the signal"]


def test_an_interruption_is_seen_where_the_work_fails_as_well() -> None:
    @uninterrupted()
    def work() -> None:
        get(signal.SIGINT)
        raise OSError("the disk is full")

    interrupted(work)
    assert done == ["after the signal"]


def test_the_work_of_other_threads_holds_no_signal_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with uninterrupted():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    try:
        interrupted(lambda: get(signal.SIGTERM))
    finally:
        leave.set()
        thread.join()
    assert not done
