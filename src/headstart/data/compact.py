"""Packing: the many small files that recording leaves become few large ones, in place."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart.data import files
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.tools import building, in_batches
from headstart.types import Clip, Episode

VIDEO_BYTES = 200 * 2**20
"""No packed video file is larger, unless a single one was."""


def compact(root: Path) -> dict[str, Any]:
    """Pack a dataset's files.

    Episodes, their order and their digests stay what they are; video is copied packet by packet,
    not encoded anew. The new folder takes the old one's place when it is complete. The bill
    stays: who merges a dataset with its packed self pays once.

    Returns:
        ``files`` and ``bytes``, each [before, after].

    Raises:
        ValueError: no dataset in ``root``, a damaged one, or a writer is at work there.
    """
    dataset = Dataset(root)
    lock = files.lock(root)
    try:
        before = _on_disk(root)
        with building(root) as folder:
            with DatasetWriter(folder, dataset) as writer:
                videos = _Videos(folder / ".joined", dataset)
                for batch in in_batches(dataset.iter_episodes(), dataset.cameras):
                    writer.save_episodes(videos.take(batch))
            shutil.rmtree(folder / ".joined", ignore_errors=True)
            old, new = (d.episode_table()["sha256"] for d in (dataset, Dataset(folder)))
            assert np.array_equal(old, new), "packing changes no episode"
            _take_along(root, folder)
    finally:
        os.close(lock)
    after = _on_disk(root)
    return {"files": [before[0], after[0]], "bytes": [before[1], after[1]]}


@dataclass
class _Video:
    """What has to be known of an mp4 file before it can be joined to others."""

    path: Path
    kind: tuple[Any, ...]
    """Files whose kinds are equal can share one file."""
    num_bytes: int
    ticks: np.ndarray  # (N,) int64, sorted: when each frame is shown
    ticks_per_frame: Fraction
    clean: bool
    """It begins at 0, and nothing in it is to be skipped."""

    @property
    def end(self) -> Fraction:
        """Ticks, where a next file would begin."""
        return Fraction(int(self.ticks[-1])) + self.ticks_per_frame


class _Videos:
    """Puts clips into joined files, which it makes as they are needed."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._folder = folder
        self._fps = dataset.fps
        self._cameras = [c.name for c in dataset.cameras if c.storage == "video"]
        self._places: dict[Path, Clip] = {}  # old file -> where its first frame is now

    def take(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes with their clips in joined files; other pictures stay what they are."""
        for camera in self._cameras:
            paths = dict.fromkeys(_clip(episode, camera).path for episode in episodes)
            self._join([path for path in paths if path not in self._places])
        return [replace(episode, images=self._placed(episode)) for episode in episodes]

    def _placed(self, episode: Episode) -> Mapping[str, np.ndarray | Clip]:
        clips: dict[str, np.ndarray | Clip] = {}
        for camera in self._cameras:
            clip = _clip(episode, camera)
            place = self._places[clip.path]
            clips[camera] = Clip(place.path, place.start_s + clip.start_s)
        return ChainMap(clips, cast(Any, episode.images))  # which decodes only what is asked for

    def _join(self, paths: Sequence[Path]) -> None:
        run: list[_Video] = []
        for video in (_examine(path, self._fps) for path in paths):
            fits = run and video.kind == run[0].kind and video.clean and run[-1].clean
            if run and not (fits and sum(v.num_bytes for v in (*run, video)) <= VIDEO_BYTES):
                self._place(run)
                run = []
            run.append(video)
        if run:
            self._place(run)

    def _place(self, run: Sequence[_Video]) -> None:
        self._folder.mkdir(exist_ok=True)
        joined = self._folder / f"{len(self._places)}.mp4"
        starts = list(itertools.accumulate((video.end for video in run[:-1]), initial=Fraction(0)))
        whole = all(start.denominator == 1 for start in starts)
        if len(run) > 1 and whole and _copy_packets(run, starts, joined, self._fps):
            tick_s = run[0].kind[-1]
            for video, start in zip(run, starts, strict=True):
                self._places[video.path] = Clip(joined, float(start * tick_s))
            return
        for video in run:  # as they are
            self._places[video.path] = Clip(video.path, 0.0)


def _clip(episode: Episode, camera: str) -> Clip:
    clip = episode.images[camera]
    assert isinstance(clip, Clip), "a dataset's videos are read as clips"
    return clip


def _examine(path: Path, fps: int) -> _Video:
    import av

    with av.open(str(path), "r", format="mp4") as container:
        stream: Any = container.streams.video[0]
        context = stream.codec_context
        packets = [packet for packet in container.demux(stream) if packet.size]
        ticks = np.sort(np.array([packet.pts for packet in packets], np.int64))
        kind = (context.name, context.extradata, context.height, context.width, stream.time_base)
        return _Video(
            path,
            kind,
            path.stat().st_size,
            ticks,
            ticks_per_frame=Fraction(1, fps) / stream.time_base,
            clean=bool(len(ticks)) and ticks[0] == 0 and not any(p.is_discard for p in packets),
        )


def _copy_packets(run: Sequence[_Video], starts: Sequence[Fraction], out: Path, fps: int) -> bool:
    """Write the files one after another as one; False if a frame would not be where it should."""
    import av

    with av.open(str(out), "w", format="mp4") as target:
        stream: Any = None
        for video, start in zip(run, starts, strict=True):
            with av.open(str(video.path), "r", format="mp4") as source:
                old: Any = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(old)
                    stream.time_base = old.time_base
                for packet in source.demux(old):
                    if packet.size:
                        packet.pts += int(start)
                        packet.dts += int(start)
                        packet.stream = stream
                        target.mux(packet)
    joined = _examine(out, fps)
    tick_s, expected = run[0].kind[-1], [v.ticks + int(s) for v, s in zip(run, starts, strict=True)]
    wanted, found = np.concatenate(expected) * float(tick_s), joined.ticks * float(joined.kind[-1])
    return len(wanted) == len(found) and bool(np.allclose(wanted, found, rtol=0, atol=1e-6))


def _take_along(root: Path, folder: Path) -> None:
    """Copy what else lies in the dataset's folder: the card, the bill, the config, the rest."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        known = name.parts[0] in ("data", "meta", "videos") or name.parts[0] == files.LOCK
        if not known and path.is_file():
            for changed in files.make_folder((folder / name).parent):
                files.flush(changed)
            shutil.copy2(path, folder / name)
            files.flush(folder / name)
            files.flush((folder / name).parent)


def _on_disk(root: Path) -> tuple[int, int]:
    """(files, bytes)."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return len(found), sum(path.stat().st_size for path in found)
