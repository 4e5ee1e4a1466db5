"""What is done to whole datasets: join, part and thin them.

Everything streams: the episodes of one data file are in memory at a time. A new dataset is built
beside its place and moved there when it is complete, so that no name ever holds half of one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from headstart.artifact import Artifact, count, write_card
from headstart.config import did_you_mean
from headstart.data import files, mixture
from headstart.data import lerobot_v3 as v3
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.summary import succeeded, summary
from headstart.ledger import Bill, Meter, finish, read_bill
from headstart.types import Camera, Episode, Task

BATCH_BYTES = 64 * 2**20
"""What one data file of a new dataset holds, about, and what is in memory while it is written."""

_PNG_RATIO = 2  # about what packing makes of a picture


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Settings of joining datasets."""

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """The datasets, two or more."""
    out: Path
    """Folder to write to."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Settings of parting a dataset. Give one of --shares, --tasks and --episodes."""

    source: tyro.conf.Positional[Path]
    """The dataset."""
    out: Path
    """Folder to write to; each part is a dataset in it."""
    shares: tuple[float, ...] = ()
    """Shares of the episodes, drawn by chance from every task alike, e.g. 0.9 0.1."""
    tasks: tuple[str, ...] = ()
    """Tasks that go to the second part, the others to the first. * stands for anything."""
    episodes: tuple[str, ...] = ()
    """Episodes that go to the second part, by number: 7, or 10-19 with both ends."""
    names: tuple[str, ...] = ("train", "heldout")
    """What the parts are called."""
    seed: int = 0
    """Of the draw by --shares."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Settings of thinning a dataset. An episode is kept if it passes all that is asked for."""

    source: tyro.conf.Positional[Path]
    """The dataset."""
    out: Path
    """Folder to write to."""
    task: tuple[str, ...] = ()
    """Of these tasks. * stands for anything."""
    behavior: tuple[str, ...] = ()
    """By these actors, e.g. expert. * stands for anything."""
    success: tyro.conf.FlagCreatePairsOff[bool] = False
    """That succeeded at any step."""
    failure: tyro.conf.FlagCreatePairsOff[bool] = False
    """That never succeeded."""
    min_steps: int = 1
    """At least this long."""
    episodes: tuple[str, ...] = ()
    """With these numbers: 7, or 10-19 with both ends."""


def merge(config: MergeConfig) -> dict[str, Any]:
    """Write the episodes of all sources, in their order, as one dataset.

    It has every channel of any source; those that an episode's own source lacks are missing
    (NaN). Episodes of a source that has all channels stay equal in every bit.

    Returns:
        What ``result.json`` holds, see ``summary``.

    Raises:
        ValueError: fewer than two sources, one of them twice, or sources that differ in their
            control rate, in their cameras, or in what a channel of one name is.
    """
    if len(config.sources) < 2:
        raise ValueError("nothing to merge: name two or more datasets")
    if len({source.resolve() for source in config.sources}) < len(config.sources):
        raise ValueError("a dataset that is named twice would have each episode twice")
    datasets = [Dataset(source) for source in config.sources]
    streams = union(datasets)
    episodes = (mixture.in_columns(e, d, streams) for d in datasets for e in d.iter_episodes())
    names = ", ".join(f"`{source.name}`" for source in config.sources)
    return _write(
        config.out, "merge", config, streams, episodes, config.sources, f"All of {names}."
    )


def split(config: SplitConfig) -> dict[str, Any]:
    """Part a dataset by episodes into datasets, one folder each in ``out``.

    Returns:
        The result of each part by its name, see ``summary``.

    Raises:
        ValueError: not exactly one way to part by, as many names as parts, or an empty part.
    """
    dataset = Dataset(config.source)
    part_of = _parts(config, dataset.episode_table()["task_id"])
    results = {}
    for part, name in enumerate(config.names):
        if not (part_of == part).any():
            raise ValueError(f"part '{name}' of {config.source} would be empty")
        _check_free(config.out / name)
    for part, name in enumerate(config.names):
        results[name] = _write(
            config.out / name,
            "split",
            config,
            dataset,
            dataset.iter_episodes(np.flatnonzero(part_of == part).tolist()),
            [config.source],
            f"Part `{name}` of `{config.source.name}`.",
        )
    return results


