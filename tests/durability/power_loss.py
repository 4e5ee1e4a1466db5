"""Power loss, simulated: what a disk may hold if the power fails after any file operation.

A process's operations are watched. Only what was flushed is certain: of a file the content it had
at its last fsync, of a folder the names it had at its own. Everything since may be there or not,
independently of anything else: POSIX promises no order.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracle
import recorder
import torch
from file_operations import intercepted

from headstart.artifact import read_json, write_json
from headstart.data.store import DatasetWriter
from headstart.model.checkpoint import load_training, save_training
from headstart.types import Task

Content = bytes | dict[str, int]
"""A file's bytes, or a folder's names and the numbers of the nodes they stand for."""


@dataclass
class Node:
    """A file or a folder: what is certain of it, and everything it was since."""

    durable: Content
    since: list[Content] = field(default_factory=list)

    @property
    def latest(self) -> Content:
        return self.since[-1] if self.since else self.durable


@dataclass
class Moment:
    """The disk after an operation, and how much had been acknowledged by then."""

    operation: str
    acknowledged: int
    nodes: dict[int, Node]


class Watch:
    """Notes every state of a folder while a block runs.

    Example::

        watch = Watch(root)
        with watch.on():
            writer.save_episodes(...)
            watch.acknowledged = writer.num_episodes
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.acknowledged = 0
        self.moments: list[Moment] = []
        self._nodes: dict[int, Node] = {}
        self._live: dict[int, int] = {}  # inode -> node; systems use inodes again, we do not
        self._observe()
        for node in self._nodes.values():  # what was there before is certain
            node.durable, node.since = node.latest, []

    def on(self) -> Any:
        return intercepted(self._around)

    def _around(
        self, _number: int, name: str, do: Callable[[], Any], arguments: tuple[Any, ...]
    ) -> Any:
        self._observe()  # what was written through a file object, which no operation tells
        before = self._moment(f"before {name}")
        try:
            return do()
        finally:
            self._observe()
            if name in ("fsync", "fdatasync"):
                number = self._live.get(os.fstat(arguments[0]).st_ino)
                if number is not None:
                    node = self._nodes[number]
                    node.durable, node.since = node.latest, []
            self.moments += [before, self._moment(name)]

    def _moment(self, operation: str) -> Moment:
        nodes = {i: Node(n.durable, list(n.since)) for i, n in self._nodes.items()}
        return Moment(operation, self.acknowledged, nodes)

    def _observe(self) -> None:
        """Look at all that the folder holds now."""
        seen: dict[int, int] = {}
        self._look(self.root, seen)
        self._live = seen

    def _look(self, path: Path, seen: dict[int, int]) -> int:
        """The node of a path, brought up to date."""
        inode = path.stat().st_ino
        if inode in seen:  # another name of the same file
            return seen[inode]
        number = seen[inode] = self._live.get(inode, len(self._nodes))
        is_folder = path.is_dir()
        node = self._nodes.setdefault(number, Node({} if is_folder else b""))
        content: Content
        if is_folder:
            content = {name: self._look(path / name, seen) for name in os.listdir(path)}
        else:
            content = path.read_bytes()
        if content != node.latest:
            node.since.append(content)
        return number


def strict(moment: Moment, target: Path) -> None:
    """Write the disk in which nothing has arrived that was not flushed."""
    _write(moment, target, lambda node: node.durable)


def selective(moment: Moment, target: Path, rng: random.Random) -> None:
    """Write a disk in which of what was not flushed some has arrived, at random."""

    def choose(node: Node) -> Content:
        if isinstance(node.durable, bytes):
            return _some_content([node.durable, *node.since], rng)
        names = dict(node.durable)
        states = [node.durable, *node.since]
        for before, after in itertools.pairwise(states):
            if rng.random() < 0.5:  # this change of names has arrived
                for name in set(before) - set(after):
                    names.pop(name, None)
                names |= {k: v for k, v in after.items() if before.get(k) != v}
        return names

    _write(moment, target, choose)


