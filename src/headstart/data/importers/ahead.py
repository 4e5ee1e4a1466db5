"""A source is read by processes of its own, ahead of what is stored.

Threads would not do: the parsers hold Python's lock nearly all the time. And a file that breaks
one of them ends its process only. Episodes travel through pipes: a JSON header and plain bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import signal
import struct
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.files import write_all
from headstart.data.guard import died, failure, result_of
from headstart.data.importers.base import Dropped, Source, unusable
from headstart.types import Clip, Episode

READERS = 2
"""Of a source that can be read from anywhere; the others are read by one process."""
BLOCK_EPISODES = 64
"""The readers take turns after so many."""

_MESSAGE_BYTES = 2 * 2**20
_SIZES = struct.Struct("=QQ")  # of a message's header and of its arrays
_ALIGNMENT = 8
_PIPE_BYTES = 2**20
_SET_PIPE_SIZE, _PARENT_DEATH_SIGNAL = 1031, 1  # Linux's F_SETPIPE_SZ and PR_SET_PDEATHSIG


def read_ahead(source: Source, start: int, where: Path) -> Generator[Episode | Dropped]:
    """As ``source.episodes(start)``; an episode that a dataset cannot keep comes as ``Dropped``.

    The source's notes are taken over in the order in which the episodes are yielded.

    Args:
        where: the source's path, for messages.

    Raises:
        ValueError: the source is damaged, or its parser crashed.
    """
    num = READERS if source.seekable else 1
    block = BLOCK_EPISODES if source.seekable else max(1, source.num_episodes)
    firsts = range(start, source.num_episodes, block)
    readers: list[_Reader] = []
    try:
        for turn in range(min(num, len(firsts))):
            readers.append(_Reader(source, firsts[turn::num], block, where))
        for i in range(len(firsts)):
            yield from readers[i % num].block(source)
    finally:
        for reader in readers:
            reader.close()


def take(items: Iterator[Episode | Dropped], most_bytes: int) -> list[Episode | Dropped]:
    """The next ones that together have so many bytes of arrays, or all that are left."""
    taken: list[Episode | Dropped] = []
    num_bytes = 0
    while num_bytes < most_bytes and (item := next(items, None)) is not None:
        taken.append(item)
        if isinstance(item, Episode):
            arrays = [*vars(item).values(), *item.images.values()]
            num_bytes += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
    return taken


class _Reader:
    """A process that reads some of the source's blocks, and the pipe they come through."""

    def __init__(self, source: Source, firsts: Iterable[int], block: int, where: Path) -> None:
        self._where = where
        receiving, sending = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forking beside threads; the child touches nothing they could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            _serve(source, firsts, block, sending)
        os.close(sending)
        self._pipe = open(receiving, "rb", buffering=0)  # noqa: SIM115  closed in close()

    def block(self, source: Source) -> Iterator[Episode | Dropped]:
        """The episodes of its next block."""
        while (message := self._message())[0]:
            header, content = message
            for line in header.get("notes", ()):
                source.note(line)
            if "failure" in header:
                result_of(header["failure"], str(self._where))
            if not header["items"]:
                return
            yield from _unpacked(header["items"], content)
        raise ValueError(died(self._exit_code(), str(self._where)))

    def close(self) -> None:
        self._pipe.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._exit_code()

    def _message(self) -> tuple[dict[str, Any], bytearray]:
        """A header and the arrays' bytes; nothing where the process has ended."""
        sizes = self._bytes(_SIZES.size)
        if len(sizes) < _SIZES.size:
            return {}, sizes
        header, content = (self._bytes(size) for size in _SIZES.unpack(sizes))
        return (json.loads(header) if header else {}), content

    def _bytes(self, size: int) -> bytearray:
        """The next bytes, fewer if the process has ended."""
        content = bytearray(size)
        view, done = memoryview(content), 0
        while done < size and (read := self._pipe.readinto(view[done:])):
            done += read
        return content if done == size else bytearray()

    def _exit_code(self) -> int:
        status = os.waitpid(self._pid, 0)[1]
        self._pid = 0
        return os.waitstatus_to_exitcode(status)


# ---- the process that reads -------------------------------------------------------------------


def _serve(source: Source, firsts: Iterable[int], block: int, sending: int) -> None:
    """Read the blocks and send them. Never returns."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            fcntl.fcntl(sending, _SET_PIPE_SIZE, _PIPE_BYTES)
        os.closerange(3, sending)  # locks and pipes of the parent's, which are to end with it
        os.closerange(sending + 1, os.sysconf("SC_OPEN_MAX"))
        num_notes = len(source.notes)
        for first in firsts:
            items = map(_usable, islice(source.episodes(first), block))
            while True:
                message = take(items, _MESSAGE_BYTES)
                header, arrays = _packed(message)
                _send(sending, header | {"notes": source.notes[num_notes:]}, arrays)
                num_notes = len(source.notes)
                if not message:  # which ends the block
                    break
    except Exception as error:
        _send(sending, {"failure": failure(error)}, [])
    finally:
        os._exit(0)


def _usable(item: Episode | Dropped) -> Episode | Dropped:
    """An episode that a dataset cannot keep is dropped."""
    reason = unusable(item) if isinstance(item, Episode) else None
    return Dropped(reason) if reason else item


def _send(sending: int, header: dict[str, Any], arrays: list[bytes]) -> None:
    text, content = json.dumps(header).encode(), b"".join(arrays)
    write_all(sending, _SIZES.pack(len(text), len(content)) + text + content, Path("a pipe"))


def _packed(items: list[Episode | Dropped]) -> tuple[dict[str, Any], list[bytes]]:
    """Header and arrays of a message; each array is padded."""
    arrays: list[bytes] = []

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value.tobytes() + bytes(-value.nbytes % _ALIGNMENT))
            return {"dtype": value.dtype.str, "shape": value.shape}
        if isinstance(value, Clip):
            return {"path": str(value.path), "start_s": value.start_s}
        return value

    def facts(item: Episode | Dropped) -> dict[str, Any]:
        if isinstance(item, Dropped):
            return {"reason": item.reason}
        images = {name: pack(value) for name, value in item.images.items()}
        fields = {name: pack(v) for name, v in vars(item).items() if name != "images"}
        return fields | {"images": images}

    return {"items": [facts(item) for item in items]}, arrays


def _unpacked(items: list[dict[str, Any]], content: bytearray) -> Iterator[Episode | Dropped]:
    """What ``_packed`` was given."""
    offset = 0

    def unpack(value: Any) -> Any:
        nonlocal offset
        match value:
            case {"dtype": dtype, "shape": shape}:
                count = math.prod(shape)
                array = np.frombuffer(content, dtype, count, offset).reshape(shape)
                offset += array.nbytes + -array.nbytes % _ALIGNMENT
                return array
            case {"path": path, "start_s": start_s}:
                return Clip(Path(path), start_s)
        return value

    for item in items:
        if "reason" in item:
            yield Dropped(item["reason"])
            continue
        images = {name: unpack(value) for name, value in item.pop("images").items()}
        yield Episode(**{name: unpack(value) for name, value in item.items()}, images=images)
