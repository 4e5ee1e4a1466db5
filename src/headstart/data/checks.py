"""Whether the lines of a journal make sense.

Their hashes say that they are what somebody wrote; this says that it is what our writer writes,
so that whoever reads on meets no surprise: no name outside the folder, no list of another length,
no size that would fill the memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from headstart.data import journal, statistics
from headstart.data import lerobot_v3 as v3
from headstart.data.journal import Journal, Record
from headstart.types import Camera, Channel, Role, Task

DERIVED = (
    "meta/info.json",
    "meta/stats.json",
    "meta/tasks.parquet",
    v3.episodes_path(0),
    statistics.NAME,
)
"""The files that a writer derives from all others."""

_MOST = 2**53  # what JSON keeps of a whole number


def check(found: Journal) -> None:
    """Raises ValueError if the lines are not such as our writer writes."""
    schema = schema_of(found.path, found.header)
    known = _Known(schema)
    for number, record in enumerate(found.records, 2):
        try:
            if "save" in record:
                known.check_save(record)
            else:
                known.check_closed(record, number == len(found.records) + 1)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            reason = f": {error}" if type(error) is ValueError else ""
            raise ValueError(f"{found.path}: line {number} makes no sense{reason}") from None


def schema_of(path: Path, header: Record) -> Task:
    """The channels, cameras and rate that a header, or "headstart" in info.json, tells of.

    Raises:
        ValueError: another version, or it makes no sense.
    """
    journal.check_header(path, header)
    try:
        schema = Task(
            suite="",
            name="",
            instruction="",
            channels=tuple(Channel(**channel) for channel in header["channels"]),
            max_episode_steps=0,
            control_hz=header["control_hz"],
            cameras=tuple(Camera(**camera) for camera in header["cameras"]),
        )
        for channel in schema.channels:
            _expect(_texts([channel.name, channel.unit], 2), "a channel's name")
            _expect(channel.role in get_args(Role), "a channel's role")
        for camera in schema.cameras:
            _expect(_texts([camera.name], 1), "a camera's name")
            _expect(camera.storage in ("video", "image"), "a camera's storage")
            _expect(_numbers([camera.height, camera.width], 2, 1, 2**14), "a camera's size")
        hz = schema.control_hz
        _expect(type(hz) is float and math.isfinite(hz) and 0 < hz < 1e6, "control_hz")
        written = journal.header_of(schema.channels, schema.cameras, hz)
        _expect({name: header[name] for name in written} == written, "a missing name or unit")
        v3.check_schema(schema)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f": {error}" if type(error) is ValueError else ""
        raise ValueError(f"{path}: its header makes no sense{reason}") from None
    return schema


class _Known:
    """What the lines so far have told of."""

    def __init__(self, schema: Task) -> None:
        self._num_obs = len(schema.obs_channels)
        self._saves = self._episodes = self._steps = 0
        self._instructions: dict[int, str] = {}
        self._videos: dict[str, set[str]] = {
            camera.name: set() for camera in schema.cameras if camera.storage == "video"
        }

    def check_closed(self, record: Record, is_last: bool) -> None:
        _expect(is_last and record["closed"] == self._saves, "its place")
        paths = [entry["path"] for entry in record["files"]]
        _expect(sorted(paths) == sorted(DERIVED), "its files")
        for entry in record["files"]:
            _check_entry(entry)

    def check_save(self, record: Record) -> None:
        own = record["episodes"]
        num = len(own["length"])
        numbers = (record["save"], record["first_episode"], record["first_step"])
        _expect(numbers == (self._saves, self._episodes, self._steps), "its number")
        self._check_files(record["files"])
        self._check_instructions(record["instructions"])
        # A step takes more than a byte, however well it is compressed.
        _expect(num > 0 and _numbers(own["length"], num, 1, record["files"][0]["bytes"]), "length")
        _expect(sum(own["length"]) <= record["files"][0]["bytes"], "length")
        _expect(_numbers(own["task_index"], num, 0, len(self._instructions) - 1), "task_index")
        used = {str(index) for index in own["task_index"]}
        _expect(used == set(record["instructions"]), "instructions")
        for name in ("task_id", "behavior", "sha256"):
            _expect(_texts(own[name], num), name)
        _expect(_numbers(own["seed"], num, -(2**63), 2**63 - 1), "seed")
        for name in ("terminated", "truncated"):
            _expect(_numbers(own[name], num, 0, 1), name)
        _expect(_texts([own["final_obs"]], 1), "final_obs")
        floats = journal.decode_floats([own["final_obs"]])
        _expect(len(floats) == num * self._num_obs, "final_obs")
        _expect(set(own["videos"]) == set(self._videos), "videos")
        for camera, places in own["videos"].items():
            num_files = len(self._videos[camera])
            _expect(_numbers(places["file"], num, 0, num_files - 1), "videos")
            _expect(_numbers(places["start_s"], num, 0, 1e9, float), "videos")
        self._saves += 1
        self._episodes += num
        self._steps += sum(own["length"])

    def _check_files(self, entries: list[Record]) -> None:
        for entry in entries:
            _check_entry(entry)
        _expect(entries[0]["path"] == v3.data_path(self._saves), "the name of its data file")
        for entry in entries[1:]:
            videos = self._videos[entry["camera"]]
            expected = v3.video_path(entry["camera"], len(videos))
            _expect(entry["number"] == len(videos), "the number of a video")
            _expect(entry["path"] == expected, "the name of a video")
            _expect(_texts([entry["codec"], entry["pixel_format"]], 2), "the codec of a video")
            _expect(entry["sha256"] not in videos, "the sha256 of a video")
            videos.add(entry["sha256"])

    def _check_instructions(self, texts: dict[str, str]) -> None:
        _expect(_texts(list(texts.values()), len(texts)), "instructions")
        for index, text in sorted((int(index), text) for index, text in texts.items()):
            _expect(0 <= index <= len(self._instructions), "instructions")
            _expect(self._instructions.setdefault(index, text) == text, "instructions")


def _check_entry(entry: Record) -> None:
    _expect(_texts([entry["path"], entry["sha256"]], 2), "a file")
    _expect(_numbers([entry["bytes"]], 1, 0, _MOST), "a file's size")


def _numbers(values: Any, num: int, low: float, high: float, kind: type = int) -> bool:
    """Whether these are ``num`` numbers of one type in a range."""
    return (
        type(values) is list
        and len(values) == num
        and all(type(value) is kind and low <= value <= high for value in values)
    )


def _texts(values: Any, num: int) -> bool:
    return type(values) is list and len(values) == num and all(type(v) is str for v in values)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
