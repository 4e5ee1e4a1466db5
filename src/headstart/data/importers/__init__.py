"""Other people's datasets become ours: ``import_dataset`` recognises the format and streams it."""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from headstart.artifact import Artifact, read_json, write_card, write_json
from headstart.data.importers.ahead import read_ahead, take
from headstart.data.importers.base import Dropped, Source
from headstart.data.store import DatasetWriter
from headstart.ledger import Cost, settle, write_unfinished_bill
from headstart.types import Episode

FORMATS = {
    "lerobot": "LeRobot v2.0, v2.1 or v3.0 (a folder with meta/info.json)",
    "minari": "Minari HDF5, Arrow or Parquet (a folder with data/metadata.json)",
    "robomimic": "robomimic, LIBERO or MimicGen (a file .hdf5 with /data/demo_0)",
    "ogbench": "OGBench (a file .npz with observations, actions and terminals)",
}
"""Module in this package -> what it reads and what that looks like. Modules load when needed."""

BATCH_BYTES = 16 * 2**20
"""Saved together: one data file of the dataset, and what an interruption makes us read again."""

ROW_GROUP_STEPS = 2**10
"""Of a data file's row groups. Damage costs all of one, but what was imported can be again."""

_PROGRESS = ".import.json"


@dataclass(frozen=True)
class ImportConfig:
    """What was imported, as config.json keeps it."""

    source: Path
    robot: str
    control_hz: float


def import_dataset(
    src: Path, dst: Path, robot: str = "", control_hz: float = 0.0, resume: bool = False
) -> dict[str, Any]:
    """Make a dataset of ours out of one in another format, which is recognised by its files.

    An import that was stopped and resumed ends with the same bytes as one that was not.

    Args:
        src: folder or file of the source; see ``FORMATS``.
        dst: folder to write to, new or empty, or with ``resume`` of the same import.
        robot: first part of the channels' names; "" for the source's own.
        control_hz: steps a second; 0.0 for the source's own.

    Returns:
        What ``result.json`` holds: ``format``, ``episodes`` and ``steps`` stored,
        ``source_episodes`` = episodes + the sum of ``dropped`` (reason -> episodes), ``notes``
        (what was changed or left out) and ``cameras``.

    Raises:
        ValueError: no format is recognised, the source is damaged, empty or ours already, it does
            not say its control rate and neither do you, or ``dst`` holds something else.
    """
    src, dst = Path(src), Path(dst)
    source = _open(src, robot, control_hz)
    config = ImportConfig(src.resolve(), robot, control_hz)
    artifact = Artifact.create(dst, "import", config, resume)
    if artifact.is_complete:
        settle(dst)
        return artifact.result()
    with_pictures = any(camera.storage == "image" for camera in source.cameras)
    with DatasetWriter(dst, source, 1 if with_pictures else ROW_GROUP_STEPS) as writer:
        dropped = _copy(source, src, writer)
        episodes, steps = writer.num_episodes, writer.num_steps
    assert episodes + dropped.total() == source.num_episodes, "an episode was lost"
    if episodes == 0:
        raise ValueError(f"{src}: no episode can be kept: {_counted(dropped)}")
    result = {
        "format": source.name,
        "episodes": episodes,
        "steps": steps,
        "source_episodes": source.num_episodes,
        "dropped": dict(sorted(dropped.items())),
        "cameras": [camera.name for camera in source.cameras],
        "notes": source.notes,
    }
    write_unfinished_bill(dst, "import", replace(Cost.unknown(), demonstrations=episodes))
    write_card(dst, f"{src.name}, imported", _card(result))
    artifact.write_result(result)
    (dst / _PROGRESS).unlink(missing_ok=True)
    settle(dst)
    print("\n".join(_summary(result)))
    return result


def recognise(src: Path) -> ModuleType:
    """The importer module for a folder or file.

    Raises:
        ValueError: there is none for it, or it does not exist.
    """
    if not src.exists():
        raise ValueError(f"{src}: no such file or folder")
    for name in FORMATS:
        module = importlib.import_module(f"headstart.data.importers.{name}")
        if module.matches(src):
            return module
    raise ValueError(f"{src}: not a dataset of a known format: {'; '.join(FORMATS.values())}")


def _open(src: Path, robot: str, control_hz: float) -> Source:
    source: Source = recognise(src).open_source(src, robot)
    if source.num_episodes == 0:
        raise ValueError(f"{src}: a {source.name} dataset without episodes")
    if control_hz and source.cameras and control_hz != source.control_hz:
        raise ValueError(
            f"{src}: its pictures come at {source.control_hz:g} a second, so control_hz cannot be"
            f" {control_hz:g}; leave it out"
        )
    source.control_hz = control_hz or source.control_hz
    if not source.control_hz > 0:
        raise ValueError(f"{src}: {source.name} does not say how many steps a second; --control-hz")
    return source


def _copy(source: Source, src: Path, writer: DatasetWriter) -> Counter[str]:
    """Store all episodes, from where an interrupted import stopped. Returns reason -> dropped."""
    path = writer.root / _PROGRESS
    done = (
        read_json(path) if path.exists() else {"read": 0, "stored": 0, "dropped": {}, "notes": []}
    )
    read, dropped = int(done["read"]), Counter[str](done["dropped"])
    for line in done["notes"]:
        source.note(line)
    unnoticed = writer.num_episodes - int(done["stored"])  # it died right after saving a batch
    with (
        contextlib.closing(read_ahead(source, read, src)) as episodes,
        ThreadPoolExecutor(1) as receiver,
        tqdm(desc="import", unit=" steps", unit_scale=True, initial=writer.num_steps) as bar,
    ):
        ahead = receiver.submit(take, episodes, BATCH_BYTES)
        while batch := ahead.result():
            # The next comes in while this one is stored.
            ahead = receiver.submit(take, episodes, BATCH_BYTES)
            read += len(batch)
            dropped.update(item.reason for item in batch if isinstance(item, Dropped))
            kept = [item for item in batch if isinstance(item, Episode)]
            new, unnoticed = kept[unnoticed:], max(0, unnoticed - len(kept))
            writer.save_episodes(new)
            bar.update(sum(e.num_steps for e in new))
            facts = {"read": read, "stored": writer.num_episodes, "dropped": dict(dropped)}
            write_json(path, facts | {"notes": source.notes})
    return dropped


def _counted(dropped: Mapping[str, int]) -> str:
    return "; ".join(f"{count} dropped: {reason}" for reason, count in sorted(dropped.items()))


def _summary(result: dict[str, Any]) -> list[str]:
    """What was kept and what was not, one line each."""
    tail = f" + {_counted(result['dropped'])}" if result["dropped"] else ""
    return [
        f"{result['format']}: {result['source_episodes']} episodes = {result['episodes']} stored"
        f" ({result['steps']} steps){tail}",
        *(f"note: {line}" for line in result["notes"]),
    ]


def _card(result: dict[str, Any]) -> list[str]:
    return [f"- {line}" for line in _summary(result)]
