"""robomimic HDF5, which LIBERO, MimicGen and RoboCasa share.

::

    data                attributes env_args (JSON), total; LIBERO: problem_info (JSON)
    data/demo_0         attributes num_samples, model_file; RoboCasa: ep_meta (JSON)
        actions         (T, A)
        obs/<key>       (T, ...), pictures (T, H, W, 3) uint8
        next_obs/<key>  the same, one step later; often left out
        rewards, dones  (T,), of the state after the action; often left out
        states          the simulator's
    mask/<filter>       names of demonstrations

A folder of such files, e.g. a LIBERO suite, is read as one data set. Sources: robomimic 0.3.0,
``scripts/dataset_states_to_obs.py`` and ``utils/dataset.py``; LIBERO,
``scripts/create_dataset.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.data.importers import hdf5
from headstart.data.importers.base import (
    MAX_DIMENSIONS,
    Dropped,
    Source,
    feature_channels,
    role_of,
    slug,
    unknown_reward,
)
from headstart.data.importers.minari import readable
from headstart.types import Camera, Channel, Episode

CAMERA_STORAGE: Literal["video", "image"] = "video"
"""LIBERO-90 is 66 GB of raw pictures: about 30 GB as PNG and 2 GB as h264."""

ROBOSUITE_HZ = 20.0
"""robosuite's own control_freq, where env_args names none."""

_ENDINGS = (".hdf5", ".h5")
_MAGIC = b"\x89HDF\r\n\x1a\n"
_READ = ("actions", "rewards", "dones", "obs", "next_obs")


class RobomimicSource(Source):
    """One or more robomimic files, opened for reading."""

    seekable = True

    def __init__(self, files: list[Path], robot: str) -> None:
        self.demos: list[tuple[Path, str]] = []
        self._lines: list[str] = []
        for path in files:
            with hdf5.open_file(path) as file:
                demos = _demos(file)
                self.demos += [(path, demo) for demo in demos]
                self._note_left_out(file, demos)
                if path == files[0]:
                    self._read_layout(file, robot)
        super().__init__(
            "robomimic HDF5", self._channels, self._control_hz, len(self.demos), self._cameras
        )
        for line in self._lines:
            self.note(line)
        self.note(
            "dones tell a success or a recording's end, no terminal state: an episode is"
            " terminated if its last step succeeded, else truncated"
        )

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        left = self.demos[start:]
        while left:
            path = left[0][0]
            with hdf5.open_file(path) as file:
                data = hdf5.get_group(file, "data")
                about = _About(data, path)
                while left and left[0][0] == path:
                    yield self._episode(hdf5.get_group(data, left.pop(0)[1]), about, path)

    def _episode(self, demo: Any, about: _About, path: Path) -> Episode | Dropped:
        action = hdf5.read(demo, "actions")
        steps = len(action)
        if action.size != steps * self._num_actions:
            raise ValueError(f"{path}: {demo.name}/actions is {action.shape}, unlike the first's")
        obs_group = hdf5.get_group(demo, "obs")
        obs, images = np.empty((steps, len(self.obs_channels)), np.float32), {}
        final_obs = np.full(obs.shape[1], np.nan, np.float32)
        after = hdf5.get_group(demo, "next_obs") if hdf5.has(demo, "next_obs") else None
        for key, columns in self._columns.items():
            values = hdf5.read(obs_group, key)
            if len(values) != steps or values.size != steps * (columns.stop - columns.start):
                raise ValueError(
                    f"{path}: {demo.name}/obs/{key} is {values.shape}, unlike the first's"
                )
            obs[:, columns] = values.reshape(steps, -1)
            if after is not None and steps:
                final_obs[columns] = hdf5.read(after, key, last_row=True).reshape(-1)
        for camera in self.cameras:
            images[camera.name] = frames = hdf5.read(obs_group, camera.name)
            if frames.dtype != np.uint8 or frames.shape != (steps, camera.height, camera.width, 3):
                raise ValueError(f"{path}: {demo.name}/obs/{camera.name} is {frames.shape}")
        reward = self._scalars(demo, "rewards", steps)
        success = np.zeros(steps, bool) if reward is None else reward >= 1
        instruction = about.instruction(demo)
        succeeded = bool(steps and success[-1])
        return Episode(
            task_id=f"{self.robot}/{slug(instruction)}",
            instruction=instruction,
            obs=obs,
            action=action.reshape(steps, -1).astype(np.float32, copy=False),
            reward=unknown_reward(steps) if reward is None else reward,
            success=success,
            final_obs=final_obs,
            terminated=succeeded,
            truncated=not succeeded,
            seed=-1,
            behavior=about.behavior,
            images=images,
        )

    def _scalars(self, demo: Any, name: str, steps: int) -> np.ndarray | None:
        """(T,) float32; None where the demonstration has none."""
        if not hdf5.has(demo, name):
            self.note(f"no {name}: unknown")
            return None
        values = hdf5.read(demo, name).reshape(-1).astype(np.float32, copy=False)
        if len(values) != steps:
            self.note(f"{name} of another length than actions: unknown")
            return None
        return values

    def _read_layout(self, file: Any, robot: str) -> None:
        """Channels and cameras: those of the first demonstration."""
        about = _About(hdf5.get_group(file, "data"), Path(file.filename))
        self.robot = robot or about.robot
        self._control_hz = about.control_hz or ROBOSUITE_HZ
        if not about.control_hz:
            self._lines.append(f"no control_freq: robosuite's {ROBOSUITE_HZ:g} Hz assumed")
        if not self.demos:
            raise ValueError(f"{file.filename}: no group data/demo_0")
        demo = hdf5.get_group(hdf5.get_group(file, "data"), self.demos[0][1])
        channels: list[Channel] = []
        self._columns: dict[str, slice] = {}
        cameras: list[Camera] = []
        keys = hdf5.names(hdf5.get_group(demo, "obs")) if hdf5.has(demo, "obs") else []
        for key in keys:
            shape, dtype = hdf5.shape_of(hdf5.get_group(demo, "obs"), key) or ((), np.dtype("O"))
            size = int(np.prod(shape[1:]))
            if dtype == np.uint8 and len(shape) == 4 and shape[3] == 3:
                storage = "image" if shape[1] % 2 or shape[2] % 2 else CAMERA_STORAGE
                cameras.append(Camera(key, shape[1], shape[2], storage))
            elif dtype.kind in "biuf" and shape and 0 < size <= MAX_DIMENSIONS:
                self._columns[key] = slice(len(channels), len(channels) + size)
                channels += feature_channels(self.robot, key, shape[1:], role_of(key))
                self._note_dtype(dtype)
            else:
                self._lines.append(f"obs/{key} left out: {dtype} {shape[1:]} a step")
        if not channels and not cameras:
            raise ValueError(
                f"{file.filename}: no observations in data/{self.demos[0][1]}/obs; make them with"
                " robomimic's dataset_states_to_obs.py"
            )
        shape, dtype = hdf5.shape_of(demo, "actions") or ((), np.dtype("O"))
        self._note_dtype(dtype)
        if not shape or not 0 < int(np.prod(shape[1:])) <= MAX_DIMENSIONS:
            raise ValueError(f"{file.filename}: {demo.name}/actions is {shape}, expected (T, A)")
        actions = feature_channels(self.robot, "action", shape[1:], "action")
        self._num_actions = len(actions)
        self._channels, self._cameras = (*channels, *actions), tuple(cameras)
        if any(camera.storage == "video" for camera in cameras):
            self._lines.append("pictures kept as h264 video, which is lossy")
        if not hdf5.has(demo, "next_obs"):
            self._lines.append("no next_obs: the observation after the last action is unknown")
        if about.is_libero:
            self._lines.append(
                "LIBERO records what was seen after the action of the same row; kept as it is"
            )

    def _note_dtype(self, dtype: np.dtype) -> None:
        if dtype.itemsize > 2 and dtype != np.float32:
            self._lines.append(f"{dtype} kept as float32")

    def _note_left_out(self, file: Any, demos: list[str]) -> None:
        """Say which data sets and filters have no place."""
        if demos:
            demo = hdf5.get_group(hdf5.get_group(file, "data"), demos[0])
            if rest := [name for name in hdf5.names(demo) if name not in _READ]:
                self._lines.append(f"left out: {', '.join(rest)}")
            if "model_file" in demo.attrs:
                self._lines.append("left out: model_file, the simulator's model")
        if hdf5.has(file, "mask"):
            filters = hdf5.names(hdf5.get_group(file, "mask"))
            self._lines.append(f"left out: the filters {', '.join(filters)}; all episodes are read")


