"""Recording: episodes are on the disk when ``save_episodes`` returns, whatever happens next.

A save writes one data file, the new videos and one line of the journal, and flushes them all at
once, so that it takes about as long as a single flush. What is derived from them (all else in
meta/) is written when a dataset is opened and closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import differences, to_json
from headstart.data import files, journal, parquet, recovery, statistics
from headstart.data import lerobot_v3 as v3
from headstart.data.footage import Footage
from headstart.data.journal import Journal, JournalWriter, Record, Rows
from headstart.data.statistics import Statistics
from headstart.ledger import reopen
from headstart.types import Episode

_THREADS = 8  # flushes that wait for the disk together


class DatasetWriter:
    """Writes episodes to a new dataset, or appends to the one in ``root``.

    Opening a folder whose writer died puts it in order first: every save that returned counts,
    and what is left of one that did not is moved to ``.dropped/``.

    Args:
        schema: the channels, cameras and control rate, e.g. a Task or another Dataset. All
            episodes share them; their tasks may differ.
        row_group_steps: episodes saved together share a row group until it has so many steps,
            which is quicker; by default each has its own, and damage to one spares its neighbours.

    Raises:
        ValueError: ``root`` holds a dataset with another schema, or a damaged one, or something
            else, or another writer is at work there.
    """

    def __init__(self, root: Path | str, schema: v3.Schema, row_group_steps: int = 1) -> None:
        v3.check_schema(schema)
        self.root = Path(root)
        self.schema = schema
        self._row_group_steps = row_group_steps
        for folder in files.make_folder(self.root):
            files.flush(folder)
        self._lock: int | None = files.lock(self.root)
        self._threads = ThreadPoolExecutor(_THREADS)
        try:
            self._open()
        except BaseException:
            self._release()
            raise

    def save_episode(self, episode: Episode) -> None:
        """Append an episode. Once this returns it is on the disk, whatever happens next.

        Raises:
            ValueError: as for ``save_episodes``.
        """
        self.save_episodes([episode])

    def save_episodes(self, episodes: Sequence[Episode]) -> None:
        """Append the episodes. Once this returns they are on the disk, whatever happens next.

        Raises:
            ValueError: an episode does not fit the schema, is not finite, or a camera has not a
                picture for each step; none is saved.
            OSError: e.g. the disk is full; none is saved, and what was saved before is untouched.
        """
        assert self._lock is not None, "the writer is closed"
        if not episodes:
            return
        for number, episode in enumerate(episodes, self.num_episodes):
            v3.check_episode(episode, self.schema, describe(number, episode))
        self._settle()
        if self._journal.journal.closed:
            reopen(self.root)
            self._journal.journal.drop_last()
            self._journal.take_back()
        self._settled = False
        added = files.Additions(self.root, self._threads)
        flushing = []
        try:
            footage = Footage(self.schema, self._videos, added, self.root)
            record, new = self._write(episodes, footage, added)
            flushing = added.flush()
            self._journal.flush()
            for flushed in flushing:
                flushed.result()
            self._statistics.merge(new.result())
        except BaseException:
            wait(flushing)
            self._undo(added)
            raise
        self._journal.count(record)
        self._take_in(record)
        self._settled = True

    def close(self) -> None:
        """Write what is derived for LeRobot, as meta/info.json, and let others write.

        Raises:
            OSError: e.g. the disk is full. What was saved is untouched.
        """
        if self._lock is None:
            return
        try:
            self._settle()
            if self._journal.journal.closed is None:
                derived = self._write_derived()
                record = self._journal.append({"closed": len(self._saves), "files": derived})
                self._journal.flush()
                self._journal.count(record)
        finally:
            self._release()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Read what is there, put it in order, and make it this writer's state."""
        path = self.root / journal.NAME
        header = journal.header_of(
            self.schema.channels, self.schema.cameras, self.schema.control_hz
        )
        recovery.check_no_repair(self.root)
        if path.exists() and not _never_began(path):
            found = recovery.read_journal(self.root)
            _check_same_schema(self.root, found.header, header)
            self._drop_stale_close(found)
            files.set_aside(self.root, recovery.strays(self.root, found))
            self._journal = JournalWriter(found)
        else:
            self._check_new(path)
            for folder in files.make_folder(path.parent):
                files.flush(folder)
            self._journal = JournalWriter.create(path, header)
        self._load(self._journal.journal)
        if self._journal.journal.closed is None:
            self._write_derived()
        self._settled = True

    def _check_new(self, path: Path) -> None:
        found = [
            name
            for folder in ("data", "meta", "videos")
            for name in files.regular_files(self.root / folder)
        ]
        if any(name != path.name for name in found):
            raise ValueError(
                f"{self.root}: holds data but no whole {journal.NAME}; use a new folder"
            )

    def _load(self, found: Journal) -> None:
        self._saves: list[Record] = []
        self._instructions: dict[str, int] = {}
        self._videos: dict[str, dict[str, Record]] = {c.name: {} for c in self.schema.cameras}
        self.num_episodes = self.num_steps = 0
        widths = {name: f["shape"][0] for name, f in v3.columns(self.schema).items()}
        self._statistics = Statistics(widths, [c.name for c in self.schema.cameras])
        content = (self.root / statistics.NAME).read_bytes() if found.closed else b""
        is_known = self._statistics.decode(content)
        for save in found.saves:
            if not is_known:
                self._statistics.merge(self._read_statistics(save))
            self._take_in(save)

    def _drop_stale_close(self, found: Journal) -> None:
        """Have the derived files written anew if they are not what they were."""
        if found.closed and any(
            recovery.damage(self.root, entry) for entry in found.closed["files"]
        ):
            found.drop_last()

    def _read_statistics(self, save: Record) -> Statistics:
        """The statistics of an earlier save, from its data file: no picture is decoded."""
        entry = save["files"][0]
        path = self.root / entry["path"]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
        numbers = parquet.decode(content, path, v3.numbers_schema(self.schema))
        columns = {
            name: np.concatenate(parquet.from_arrow(numbers.column(name)))
            for name in v3.columns(self.schema)
        }
        facts = json.loads(parquet.key_value(content, v3.OWN) or b"{}")
        return Statistics.of(columns, save["first_step"], facts.get("pictures", {}))

    def _write(
        self, episodes: Sequence[Episode], footage: Footage, added: files.Additions
    ) -> tuple[Record, Future[Statistics]]:
        """Write a save's files and its line; returns the line, and the statistics to come."""
        number, lengths = len(self._saves), [e.num_steps for e in episodes]
        task_index = dict(self._instructions)
        for episode in episodes:
            task_index.setdefault(episode.instruction, len(task_index))
        for i, episode in enumerate(episodes):
            footage.take(episode, describe(self.num_episodes + i, episode))
        footage.write()
        numbers = v3.frames(episodes, self.num_episodes, self.num_steps, task_index, self.schema)
        # One processor adds up and hashes while another packs.
        facts = (numbers, self.num_steps, footage.histograms, self._statistics.sample_bound)
        new = self._threads.submit(Statistics.of, *facts)
        digests = self._threads.submit(lambda: [v3.episode_sha256(e) for e in episodes])
        table = v3.frames_table(numbers, footage.png_files, self.schema)
        assert table.num_rows == sum(lengths), "a row for each step"
        if footage.histograms:
            table = table.replace_schema_metadata(
                {v3.OWN: json.dumps({"pictures": footage.histograms})}
            )
        content = parquet.encode(table, _row_groups(lengths, self._row_group_steps))
        name = v3.data_path(number)
        entry = self._threads.submit(entry_of, name, content)
        added.create(name, content)
        record = self._journal.append(
            {
                "save": number,
                "first_episode": self.num_episodes,
                "first_step": self.num_steps,
                # Those of these episodes, known or not, so that a line can be read by itself.
                "instructions": {str(task_index[e.instruction]): e.instruction for e in episodes},
                "files": [entry.result(), *footage.entries],
                "episodes": {
                    "length": lengths,
                    "task_index": [task_index[e.instruction] for e in episodes],
                    "task_id": [e.task_id for e in episodes],
                    "behavior": [e.behavior for e in episodes],
                    "seed": [int(e.seed) for e in episodes],
                    "terminated": [int(e.terminated) for e in episodes],
                    "truncated": [int(e.truncated) for e in episodes],
                    "final_obs": journal.encode_floats(np.stack([e.final_obs for e in episodes])),
                    "sha256": digests.result(),
                    "videos": footage.places,
                },
            }
        )
        return record, new

    def _take_in(self, record: Record) -> None:
        """A save counts from now on."""
        for index, instruction in record["instructions"].items():
            self._instructions.setdefault(instruction, int(index))
        for entry in record["files"][1:]:
            self._videos[entry["camera"]][entry["sha256"]] = entry
        self._saves.append(record)
        self.num_episodes += len(record["episodes"]["length"])
        self.num_steps += sum(record["episodes"]["length"])

    def _undo(self, added: files.Additions) -> None:
        """After a failed save: make room again. Where even that fails, ``_settle`` will do it."""
        for step in (self._journal.take_back, added.undo):
            with contextlib.suppress(OSError):
                step()

    def _settle(self) -> None:
        """After a save that failed: start again from what is on the disk."""
        if not self._settled:
            self._journal.close()
            self._open()

    def _write_derived(self) -> list[Record]:
        """Write the files that LeRobot wants besides; returns what the journal says of them."""
        rows = Rows(self._saves, len(self.schema.obs_channels))
        instructions = list(self._instructions)
        first = {name: next(iter(known.values()), None) for name, known in self._videos.items()}
        codecs = {name: (e["codec"], e["pixel_format"]) for name, e in first.items() if e}
        stats = self._statistics.features()
        for camera, values in self._statistics.pictures().items():
            stats[v3.image_key(camera)] = values
        episodes = v3.episodes_table(self.schema, rows, instructions, self._videos)
        contents = {
            "meta/info.json": _json(v3.info(self.schema, rows, len(instructions), codecs)),
            "meta/stats.json": _json(stats),
            "meta/tasks.parquet": parquet.encode(v3.tasks_table(instructions), [len(instructions)]),
            v3.episodes_path(0): parquet.encode(episodes, [episodes.num_rows]),
            statistics.NAME: self._statistics.encode(),
        }
        files.replace_all(self.root, contents, self._threads)
        return [entry_of(name, content) for name, content in contents.items()]

    def _release(self) -> None:
        """Let go of the folder."""
        self._threads.shutdown()
        if hasattr(self, "_journal"):
            self._journal.close()
        if self._lock is not None:
            files.unlock(self._lock)
            self._lock = None


