"""Parsers of untrusted files, run in a child process with bounded memory.

Parquet, HDF5, mp4 and images are parsed by C code. A file made to break such a parser, or one the
disk has spoiled, then ends the child and not the user's process::

    problems = guarded("headstart.data.tools:verify", {"root": "runs/first/data"})

Calls and results travel through pipes as JSON, a line each; what the child prints is shown.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from headstart.config import to_json

MEMORY_BYTES = 4 * 2**30
TIMEOUT_S = 120.0
_MOST_CHARACTERS = 500  # of a message


def guarded(
    entry: str,
    arguments: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Any:
    """Call a function in a child process, and return what it returned, as JSON values.

    Args:
        entry: ``module:function``, a public one of any module.
        arguments: its keyword arguments, as for ``config.to_json``. Strings become ``Path`` where
            the function's annotation says so. The first argument names the call in messages, so
            let it be the path of what is parsed.
        timeout_s: how long the child may go without reading or writing a byte [s]; where the
            system does not count those (macOS), how long the call may take.
        memory_bytes: private memory that the child may have. Files it maps are not counted.

    Raises:
        ValueError: the function raised one; or, in one line that begins with the first argument:
            the parser crashed, hung, ran out of memory, or failed in a way it should not have.
        OSError: the function raised one, e.g. a full disk.
    """
    with Guard(timeout_s, memory_bytes) as guard:
        return guard.call(entry, arguments)


class Guard:
    """A child process for many calls: see ``guarded``. It is started again after a crash.

    Example::

        with Guard() as guard:
            for path in paths:
                guard.call("headstart.data.view:summary", {"path": path})
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._calls = self._replies = -1  # our ends of the two pipes

    def call(self, entry: str, arguments: Mapping[str, Any]) -> Any:
        """As ``guarded``."""
        what = str(next(iter(arguments.values()), entry))
        call = {"entry": entry, "arguments": to_json(dict(arguments))}
        try:
            self._start()
            reply = self._exchange(json.dumps(call).encode() + b"\n", what)
        except BaseException:
            self.close(kill=True)
            raise
        return result_of(reply, what, self.memory_bytes)

    def close(self, kill: bool = False) -> None:
        """End the child, which sees that there are no more calls, or with ``kill`` at once."""
        child, self._child = self._child, None
        if child is None:
            return
        os.close(self._calls)
        os.close(self._replies)
        if kill:
            child.kill()
        child.wait()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._child is not None:
            return
        calls_read, self._calls = os.pipe()
        self._replies, replies_write = os.pipe()
        # -P and an explicit path: a module that lies in the current folder is never run.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        ends = (calls_read, replies_write)
        numbers = [str(number) for number in (*ends, self.memory_bytes)]
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *numbers],
                stdin=subprocess.DEVNULL,
                pass_fds=ends,
                env=environment,
            )
        finally:
            for end in ends:
                os.close(end)

    def _exchange(self, call: bytes, what: str) -> dict[str, Any]:
        assert self._child is not None
        _write_all(self._calls, call)
        reply = b""
        before, since = _bytes_moved(self._child.pid), time.monotonic()
        while not reply.endswith(b"\n"):
            if select.select([self._replies], [], [], min(1.0, self.timeout_s / 4))[0]:
                more = os.read(self._replies, 2**20)
                if not more:
                    raise ValueError(died(self._child.wait(), what))
                reply += more
                continue
            moved = _bytes_moved(self._child.pid)
            if moved != before:
                before, since = moved, time.monotonic()
            elif time.monotonic() - since > self.timeout_s:
                raise ValueError(f"{what}: damaged: the parser got nowhere in {self.timeout_s:g} s")
        return json.loads(reply)


def result_of(reply: dict[str, Any], what: str, memory_bytes: int = MEMORY_BYTES) -> Any:
    """What a call returned; or raises what it raised, from what ``failure`` made of it."""
    match reply:
        case {"result": result}:
            return result
        case {"value_error": message}:
            raise ValueError(message)
        case {"os_error": [number, problem, path]}:
            raise OSError(number, problem, path)
        case {"memory_error": _}:
            raise ValueError(
                f"{what}: damaged, or too large: reading it takes more than"
                f" {memory_bytes / 2**30:.3g} GiB of memory"
            )
        case _:
            raise ValueError(f"{what}: cannot be read: {reply['problem']}")


def died(code: int, what: str) -> str:
    """Why a process that read ``what`` ended with this exit code, or minus the signal's number."""
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    how = f"crashed (signal {-code})" if code < 0 else f"ended the process (exit code {code})"
    return f"{what}: damaged: the parser {how}"


def _write_all(descriptor: int, content: bytes) -> None:
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except BrokenPipeError:
        pass  # the child is gone, which reading its reply will tell


def _bytes_moved(pid: int) -> tuple[int, int]:
    """Bytes that a process has read and written so far, of files in memory too."""
    try:
        counters: Any = psutil.Process(pid).io_counters()  # type: ignore[attr-defined]
        return counters.read_chars, counters.write_chars
    except (AttributeError, psutil.Error, OSError):
        return 0, 0


# ---- the child ---------------------------------------------------------------------------------


def main(calls: int, replies: int, memory_bytes: int) -> None:
    """Answer calls until there are no more. Runs in the child."""
    # Data, and not address space, which a mapped file and reserved pages take without using memory.
    for limit, most in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (allowed, allowed))
    threading.Thread(target=_die_with_parent, args=(calls,), daemon=True).start()
    try:
        with open(calls, "rb", closefd=False) as lines:
            for line in lines:
                reply = _answer(**json.loads(line))
                sys.stdout.flush()  # the end, when it comes, is sudden
                _write_all(replies, json.dumps(reply).encode() + b"\n")
    except KeyboardInterrupt:  # the terminal's, which the parent gets as well
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _answer(entry: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        module, _, name = entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(function)
        paths = {key for key, hint in hints.items() if hint is Path}
        values = {k: Path(v) if k in paths else v for k, v in arguments.items()}
        return {"result": to_json(function(**values))}
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> dict[str, Any]:
    """What went wrong, for ``result_of`` in the process that asked."""
    match error:
        case MemoryError():
            return {"memory_error": str(error)}
        case OSError() if error.errno is not None:  # else e.g. of h5py: a sentence, no number
            return {"os_error": [error.errno, error.strerror, str(error.filename)]}
        case ValueError() if (
            # Ours are clear lines; pyarrow's own and the like are ValueErrors too.
            type(error) is ValueError or type(error).__module__.startswith("headstart.")
        ):
            return {"value_error": _cut(str(error))}
        case _:
            return {"problem": _one_line(error)}


def _one_line(error: Exception) -> str:
    """What went wrong, and where in the code, for what nobody has thought of."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = _cut(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"


def _cut(text: str) -> str:
    """A line that stays one to read, whatever a file had put into it."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."


def _die_with_parent(calls: int) -> None:
    """End this process when the parent has closed its end of the calls, or is gone."""
    poll = select.poll()
    poll.register(calls, 0)  # of hanging up one is always told
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
