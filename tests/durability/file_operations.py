"""What a process does to files, one operation at a time: to stop it there, fail it, or note it."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

CALLS = (
    "write", "pwrite", "ftruncate", "truncate", "fsync", "fdatasync", "replace", "rename",
    "unlink", "remove", "mkdir", "rmdir", "link",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REAL = {name: getattr(os, name) for name in (*CALLS, "open")}

Around = Callable[[int, str, Callable[[], Any], tuple[Any, ...]], Any]
"""(number, name, do it, arguments) of an operation -> what the operation returns."""


@contextmanager
def intercepted(around: Around) -> Iterator[None]:
    """Every operation that changes files goes through ``around``, one at a time."""
    lock = threading.RLock()
    count = 0

    def operation(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name == "open" and not arguments[1] & WRITING:
                return real(*arguments, **options)
            with lock:
                number, count = count, count + 1
                return around(number, name, partial(real, *arguments, **options), arguments)

        return changed

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        nonlocal count
        if isinstance(path, int) or not set(mode) & set("wax+"):
            return real_open(path, mode, *arguments, **options)
        with lock:
            number, count = count, count + 1
            do = partial(real_open, path, mode, *arguments, **options)
            return around(number, "open", do, (path, mode))

    real_open = io.open
    real = {name: getattr(os, name) for name in (*CALLS, "open")}
    try:
        for name, function in real.items():
            setattr(os, name, operation(name, function))
        builtins.open = io.open = opened  # type: ignore[assignment]
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        builtins.open = io.open = real_open


def kill_at(point: int, when: str) -> Around:
    """Kill this process ``before``, ``after`` or, a write, ``half`` through an operation."""

    def around(number: int, name: str, do: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        if number != point:
            return do()
        if when == "after":
            do()
        elif when == "half" and name in ("write", "pwrite"):
            content = bytes(arguments[1])
            REAL[name](arguments[0], content[: len(content) // 2], *arguments[2:])
        die()

    return around


def fail_at(point: int, number_of_error: int = errno.ENOSPC) -> Around:
    """From this operation on, until the block ends, nothing can be written any more."""

    def around(number: int, name: str, do: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        taking = name in ("write", "pwrite", "open", "mkdir", "fsync", "replace", "rename", "link")
        if number < point or not taking:
            return do()
        if name in ("write", "pwrite") and number == point:  # the last bytes that fit
            content = bytes(arguments[1])
            REAL[name](arguments[0], content[: len(content) // 2], *arguments[2:])
        where = [] if isinstance(arguments[0], int) else [str(arguments[0])]
        raise OSError(number_of_error, os.strerror(number_of_error), *where)

    return around


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")
