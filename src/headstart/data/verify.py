"""Whether a dataset, or any other artifact, is what was written; and saving what can be saved.

``verify`` compares every file with its recorded sha256: data and videos with the journal, what is
derived with the journal's last line, everything else with the artifact's seal. ``repair`` keeps
every episode whose own content is intact, whatever happened to the files around it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstart.artifact import SEAL, check_seal, read_json
from headstart.data import checks, files, journal, parquet, recovery, video
from headstart.data import lerobot_v3 as v3
from headstart.data.journal import Journal, Record
from headstart.data.writer import DatasetWriter
from headstart.types import Clip, Episode, Task


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written."""

    path: Path
    what: str


@dataclass(frozen=True)
class Repaired:
    """What ``repair`` did."""

    kept_episodes: int
    dropped: list[str]
    """A line for each episode or file that was dropped, and why; it is in ``.dropped/``."""


def verify(root: Path | str) -> list[Problem]:
    """All that is wrong with a dataset, or another artifact's folder. Nothing is changed.

    Raises:
        ValueError: there is neither in ``root``.
    """
    root = Path(root)
    if (root / journal.NAME).exists() or (root / "meta").is_dir():
        found, problems = _read(root)
        if found is not None:
            problems += _check_files(root, found)
    elif root.is_dir() and any(files.regular_files(root)):
        problems = []
    else:
        raise ValueError(f"{root}: no dataset and no other artifact there")
    return [*problems, *_check_others(root)]


def is_dataset_file(name: str) -> bool:
    """Whether the journal vouches for a file, and not the seal."""
    return name.startswith(("data/", "meta/", "videos/"))


def _read(root: Path) -> tuple[Journal | None, list[Problem]]:
    path = root / journal.NAME
    try:
        found = journal.read(path)
        checks.check(found)
    except ValueError as error:
        return None, [Problem(path, _reason(path, error))]
    if files.is_locked(root):
        return found, []
    if found.torn:
        return found, [Problem(path, "its last line is not whole: a crash, or it was cut")]
    if found.closed is None:
        return found, [Problem(path, "not closed: the writer died, or its end was cut")]
    return found, []


def _check_files(root: Path, found: Journal) -> list[Problem]:
    known = recovery.entries(found)
    if found.closed:
        known |= {entry["path"]: entry for entry in found.closed["files"]}
    problems = [
        Problem(root / name, what)
        for name, entry in known.items()
        if (what := recovery.damage(root, entry))
    ]
    writing = found.closed is None  # then derived files may be of any save
    for name in files.regular_files(root):
        if not is_dataset_file(name) or name in known or name == journal.NAME:
            continue
        if not (writing and name.startswith("meta/")):
            problems.append(Problem(root / name, "extra: no save tells of it"))
    return problems


def _check_others(root: Path) -> list[Problem]:
    """The files that are no part of a dataset: a card, a bill, checkpoints."""
    others = [name for name in files.regular_files(root) if not is_dataset_file(name)]
    if not others and not (root / SEAL).exists():
        return []
    try:
        return [Problem(path, what) for path, what in check_seal(root)]
    except ValueError as error:
        return [Problem(root / SEAL, _reason(root / SEAL, error))]


def _reason(path: Path, error: ValueError) -> str:
    return str(error).removeprefix(f"{path}: ")


def repair(root: Path | str) -> Repaired:
    """Put a dataset in order: keep every episode whose own content is intact, drop the rest.

    Episodes are numbered anew. What is dropped is moved to ``.dropped/``. Where only derived
    files are damaged they are written anew. A repair that was interrupted is finished.

    Raises:
        ValueError: no dataset there, or neither its journal nor meta/info.json says what its
            channels are; another writer is at work.
    """
    root = Path(root)
    _swap(root)
    if not (root / "meta").is_dir():
        raise ValueError(f"{root}: no dataset there")
    schema = _schema(root)
    try:
        found = recovery.read_journal(root)
        intact = not any(recovery.damage(root, e) for e in recovery.entries(found).values())
    except ValueError:
        intact = False
    dropped: list[str] = []
    if not intact:
        dropped = _rewrite(root, schema)
    before = {problem.path for problem in verify(root)}
    strays = [
        name
        for name in files.regular_files(root)
        if name.startswith("meta/")
        and root / name in before
        and name not in (journal.NAME, *checks.DERIVED)
    ]
    unfinished = recovery.strays(root, recovery.read_journal(root))
    with DatasetWriter(root, schema) as writer:
        files.set_aside(root, strays)
        kept = writer.num_episodes
    dropped += [f"{name}: no save tells of it" for name in (*unfinished, *strays)]
    return Repaired(kept, dropped)


