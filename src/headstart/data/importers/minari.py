"""Minari 0.4 and 0.5 data sets: HDF5, Arrow and Parquet.

An episode has T actions and T + 1 observations, so that its final observation is exact. In infos
row 0 is the reset's and row t + 1 is what action t led to.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from headstart.artifact import read_json
from headstart.data.importers.base import (
    MAX_DIMENSIONS,
    Dropped,
    Source,
    feature_channels,
    slug,
)
from headstart.data.importers.minari_files import (
    Leaf,
    RawEpisode,
    leaves,
    main_file,
    read_arrow,
    read_hdf5,
    text,
)
from headstart.types import Camera, Channel, Episode, Role

ASSUMED_HZ = 10.0
"""Minari does not keep the control rate."""

_BEHAVIORS = ("human", "expert", "random")
_INSTRUCTIONS = ("instruction", "language_instruction", "mission", "task", "prompt")


class MinariSource(Source):
    """A Minari data set, opened for reading."""

    seekable = True

    def __init__(self, data: Path, metadata: dict[str, Any], robot: str) -> None:
        self.data = data
        self.format = metadata["data_format"]
        self.task = _task(metadata, data)
        self.robot = robot or slug(self.task, "robot")
        self.instruction = _instruction(metadata, self.task)
        self.behavior = _behavior(metadata)
        jpeg = bool(metadata.get("jpeg_encoding", True))
        where = str(data / "metadata.json")
        obs = list(leaves(_space(metadata, "observation_space", where), where, jpeg))
        action = list(leaves(_space(metadata, "action_space", where), where, jpeg))
        self.dropped = [line for leaf in obs + action if (line := _unusable(leaf))]
        self.obs = [leaf for leaf in obs if leaf.kind == "numbers" and not _unusable(leaf)]
        self.action = [leaf for leaf in action if leaf.kind == "numbers" and not _unusable(leaf)]
        self.pictures = {
            leaf.feature.replace("/", "_") or "camera": leaf
            for leaf in obs
            if leaf.kind == "picture" and not _unusable(leaf)
        }
        texts = [leaf for leaf in obs if leaf.kind == "text"]
        self.words = next(
            (leaf for leaf in texts if leaf.keys and leaf.keys[-1] in _INSTRUCTIONS), None
        )
        if not self.action or not (self.obs or self.pictures):
            raise ValueError(f"{where}: its spaces hold no actions, or nothing that is observed")
        own = _own(metadata, self.obs, self.action) if not robot else None
        super().__init__(
            f"Minari {metadata.get('minari_version', '')} {self.format}".replace("  ", " "),
            own[0] if own else self._named_channels(),
            own[1] if own else ASSUMED_HZ,
            int(metadata["total_episodes"]),
            tuple(Camera(n, p.shape[0], p.shape[1], "image") for n, p in self.pictures.items()),
        )
        self._note_what_changes(texts, action)
        self.rate_is_known = own is not None

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        if not self.rate_is_known and self.control_hz == ASSUMED_HZ:
            self.note(f"the control rate is not known: {ASSUMED_HZ:g} Hz assumed; --control-hz")
        numbers = range(start, self.num_episodes)
        if self.format == "hdf5":
            episodes = read_hdf5(self.data, numbers)
        else:
            episodes = read_arrow(self.data, numbers, self.format)
        for raw in episodes:
            if raw.infos:
                self.note(f"infos left out: {', '.join(raw.infos)}")
            yield self._episode(raw)

    def _episode(self, raw: RawEpisode) -> Episode | Dropped:
        steps = len(raw.reward)
        obs = _matrix(raw.observations, self.obs, steps + 1)
        action = _matrix(raw.actions, self.action, steps)
        if obs is None or action is None:
            return Dropped("not one observation more than actions, and a reward for each")
        images = {n: _pictures(raw.observations(p), p) for n, p in self.pictures.items()}
        if any(len(frames) != steps + 1 for frames in images.values()):
            return Dropped("not one picture more than actions")
        instruction = raw.facts.get("instruction") or self.instruction
        if self.words is not None and len(rows := raw.observations(self.words)):
            instruction = text(rows[0]) or instruction
        success = np.zeros(steps, bool)
        if raw.success is not None and len(raw.success) >= steps:
            success = np.asarray(raw.success[len(raw.success) - steps :]).reshape(steps) > 0
        return Episode(
            task_id=raw.facts.get("task_id") or f"{self.robot}/{slug(instruction)}",
            instruction=instruction,
            obs=obs[:-1],
            action=action,
            reward=np.asarray(raw.reward, np.float32).reshape(steps),
            success=success,
            final_obs=obs[-1].copy(),
            terminated=raw.terminated,
            truncated=raw.truncated,
            seed=raw.facts.get("seed", -1),
            behavior=raw.facts.get("behavior") or self.behavior,
            images={name: frames[:-1] for name, frames in images.items()},
        )

    def _named_channels(self) -> tuple[Channel, ...]:
        found: list[Channel] = []
        for leaf in self.obs:
            is_goal = "goal" in leaf.feature and "achieved" not in leaf.feature
            role: Role = "goal" if is_goal else "observation"
            found += feature_channels(self.robot, leaf.feature or "state", leaf.shape, role)
        for leaf in self.action:
            feature = f"action.{leaf.feature}" if leaf.keys else "action"
            found += feature_channels(self.robot, feature, leaf.shape, "action")
        return tuple(found)

    def _note_what_changes(self, texts: list[Leaf], action: list[Leaf]) -> None:
        for line in self.dropped:
            self.note(line)
        for leaf in texts:
            if leaf is not self.words:
                self.note(f"observation '{leaf.feature}' left out: text")
        for leaf in action:
            if leaf.kind != "numbers":
                self.note(f"action '{leaf.feature}' left out: a {leaf.kind}")
        wide = {leaf.dtype for leaf in self.obs + self.action} - {"float32", "float16"}
        if wide := sorted(wide - {"uint8", "int8", "uint16", "int16", "bool"}):
            self.note(f"{', '.join(wide)} kept as float32")
        if self.pictures:
            self.note("the picture after the last action has no place: left out")
        if any(len(leaf.shape) < 3 or leaf.shape[2] == 1 for leaf in self.pictures.values()):
            self.note("grey pictures kept as RGB")


def matches(path: Path) -> bool:
    """A folder with ``data/metadata.json``, or the folder ``data`` itself."""
    data = _data_folder(path)
    if data is None:
        return False
    metadata = read_json(data / "metadata.json")
    has_format = isinstance(metadata, dict) and "data_format" in metadata
    return has_format or main_file(data).exists()


def open_source(path: Path, robot: str) -> Source:
    """Raises ValueError: metadata.json or a space is not as Minari writes it."""
    data = _data_folder(path)
    if data is None:
        raise ValueError(f"{path}: no data/metadata.json; give the folder of one data set")
    where = data / "metadata.json"
    metadata = read_json(where)
    metadata = {"data_format": "hdf5"} | metadata if isinstance(metadata, dict) else {}
    if metadata.get("data_format") not in ("hdf5", "arrow", "parquet"):
        raise ValueError(
            f"{where}: data_format {metadata.get('data_format')!r}: hdf5, arrow, parquet"
        )
    total = metadata.get("total_episodes")
    if not isinstance(total, int) or total < 0:
        raise ValueError(f"{where}: total_episodes is {total!r}; expected a whole number")
    return MinariSource(data, metadata, robot)


def _unusable(leaf: Leaf) -> str:
    """Why a leaf cannot be kept; "" if it can, or is text."""
    size = int(np.prod(leaf.shape))
    if leaf.kind == "numbers" and size > MAX_DIMENSIONS:
        return f"'{leaf.feature}' left out: {size} numbers a step; at most {MAX_DIMENSIONS}"
    if leaf.kind == "picture" and len(leaf.shape) == 3 and leaf.shape[2] not in (1, 3):
        return f"'{leaf.feature}' left out: pictures of {leaf.shape[2]} colours"
    return ""


def _matrix(fetch: Callable[[Leaf], Any], parts: list[Leaf], rows: int) -> np.ndarray | None:
    """(rows, D) float32: the parts side by side. None where one has another number of rows."""
    widths = [int(np.prod(leaf.shape)) for leaf in parts]
    matrix = np.empty((rows, sum(widths)), np.float32)
    start = 0
    for leaf, width in zip(parts, widths, strict=True):
        values = np.asarray(fetch(leaf))
        if values.size != rows * width or len(values) != rows:
            return None
        matrix[:, start : start + width] = values.reshape(rows, width)
        start += width
    return matrix


def _pictures(rows: Any, leaf: Leaf) -> np.ndarray:
    """(T + 1, H, W, 3) uint8."""
    height, width = leaf.shape[:2]
    if leaf.encoded:
        rows = np.stack([_jpeg(row, height, width) for row in rows])
    rows = np.asarray(rows, np.uint8).reshape(len(rows), height, width, -1)
    return rows if rows.shape[3] == 3 else np.repeat(rows, 3, axis=3)


def _jpeg(content: bytes, height: int, width: int) -> np.ndarray:
    """Pillow, as Minari does it: other decoders differ from it in the last bit."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            if picture.size != (width, height):
                raise ValueError(f"it is {picture.size}, the space says {(width, height)}")
            return np.array(picture, np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a JPEG picture is damaged: {error}") from None


def _data_folder(path: Path) -> Path | None:
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return folder
    return None


def _space(metadata: dict[str, Any], name: str, where: str) -> Any:
    text = metadata.get(name)
    if text is None:
        raise ValueError(f"{where}: no {name}; write the data set again with Minari 0.5")
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {name} is not JSON: {error}") from None


def _task(metadata: dict[str, Any], data: Path) -> str:
    """The environment in readable words: ``AdroitHandDoor-v1`` -> ``adroit hand door``."""
    name = ""
    with suppress(KeyError, TypeError, ValueError, AttributeError, RecursionError):  # or do without
        name = json.loads(metadata["env_spec"])["id"]
    name = str(name or metadata.get("dataset_id") or data.resolve().parent.name)
    return readable(name)


def readable(name: str) -> str:
    """``gym/PointMaze_UMaze-v3`` -> ``point maze u maze``."""
    stem = re.sub(r"-v\d+$", "", name).rpartition("/")[2]
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", stem)
    return re.sub(r"[\W_]+", " ", apart).strip().lower()


def _instruction(metadata: dict[str, Any], task: str) -> str:
    """A description of one short line is taken for the task; a page of prose is not."""
    description = metadata.get("description")
    if isinstance(description, str) and 0 < len(line := description.strip()) <= 200:
        return line if "\n" not in line else task
    return task


def _behavior(metadata: dict[str, Any]) -> str:
    words = re.split(r"[\W_]+", str(metadata.get("dataset_id", "")).rpartition("/")[2])
    return next((word for word in _BEHAVIORS if word in words), "unknown")


def _own(
    metadata: dict[str, Any], obs: list[Leaf], action: list[Leaf]
) -> tuple[tuple[Channel, ...], float] | None:
    """The channels and the control rate [Hz] that a data set exported by us carries."""
    try:
        found = tuple(Channel(**channel) for channel in metadata["headstart"]["channels"])
        control_hz = float(metadata["headstart"]["control_hz"])
    except (KeyError, TypeError, ValueError):
        return None
    sizes = [sum(int(np.prod(leaf.shape)) for leaf in part) for part in (obs, action)]
    num_actions = sum(c.role == "action" for c in found)
    fits = sizes == [len(found) - num_actions, num_actions] and control_hz > 0
    return (found, control_hz) if fits else None