def _some_content(versions: list[Content], rng: random.Random) -> bytes:
    """One version of a file, or one on its way to the next: torn, or zeros where it will be."""
    index = rng.randrange(len(versions))
    content = versions[index]
    assert isinstance(content, bytes)
    if index == 0 or rng.random() < 0.5:
        return content
    before = versions[index - 1]
    assert isinstance(before, bytes)
    cut = rng.randrange(len(content) + 1)
    if rng.random() < 0.5:
        return content[:cut] + before[cut:]
    pairs = zip(before, content, strict=False)
    certain = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return content[:certain] + bytes(len(content) - certain)


def _write(moment: Moment, target: Path, choose: Callable[[Node], Content]) -> None:
    contents: dict[int, Content] = {}

    def place(number: int, path: Path) -> None:
        if number not in contents:
            contents[number] = choose(moment.nodes[number])
        content = contents[number]
        if isinstance(content, bytes):
            path.write_bytes(content)
            return
        path.mkdir()
        for name, child in content.items():
            place(child, path / name)

    place(0, target)


def survey(
    watch: Watch,
    scratch: Path,
    check: Callable[[Path, int], list[str]],
    every: int,
    variants: int,
    seed: int,
) -> dict[str, Any]:
    """Cut the power at each moment (``every``: only so many-th) and look at what is left.

    Args:
        check: given a folder and what had been acknowledged, says what is wrong.
        variants: disks tried at each moment in which some of what was not flushed has arrived,
            besides the one in which nothing has.
    """
    rng = random.Random(seed)
    failures, disks = [], 0
    for number, moment in list(enumerate(watch.moments))[::every]:
        for variant in range(1 + variants):
            target = scratch / "disk"
            if variant:
                selective(moment, target, rng)
            else:
                strict(moment, target)
            disks += 1
            what = f"moment {number} ({moment.operation}), variant {variant}"
            failures += [f"{what}: {p}" for p in check(target, moment.acknowledged)]
            shutil.rmtree(target)
    return {"moments": len(watch.moments[::every]), "disks": disks, "failures": failures}


def recording(out: Path, task: Task, every: int, variants: int, seed: int) -> dict[str, Any]:
    """Record in two sessions, in a folder that is made for it, and cut the power everywhere."""
    folder = out / "watched"
    folder.mkdir(parents=True)
    watch = Watch(folder)
    with watch.on():
        for _ in range(2):
            with DatasetWriter(folder / "set", task) as writer:
                for _ in range(2):
                    first = writer.num_episodes
                    writer.save_episodes([oracle.episode(first + i, task) for i in range(2)])
                    watch.acknowledged = writer.num_episodes

    def check(disk: Path, acknowledged: int) -> list[str]:
        return recorder.check(disk / "set", task, acknowledged)

    return survey(watch, out, check, every, variants, seed)


def training(out: Path, variants: int, seed: int) -> dict[str, Any]:
    """Write checkpoints, in a folder that is made for them, and cut the power everywhere."""
    folder = out / "watched"
    folder.mkdir(parents=True)
    name = "run/checkpoint.safetensors"
    watch = Watch(folder)
    with watch.on():
        for update in (1, 2, 3):
            save_training(folder / name, {"a": torch.full((500,), update)}, {"updates": update})
            watch.acknowledged = update
        write_json(folder / "run/result.json", {"updates": 3})
        watch.acknowledged = 4

    def check(disk: Path, acknowledged: int) -> list[str]:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # which may say that one was damaged
                found = load_training(disk / name)
            update = 0 if found is None else found[1]["updates"]
            wrong = [] if update >= min(acknowledged, 3) else [f"{update} of {acknowledged} left"]
            if found is not None and not torch.equal(found[0]["a"], torch.full((500,), update)):
                wrong.append("another state")
            if acknowledged == 4 and read_json(disk / "run/result.json") != {"updates": 3}:
                wrong.append("another result")
            return wrong
        except ValueError as error:
            return [str(error)] if acknowledged else []

    return survey(watch, out, check, 1, variants, seed)