class _About:
    """What the attributes of ``data`` say of the task."""

    def __init__(self, data: Any, path: Path) -> None:
        env = _json_attribute(data, "env_args")
        kwargs = env.get("env_kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        problem = _json_attribute(data, "problem_info")
        self.is_libero = bool(problem)
        self.behavior = "human" if problem or {"ph", "mh"} & set(path.parts) else "unknown"
        name = str(env.get("env_name") or path.stem)
        robots = kwargs.get("robots") or readable(name)
        self.robot = slug(
            robots if isinstance(robots, str) else " ".join(map(str, robots)), "robot"
        )
        rate = kwargs.get("control_freq")
        self.control_hz = float(rate) if isinstance(rate, (int, float)) and 0 < rate < 1e5 else 0.0
        said = problem.get("language_instruction") or env.get("env_lang") or env.get("lang") or ""
        said = said if isinstance(said, str) else "".join(map(str, said))  # LIBERO: also as a list
        self._instruction = said.strip().strip('"') or (
            _libero_name(path) if self.is_libero else readable(name)
        )

    def instruction(self, demo: Any) -> str:
        """RoboCasa words the task anew for each demonstration."""
        return str(_json_attribute(demo, "ep_meta").get("lang") or self._instruction)


def matches(path: Path) -> bool:
    """An HDF5 file, or a folder that holds some and no other known layout."""
    return bool(_files(path))


def open_source(path: Path, robot: str) -> Source:
    """Raises ValueError: no demonstrations, no observations, or a damaged file."""
    files = _files(path)
    if not files:
        raise ValueError(f"{path}: no file with the ending {' or '.join(_ENDINGS)}")
    return RobomimicSource(files, robot)


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.glob("*.*")) if path.is_dir() else []
    return [p for p in found if p.suffix in _ENDINGS and _starts_with(p, _MAGIC)]


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _demos(file: Any) -> list[str]:
    """Names of the demonstrations in the order of their numbers."""
    if not hdf5.has(file, "data"):
        raise ValueError(f"{file.filename}: no group 'data': not a robomimic file")
    names = hdf5.names(hdf5.get_group(file, "data"))
    return sorted((n for n in names if re.fullmatch(r"demo_\d{1,18}", n)), key=lambda n: int(n[5:]))


def _json_attribute(group: Any, name: str) -> dict[str, Any]:
    """{} where there is none."""
    text = hdf5.text_attribute(group, name)
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{group.file.filename}: attribute '{name}' is not JSON: {error}"
        ) from None
    return value if isinstance(value, dict) else {}


def _libero_name(path: Path) -> str:
    """``KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5`` -> ``turn on the stove``."""
    stem = re.sub(r"^[A-Z_]+SCENE\d+_", "", path.stem).removesuffix("_demo")
    return stem.replace("_", " ")
