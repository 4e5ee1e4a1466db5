import signal
import threading

import pytest

from headstart.interrupt import deferred_interrupt

STOPS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@STOPS
def test_a_first_stop_waits_and_a_second_one_does_not(number: signal.Signals):
    before, reached = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        reached.append(stopped())
        signal.raise_signal(number)
        reached.append("too far")
    assert reached == [True]
    assert signal.getsignal(number) is before


@STOPS
def test_what_was_ignored_still_is(number: signal.Signals):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with deferred_interrupt() as stopped:
            signal.raise_signal(number)
            assert not stopped()
    finally:
        signal.signal(number, before)


def test_another_thread_leaves_the_signals_alone():
    inside = []

    def work() -> None:
        with deferred_interrupt() as stopped:
            inside.append((signal.getsignal(signal.SIGINT), stopped()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(signal.getsignal(signal.SIGINT), False)]
