"""Our datasets as Minari data sets, which ``minari.load_dataset`` reads.

Written with h5py alone, as Minari 0.5.4 lays them out (``minari/dataset/_storages/hdf5_storage.py``
and ``minari/serialization.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.artifact import replacing, write_json
from headstart.data.importers.base import slug
from headstart.data.store import Dataset
from headstart.types import Channel, Episode

MINARI_VERSION = "0.5.4"

_DATASET_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]/)?[-_\w]+?-v\d+")
_PACKED: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def export_minari(src: Path, dst: Path, dataset_id: str = "") -> dict[str, Any]:
    """Write a dataset as a Minari data set in HDF5.

    ``observations`` (T + 1, O) float32 end with final_obs, NaN where that is unknown; ``actions``
    (T, A) float32; ``infos`` hold ``success`` (T + 1,) bool and ``instruction`` (T + 1,) bytes. The
    channels' names are under "headstart" in metadata.json, from where our importer takes them.

    Args:
        src: folder of the dataset.
        dst: folder to write to, new or empty. With ``MINARI_DATASETS_PATH=root`` Minari looks for
            it in ``root/dataset_id``.
        dataset_id: ``namespace/name-v0``; "" for one made of the name of ``dst``.

    Returns:
        ``dataset_id``, ``episodes``, ``steps`` and ``notes``: what has no place in Minari.

    Raises:
        ValueError: a damaged dataset, an id that Minari would refuse, or ``dst`` is not empty.
    """
    src, dst = Path(src), Path(dst)
    name = dataset_id or _id_of(dst)
    if not _DATASET_ID.fullmatch(name):
        raise ValueError(f"dataset id '{name}': expected namespace/name-v0")
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise ValueError(f"{dst} is not empty; choose another folder")
    dataset = Dataset(src)
    facts = {"missing_final": 0, "labelled": 0}
    main = dst / "data" / "main_data.hdf5"
    with replacing(main) as temporary:
        _write(temporary, dataset.iter_episodes(), facts)
    _write_metadata(dst, dataset, name, main.stat().st_size)
    return {
        "dataset_id": name,
        "episodes": dataset.num_episodes,
        "steps": dataset.num_steps,
        "notes": _notes(dataset, facts),
    }


def _write(path: Path, episodes: Iterator[Episode], facts: dict[str, int]) -> None:
    import h5py

    with h5py.File(path, "w", track_order=True) as file:
        for number, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{number}"), number, episode)
            facts["missing_final"] += bool(np.isnan(episode.final_obs).all())
            facts["labelled"] += episode.action_expert is not None


def _write_episode(group: Any, number: int, episode: Episode) -> None:
    steps = episode.num_steps
    ended = np.arange(steps) == steps - 1
    group.attrs.update({"id": number, "total_steps": steps, "task_id": episode.task_id})
    group.attrs["behavior"] = episode.behavior
    if episode.seed >= 0:
        group.attrs["seed"] = episode.seed
    arrays = {
        "observations": np.concatenate([episode.obs, episode.final_obs[None]]),
        "actions": episode.action,
        "rewards": episode.reward.astype(np.float64),  # Minari's own type
        "terminations": ended & episode.terminated,
        "truncations": ended & episode.truncated,
        "infos/success": np.concatenate([[False], episode.success]),
        "infos/instruction": np.full(steps + 1, episode.instruction.encode() or b" "),
    }
    for name, values in arrays.items():
        group.create_dataset(name, data=values, **_PACKED)


def _write_metadata(dst: Path, dataset: Dataset, name: str, size: int) -> None:
    """Written last: without it there is no data set."""
    channels = [{"name": c.name, "role": c.role, "unit": c.unit} for c in dataset.channels]
    metadata = {
        "total_episodes": dataset.num_episodes,
        "total_steps": dataset.num_steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": _box(dataset.obs_channels),
        "action_space": _box(dataset.action_channels),
        "dataset_id": name,
        "minari_version": MINARI_VERSION,
        "dataset_size": round(size / 1e6, 1),  # MB
        "headstart": {"control_hz": dataset.control_hz, "channels": channels},
    }
    write_json(dst / "data" / "metadata.json", metadata)


def _box(channels: Sequence[Channel]) -> str:
    """A space without bounds as Minari's JSON, whose infinities are Python's."""
    shape, inf = [len(channels)], float("inf")
    space = {"type": "Box", "dtype": "float32", "shape": shape}
    return json.dumps(space | {"low": [-inf] * shape[0], "high": [inf] * shape[0]})


def _id_of(dst: Path) -> str:
    name = dst.resolve().name
    return name if _DATASET_ID.fullmatch(name) else f"{slug(name, 'dataset')}-v0"


def _notes(dataset: Dataset, facts: dict[str, int]) -> list[str]:
    notes = []
    if dataset.cameras:
        cameras = ", ".join(camera.name for camera in dataset.cameras)
        notes.append(f"cameras left out: {cameras}; Minari would keep every frame uncompressed")
    if facts["missing_final"]:
        notes.append(f"final observation unknown, so NaN, in {facts['missing_final']} episodes")
    if facts["labelled"]:
        notes.append(f"experts' labels left out in {facts['labelled']} episodes")
    return notes