_NEW = ".repaired"
_NO_SENSE = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What lines raise that are whole and make no sense."""


def _schema(root: Path) -> Task:
    """The channels, cameras and rate, from the journal or else from info.json."""
    path = root / journal.NAME
    header: Any = _whole_lines(path)[0]
    if header is not None:
        return checks.schema_of(path, header)
    path = root / "meta/info.json"
    try:
        return checks.schema_of(path, read_json(path)[v3.OWN])
    except _NO_SENSE:
        raise ValueError(
            f"{root}: neither {journal.NAME} nor meta/info.json can be read; there is nothing to"
            " repair it by"
        ) from None


def _whole_lines(path: Path) -> tuple[Record | None, list[Record]]:
    """The header and the saves of a journal whose lines are whole, each taken by itself."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    records = [record for line in lines if (record := journal.parse_line(line)) is not None]
    header = next((r for r in records if "format_version" in r), None)
    return header, [record for record in records if "save" in record]


@dataclass
class _Row:
    """What was recorded of an episode."""

    number: int
    file: int
    span: tuple[int, int]
    """Its rows in its data file."""
    facts: dict[str, Any]
    sha256: str
    videos: dict[str, tuple[Path, float, str]] = field(default_factory=dict)
    """Camera -> file, start [s], sha256 of the file."""


def _rewrite(root: Path, schema: Task) -> list[str]:
    """Write the episodes that are intact to a new dataset, and put it in place of the old one."""
    lock = files.lock(root)
    try:
        temporary = root / ".repairing"
        files.remove_folder(temporary)
        dropped: list[str] = []
        with DatasetWriter(temporary, schema) as writer:
            rows = _rows(root, schema)
            for file, group in itertools.groupby(rows, lambda row: row.file):
                kept = _intact_episodes(root, schema, file, list(group), dropped)
                writer.save_episodes(kept)
        for name in ("data", "videos"):
            for folder in files.make_folder(temporary / name):
                files.flush(folder)
        files.move(temporary, root / _NEW)
    finally:
        files.unlock(lock)
    _swap(root)
    return dropped


def _swap(root: Path) -> None:
    """Put a repaired dataset in place. May be called again after a crash at any point."""
    new = root / _NEW
    if not new.is_dir():
        return
    lock = files.lock(root)
    try:
        # While meta/ is away the folder is no dataset, so that nobody reads half of each.
        for name in ("meta", "data", "videos"):
            if (new / name).is_dir() and (root / name).exists():
                files.set_aside(root, [name])
        for name in ("data", "videos", "meta"):
            if (new / name).is_dir():
                files.move(new / name, root / name)
        files.remove_folder(new)
    finally:
        files.unlock(lock)


def _rows(root: Path, schema: Task) -> list[_Row]:
    """All that is recorded of episodes: in whole lines of the journal, else in meta/episodes."""
    rows: dict[int, _Row] = {}
    saves = _whole_lines(root / journal.NAME)[1]
    videos: dict[str, str] = {}
    for save in saves:
        with contextlib.suppress(*_NO_SENSE):
            videos |= {entry["path"]: entry["sha256"] for entry in save["files"][1:]}
    with contextlib.suppress(*_NO_SENSE):
        rows = {row.number: row for row in _derived_rows(root, schema)}
    for save in saves:
        with contextlib.suppress(*_NO_SENSE):
            rows |= {row.number: row for row in _journal_rows(root, save, videos)}
    return [rows[number] for number in sorted(rows)]


