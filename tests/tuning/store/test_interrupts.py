"""SIGINT and SIGTERM interrupt immediately, or after an uninterruptible section."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from proxytune.tuning.store.interrupts import check_interrupted, interruptible, uninterrupted

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
done: list[str] = []


@pytest.fixture(autouse=True)
def _clear_done() -> None:
    done.clear()


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    done.append("after the signal")


def assert_interrupted(section: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        section()


@BOTH
def test_signal_interrupts_and_previous_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert_interrupted(lambda: send(number))
    assert not done
    assert signal.getsignal(number) is before


@BOTH
def test_signal_is_deferred_until_the_outermost_section_ends(number: signal.Signals) -> None:
    @uninterrupted()
    def section() -> None:
        with uninterrupted():
            send(number)
        done.append("end of the section")

    assert_interrupted(section)
    assert done == ["after the signal", "end of the section"]
    with interruptible(), uninterrupted():
        done.append("no signal is pending")
    assert len(done) == 3


def test_second_signal_interrupts_immediately() -> None:
    @uninterrupted()
    def section() -> None:
        send(signal.SIGINT)
        send(signal.SIGTERM)

    assert_interrupted(section)
    assert done == ["after the signal"]
    with interruptible(), uninterrupted():
        done.append("no signal is pending")
    assert len(done) == 2


def test_check_interrupted_raises_for_a_deferred_signal() -> None:
    @uninterrupted()
    def section() -> None:
        check_interrupted()
        send(signal.SIGINT)
        check_interrupted()
        done.append("after the wait")

    assert_interrupted(section)
    assert done == ["after the signal"]


def test_deferred_signal_is_raised_even_if_the_section_fails() -> None:
    @uninterrupted()
    def section() -> None:
        send(signal.SIGINT)
        raise OSError("the disk is full")

    assert_interrupted(section)
    assert done == ["after the signal"]


def test_section_in_another_thread_does_not_defer_signals() -> None:
    entered, release = threading.Event(), threading.Event()

    def section() -> None:
        with uninterrupted():
            entered.set()
            release.wait()

    thread = threading.Thread(target=section)
    thread.start()
    entered.wait()
    try:
        assert_interrupted(lambda: send(signal.SIGTERM))
    finally:
        release.set()
        thread.join()
    assert not done