def draw_shares(tasks: Sequence[str], shares: Sequence[float], seed: int) -> np.ndarray:
    """(N,) int64: which part each episode goes to.

    Every part's share of the whole, and of each task, is exact to within one episode or so:
    episodes, shuffled within their tasks, go in turn to the part that is furthest behind.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(tasks))
    order = [
        episode
        for task in rng.permutation(len(names))
        for episode in rng.permutation([i for i, t in enumerate(tasks) if t == names[task]])
    ]
    part_of = np.zeros(len(tasks), np.int64)
    count = np.zeros(len(shares))
    for place, episode in enumerate(order):
        part = int(np.argmax(np.asarray(shares) * (place + 1) - count))
        part_of[episode] = part
        count[part] += 1
    return part_of


def filter_episodes(config: FilterConfig) -> dict[str, Any]:
    """Write the episodes that pass as a new dataset, each equal in every bit.

    Returns:
        What ``result.json`` holds, see ``summary``.

    Raises:
        ValueError: a task, actor or number that no episode has, or no episode passes.
    """
    dataset = Dataset(config.source)
    table = dataset.episode_table()
    kept = table["num_steps"] >= config.min_steps
    if config.task:
        kept &= _matching(table["task_id"], config.task, "task", config.source)
    if config.behavior:
        kept &= _matching(table["behavior"], config.behavior, "behavior", config.source)
    if config.episodes:
        kept &= np.isin(np.arange(len(kept)), _numbers(config.episodes, len(kept), config.source))
    if config.success and config.failure:
        raise ValueError("no episode passes both --success and --failure; give one of them")
    if config.success or config.failure:
        kept &= succeeded(dataset) == config.success
    if not kept.any():
        raise ValueError(f"{config.source}: none of {len(kept)} episodes passes")
    return _write(
        config.out,
        "filter",
        config,
        dataset,
        dataset.iter_episodes(np.flatnonzero(kept).tolist()),
        [config.source],
        f"{int(kept.sum())} of the {len(kept)} episodes of `{config.source.name}`.",
    )


def union(datasets: Sequence[Dataset]) -> Task:
    """A schema with every channel of any of the datasets, by first appearance.

    Raises:
        ValueError: they differ in their control rate, their cameras, or in a channel's role or
            unit.
    """
    first = datasets[0]
    for dataset in datasets:
        pair = f"{first.root} and {dataset.root} cannot be merged:"
        if dataset.control_hz != first.control_hz:
            raise ValueError(
                f"{pair} their control rates are {first.control_hz:g} and"
                f" {dataset.control_hz:g} Hz; pretrain can mix them, --data A --data B"
            )
        if set(dataset.cameras) != set(first.cameras):
            raise ValueError(
                f"{pair} their cameras are {_views(first.cameras)} and {_views(dataset.cameras)}"
            )
    mixture.check_channels([(dataset.root, dataset.channels) for dataset in datasets])
    channels = mixture.union([dataset.channels for dataset in datasets])
    return Task("merge", "", "", channels, 0, first.control_hz, first.cameras)


def in_batches(
    episodes: Iterable[Episode], cameras: Sequence[Camera], most_bytes: int = BATCH_BYTES
) -> Iterator[list[Episode]]:
    """Lists of episodes of about this many bytes each; video, which is linked, does not count."""
    picture_bytes = sum(c.height * c.width * 3 for c in cameras if c.storage == "image")
    batch: list[Episode] = []
    num_bytes = 0
    for episode in episodes:
        labelled = 2 * episode.action.nbytes
        own = episode.obs.nbytes + labelled + episode.num_steps * picture_bytes // _PNG_RATIO
        if batch and num_bytes + own > most_bytes:
            yield batch
            batch, num_bytes = [], 0
        batch.append(episode)
        num_bytes += own
    if batch:
        yield batch


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A folder to build in, beside ``out``; when the block ends it takes ``out``'s place.

    If the block raises, ``out`` is what it was and nothing is left behind.
    """
    out = out.resolve()
    temporary = out.parent / f".{out.name}.building"
    shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if out.exists():
            exchange(temporary, out)
        else:
            temporary.rename(out)
        files.flush(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places, in one step where the system can do that.

    Where it cannot, a crash between two steps leaves ``other`` under a name that ends in .old.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):  # Linux: renameat2(2)
        here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), both) == 0:
            return
    aside = other.with_name(f".{other.name}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _write(
    out: Path,
    verb: str,
    config: Any,
    schema: v3.Schema,
    episodes: Iterable[Episode],
    sources: Sequence[Path],
    line: str,
) -> dict[str, Any]:
    """A complete artifact with these episodes, and with the sources' bills as its ancestors."""
    ancestors = tuple(read_bill(source) for source in sources)
    _check_free(out)
    with building(out) as folder:
        artifact = Artifact.create(folder, verb, config)
        with Meter() as meter:
            with DatasetWriter(folder, schema) as writer:
                for batch in in_batches(episodes, schema.cameras):
                    writer.save_episodes(batch)
            result = summary(Dataset(folder))
        lines = [
            f"- {line}",
            f"- {count(result['episodes'], 'episode')}, {count(result['env_steps'], 'step')},"
            f" {count(len(result['tasks']), 'task')}, in LeRobot v3 format.",
            "- What it cost, its sources included: `ledger.json`. How it was made: `config.json`.",
        ]
        write_card(folder, out.name, lines)
        artifact.write_result(result)
        finish(folder, Bill("", verb, out.name, meter.cost(), ancestors))
    return result