def _journal_rows(root: Path, save: Record, videos: dict[str, str]) -> Iterator[_Row]:
    own = save["episodes"]
    final_obs = journal.decode_floats([own["final_obs"]]).reshape(len(own["length"]), -1)
    stop = 0
    for i, length in enumerate(own["length"]):
        start, stop = stop, stop + length
        places = {}
        for camera, place in own["videos"].items():
            name = v3.video_path(camera, place["file"][i])
            places[camera] = (root / name, place["start_s"][i], videos.get(name, ""))
        facts = {
            "task_id": own["task_id"][i],
            "instruction": save["instructions"][str(own["task_index"][i])],
            "behavior": own["behavior"][i],
            "seed": own["seed"][i],
            "terminated": bool(own["terminated"][i]),
            "truncated": bool(own["truncated"][i]),
            "final_obs": final_obs[i],
        }
        number = int(save["first_episode"]) + i
        yield _Row(number, int(save["save"]), (start, stop), facts, own["sha256"][i], places)


def _derived_rows(root: Path, schema: Task) -> Iterator[_Row]:
    path = root / v3.episodes_path(0)
    try:
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        table = file.read().to_pylist()
    except (OSError, pa.ArrowException, ValueError):
        return
    stops: dict[int, int] = {}
    for row in table:
        number = row["data/chunk_index"] * v3.FILES_PER_CHUNK + row["data/file_index"]
        start = stops.get(number, 0)
        stops[number] = stop = start + row["length"]
        places = {}
        for camera in schema.cameras:
            if camera.storage == "video":
                key = f"videos/{v3.image_key(camera.name)}"
                video_file = row[f"{key}/chunk_index"] * v3.FILES_PER_CHUNK
                video_file += row[f"{key}/file_index"]
                places[camera.name] = (
                    root / v3.video_path(camera.name, video_file),
                    row[f"{key}/from_timestamp"],
                    row[f"{key}/sha256"],
                )
        facts = {n: row[n] for n in ("task_id", "behavior", "seed", "terminated", "truncated")}
        facts["instruction"] = row["tasks"][0]
        facts["final_obs"] = np.array(row.get("final_obs", []), np.float32)
        yield _Row(row["episode_index"], number, (start, stop), facts, row["sha256"], places)


def _intact_episodes(
    root: Path, schema: Task, file: int, rows: list[_Row], dropped: list[str]
) -> list[Episode]:
    """The episodes of a data file that are what was saved; adds a line for each other one."""
    path = root / v3.data_path(file)
    content = path.read_bytes() if path.is_file() else b""
    kept = []
    for row in rows:
        try:
            kept.append(_read_episode(path, content, schema, row))
        except _NO_SENSE as error:
            told = str(error) if type(error) is ValueError else "what is recorded makes no sense"
            reason = told.replace(f"{root}/", "")
            dropped.append(f"episode {row.number} ({row.facts['task_id']}): {reason}")
    return kept


def _read_episode(path: Path, content: bytes, schema: Task, row: _Row) -> Episode:
    if not content:
        raise ValueError(f"{path}: missing or empty")
    frames = parquet.decode(content, path, v3.frames_schema(schema), [row.span])
    arrays = v3.episode_arrays(frames, schema)
    arrays["action_expert"] = v3.without_unknown_label(arrays["action_expert"])
    episode = Episode(**arrays, **row.facts)
    if v3.episode_sha256(episode) != row.sha256:
        raise ValueError(f"{path}: damaged: not what was saved")
    clips, stored = {}, {}
    for camera in schema.cameras:
        if camera.storage == "image":
            stored[camera.name] = v3.png_files(frames, camera.name)
            continue
        video_path, start_s, sha256 = row.videos[camera.name]
        if files.sha256(video_path) != sha256:
            raise ValueError(f"{video_path}: damaged: its checksum is not the one recorded")
        clips[camera.name] = Clip(video_path, float(start_s))
    episode.images = video.Pictures(clips, stored, schema.cameras, path)
    return episode
