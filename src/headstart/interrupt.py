"""Being stopped where nothing is lost by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, a first Ctrl-C or SIGTERM waits until one asks for it; a second one does not.

    Signals that were ignored still are, and other threads than the main one never get any.

    Yields:
        Whether to stop. Who is told so keeps what is to be kept, and raises KeyboardInterrupt.
    """
    asked = False

    def ask(_signal: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {n: h for n, h in before.items() if in_main and h not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
