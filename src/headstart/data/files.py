"""Files that power loss cannot spoil: every operation on files that the store does.

A file is durable once it and the folder that names it have been flushed. ``Additions`` writes
files under their final names and flushes all of them at once: the file system puts flushes that
come together into one commit of its own journal, so that many take about as long as one. A file
torn before that is recognised by its digest, which the store's journal has.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

LOCK = ".writer.lock"
_BLOCK_BYTES = 1 << 20


class Additions:
    """Files added to a folder together: all durable once ``flush`` is through, or taken back.

    Example::

        added = Additions(root, threads)
        added.create("data/chunk-000/file-000.parquet", content)
        for flushed in added.flush():
            flushed.result()
    """

    def __init__(self, root: Path, threads: ThreadPoolExecutor) -> None:
        self.root = root
        self._threads = threads
        self._files: list[Path] = []
        self._folders: set[Path] = set()

    def create(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, which must not exist."""
        path = self._place(name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._files.append(path)
        try:
            write_all(descriptor, content, path)
        finally:
            os.close(descriptor)

    def link(self, name: str, source: Path) -> None:
        """Give a file a second name here; copy it where the file system cannot."""
        path = self._place(name)
        try:
            os.link(source, path)
        except OSError:
            with open(source, "rb") as file:
                self.create(name, b"")
                descriptor = os.open(path, os.O_WRONLY)
                try:
                    while block := file.read(_BLOCK_BYTES):
                        write_all(descriptor, block, path)
                finally:
                    os.close(descriptor)
        else:
            self._files.append(path)

    def flush(self) -> list[Future[None]]:
        """Start to flush every file and every folder that got a new name."""
        return [self._threads.submit(flush, path) for path in (*self._files, *self._folders)]

    def undo(self) -> None:
        """Remove the files again, as far as that is possible."""
        for path in self._files:
            remove(path)

    def _place(self, name: str) -> Path:
        path = self.root / name
        self._folders |= make_folder(path.parent) | {path.parent}
        return path


def make_folder(path: Path) -> set[Path]:
    """Make a folder and those above it; returns the folders that have to be flushed for it."""
    if path.is_dir():
        return set()
    changed = make_folder(path.parent) | {path.parent}
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise ValueError(f"{path}: is a file, and a folder is needed there") from None
    return changed


def write_all(
    descriptor: int, content: bytes | memoryview, path: Path, offset: int | None = None
) -> None:
    """Write all of it, at the end or from ``offset`` on. An error names the file."""
    rest = memoryview(content)
    with naming(path, f" ({len(content)} bytes)"):
        while rest:
            if offset is None:
                written = os.write(descriptor, rest)
            else:
                written = os.pwrite(descriptor, rest, offset)
                offset += written
            rest = rest[written:]


def flush(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path, what: str = "") -> Iterator[None]:
    """Has an error of the system, which knows descriptors only, say which file it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}{what}", str(path)) from None


def replace_all(
    root: Path, contents: Mapping[str, bytes | memoryview], threads: ThreadPoolExecutor
) -> None:
    """Write files that may exist: after any crash each is the old one or the new one, whole."""
    folders: set[Path] = set()
    temporary = {name: _temporary(root / name) for name in contents}
    try:
        for name, content in contents.items():
            folders |= make_folder((root / name).parent) | {(root / name).parent}
            descriptor = os.open(temporary[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                write_all(descriptor, content, root / name)
            finally:
                os.close(descriptor)
        list(threads.map(flush, temporary.values()))
        for name in contents:
            os.replace(temporary[name], root / name)
    except BaseException:
        for path in temporary.values():
            remove(path)
        raise
    list(threads.map(flush, folders))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except OSError:
        if path.exists():
            raise


def move(path: Path, target: Path) -> None:
    """Move a file or folder within a file system, durably."""
    changed = make_folder(target.parent) | {path.parent, target.parent}
    os.replace(path, target)
    for folder in changed:
        flush(folder)


def set_aside(root: Path, names: Iterable[str]) -> None:
    """Move these files of a dataset to its folder .dropped, each under a name still free there."""
    for name in names:
        target = root / ".dropped" / name
        number = 0
        while target.exists():
            number += 1
            target = root / ".dropped" / f"{name}.{number}"
        move(root / name, target)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)


def regular_files(root: Path) -> Iterator[str]:
    """Names of all files under a folder, as ``data/chunk-000/file-000.parquet``, in order.

    Left out: top-level names that begin with a dot, which are not content.
    """
    for folder, folders, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        if not relative.parts:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        folders.sort()
        for name in sorted(names):
            yield (relative / name).as_posix()


def sha256(path: Path) -> str:
    """Hash of a file's content. Raises ValueError if it is missing or no plain file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path}: not a plain file")
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None


def lock(root: Path) -> int:
    """Lock a folder against other writers. The system unlocks it when the process dies.

    Returns:
        A descriptor; closing it unlocks.

    Raises:
        ValueError: another writer is at work there; says who.
    """
    path = root / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace")
        os.close(descriptor)
        raise ValueError(f"{root}: another writer is at work here{_who(holder)}") from None
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    who = {"process": os.getpid(), "host": platform.node(), "started": started}
    with contextlib.suppress(OSError):  # the lock holds even where there is no room to say whose
        os.ftruncate(descriptor, 0)
        write_all(descriptor, json.dumps(who).encode(), path, 0)
    return descriptor


def unlock(descriptor: int) -> None:
    """Let others lock the folder."""
    os.close(descriptor)


def is_locked(root: Path) -> bool:
    """Whether a writer is at work in the folder."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _who(holder: str) -> str:
    try:
        who = json.loads(holder)
        return (
            f" (process {who['process']} on {who['host']} since {who['started']}); close it first"
        )
    except (ValueError, KeyError, TypeError):
        return "; close it first"