def describe(number: int, episode: Episode) -> str:
    return f"episode {number} ('{episode.task_id}', seed {episode.seed})"


def _row_groups(lengths: Sequence[int], steps: int) -> list[int]:
    """Lengths of row groups of whole episodes, each of the fewest that have so many steps."""
    groups = [0]
    for length in lengths:
        if groups[-1] >= steps:
            groups.append(0)
        groups[-1] += length
    return groups


def entry_of(name: str, content: bytes | memoryview) -> Record:
    """What the journal says of a file."""
    sha256 = hashlib.sha256(content).hexdigest()
    return {"path": name, "bytes": len(content), "sha256": sha256}


def _json(value: Any) -> bytes:
    text = json.dumps(to_json(value), indent=2, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _never_began(path: Path) -> bool:
    """Whether a writer died before its header was written."""
    return b"\n" not in path.read_bytes()


def _check_same_schema(root: Path, found: Record, wanted: Record) -> None:
    changed = differences(_flat(found), _flat(wanted))
    if changed:
        raise ValueError(f"{root}: cannot append, {changed[0]}; use a new folder")


def _flat(header: Record) -> dict[str, Any]:
    channels = {
        f"channel {i}": f"{c['name']} {c['role']} [{c['unit']}]"
        for i, c in enumerate(header["channels"])
    }
    cameras = {
        f"camera {i}": f"{c['name']} {c['height']} x {c['width']} {c['storage']}"
        for i, c in enumerate(header["cameras"])
    }
    return {"control_hz": header["control_hz"]} | channels | cameras
