"""The pictures of one save: encoded or linked, counted, and where each episode's are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import files, statistics, video
from headstart.data import lerobot_v3 as v3
from headstart.data.journal import Record
from headstart.types import Camera, Clip, Episode


class Footage:
    """Takes the pictures of a save's episodes one after another, then writes them.

    Attributes:
        entries: what the journal says of each new video file.
        places: camera -> ``file`` and ``start_s`` of each episode's video.
        png_files: camera -> one file a step, of cameras whose pictures are stored in a column.
        histograms: camera -> what ``statistics.histogram`` gives.

    Args:
        known: camera -> sha256 -> entry of each video file that the dataset has.
        added: where new files go.
    """

    def __init__(
        self,
        schema: v3.Schema,
        known: Mapping[str, Mapping[str, Record]],
        added: files.Additions,
        root: Path,
    ) -> None:
        self._schema = schema
        self._fps = v3.frames_per_second(schema)
        self._known = {camera: dict(entries) for camera, entries in known.items()}
        self._added = added
        self._root = root
        self._arrays: dict[str, list[tuple[int, str, np.ndarray]]] = {}
        self._clips: dict[tuple[str, Path], tuple[int, np.ndarray]] = {}
        self._num_episodes = 0
        self.entries: list[Record] = []
        self.places: dict[str, dict[str, list[Any]]] = {
            camera.name: {"file": [], "start_s": []}
            for camera in schema.cameras
            if camera.storage == "video"
        }
        self.png_files: dict[str, list[bytes]] = {
            camera.name: [] for camera in schema.cameras if camera.storage == "image"
        }
        self.histograms: dict[str, Any] = {
            camera.name: {"values": [[0] * 256] * 3, "pictures": 0} for camera in schema.cameras
        }

    def take(self, episode: Episode, where: str) -> None:
        """The next episode, which ``v3.check_episode`` has seen.

        Raises:
            ValueError: a clip's file is damaged, of another size or has no frame for a step.
        """
        for camera in self._schema.cameras:
            images = episode.images[camera.name]
            at = f"{where}, camera '{camera.name}'"
            if isinstance(images, Clip):
                number, times_s = self._link(camera, images, at)
                video.check_clip(times_s, images, episode.num_steps, self._fps, at)
                self._place(camera, number, float(images.start_s))
                continue
            self._count(camera, images[statistics.sampled(len(images))])
            if camera.storage == "image":
                self.png_files[camera.name] += video.encode_png(images)
            else:
                self._arrays.setdefault(camera.name, []).append((self._num_episodes, at, images))
                self._place(camera, -1, 0.0)  # ``write`` says where
        self._num_episodes += 1

    def write(self) -> None:
        """Encode one file a camera of the pictures that were given as arrays.

        Raises:
            ValueError: the encoder lost or moved a frame.
        """
        for camera in self._schema.cameras:
            taken = self._arrays.get(camera.name)
            if not taken:
                continue
            pictures = (picture for _, _, array in taken for picture in array)
            content = video.encode_mp4(pictures, camera, self._fps)
            sha256 = hashlib.sha256(content).hexdigest()
            path = self._root / v3.video_path(camera.name, self._number(camera, sha256))
            with video.VideoFile(content, path) as file:
                times_s = file.times_s()
                if self._enter(camera, sha256, len(content), file):
                    self._added.create(str(path.relative_to(self._root)), content)
            first = 0
            for episode, where, array in taken:
                clip = Clip(path, first / self._fps)
                video.check_clip(times_s, clip, len(array), self._fps, where)
                self.places[camera.name]["file"][episode] = self._number(camera, sha256)
                self.places[camera.name]["start_s"][episode] = clip.start_s
                first += len(array)
            if first != len(times_s):
                raise ValueError(f"{path}: {len(times_s)} frames encoded of {first} pictures")

    def _link(self, camera: Camera, clip: Clip, where: str) -> tuple[int, np.ndarray]:
        """Number of the file among ours, which it is linked to if it is new, and its times."""
        key = (camera.name, clip.path)
        if key not in self._clips:
            self._clips[key] = self._link_file(camera, clip.path.resolve(), where)
        return self._clips[key]

    def _link_file(self, camera: Camera, path: Path, where: str) -> tuple[int, np.ndarray]:
        try:
            sha256 = files.sha256(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        with video.VideoFile(path, path) as file:
            times_s = file.times_s()
            if (file.height, file.width) != (camera.height, camera.width):
                raise ValueError(
                    f"{where}: {path} has pictures of {file.height} x {file.width} pixels,"
                    f" expected {camera.height} x {camera.width}"
                )
            number = self._number(camera, sha256)
            if self._enter(camera, sha256, path.stat().st_size, file):
                self._count(camera, file.frames(times_s[statistics.sampled(len(times_s))]))
                self._added.link(v3.video_path(camera.name, number), path)
        return number, times_s

    def _number(self, camera: Camera, sha256: str) -> int:
        """Number of the video file with this content: a known one's, or the next."""
        known = self._known[camera.name]
        return known[sha256]["number"] if sha256 in known else len(known)

    def _enter(self, camera: Camera, sha256: str, num_bytes: int, file: video.VideoFile) -> bool:
        """Make a file known; False if it was."""
        known = self._known[camera.name]
        if sha256 in known:
            return False
        number = len(known)
        known[sha256] = {
            "path": v3.video_path(camera.name, number),
            "bytes": num_bytes,
            "sha256": sha256,
            "camera": camera.name,
            "number": number,
            "codec": file.codec,
            "pixel_format": file.pixel_format,
        }
        self.entries.append(known[sha256])
        return True

    def _place(self, camera: Camera, number: int, start_s: float) -> None:
        self.places[camera.name]["file"].append(number)
        self.places[camera.name]["start_s"].append(start_s)

    def _count(self, camera: Camera, pictures: np.ndarray) -> None:
        new, total = statistics.histogram(pictures), self.histograms[camera.name]
        total["values"] = np.add(total["values"], new["values"]).tolist()
        total["pictures"] += new["pictures"]