def _parts(config: SplitConfig, tasks: np.ndarray) -> np.ndarray:
    """(N,) number of the part of each episode."""
    ways = [bool(config.shares), bool(config.tasks), bool(config.episodes)]
    if sum(ways) != 1:
        raise ValueError("part by one of --shares 0.9 0.1, --tasks NAME ..., --episodes 0-9 ...")
    parts = len(config.shares) or 2
    if len(config.names) != parts or len(set(config.names)) != parts:
        raise ValueError(f"{parts} parts need {parts} different --names, not {len(config.names)}")
    if any(Path(name).name != name or name.startswith(".") for name in config.names):
        raise ValueError(f"--names {' '.join(config.names)}: a part's name is that of a folder")
    if config.tasks:
        return _matching(tasks, config.tasks, "task", config.source).astype(np.int64)
    if config.episodes:
        numbers = _numbers(config.episodes, len(tasks), config.source)
        return np.isin(np.arange(len(tasks)), numbers).astype(np.int64)
    if min(config.shares) <= 0 or abs(sum(config.shares) - 1) > 1e-6:
        raise ValueError(f"--shares add up to {sum(config.shares):g}; they have to add up to 1")
    if config.seed < 0:
        raise ValueError(f"--seed {config.seed} is negative; use 0 or more")
    return draw_shares(tasks.tolist(), config.shares, config.seed)


def _matching(values: np.ndarray, patterns: Sequence[str], what: str, source: Path) -> np.ndarray:
    """(N,) bool: which values match any of the patterns. Each has to match something."""
    known = sorted(set(values.tolist()))
    for pattern in patterns:
        if not any(fnmatchcase(value, pattern) for value in known):
            raise ValueError(f"{source}: no {what} '{pattern}'{did_you_mean(pattern, known)}")
    wanted = {v for v in known if any(fnmatchcase(v, pattern) for pattern in patterns)}
    return np.array([value in wanted for value in values.tolist()], bool)


def _numbers(texts: Sequence[str], num_episodes: int, source: Path) -> list[int]:
    """Episode numbers of e.g. ("7", "10-19")."""
    numbers: list[int] = []
    for text in texts:
        first, dash, last = text.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--episodes '{text}': use a number, 7, or a range, 10-19")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or span[-1] >= num_episodes:
            raise ValueError(
                f"--episodes {text}: {source} has {num_episodes} episodes, 0 to {num_episodes - 1}"
            )
        numbers += span
    return numbers


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; choose another folder")


def _views(cameras: Sequence[Camera]) -> str:
    views = [f"{c.name} {c.height} x {c.width} ({c.storage})" for c in cameras]
    return ", ".join(views) or "none"
