"""A page to look at a dataset in: served on this machine, or written to one file.

The server reads one episode at a time, when the page asks for it, so that a dataset of any size
opens at once. What C code parses, tables and pictures, is read in a process of its own (guard.py).
Addresses hold numbers only, never a path::

    /                          the page, with one row per episode
    /outcomes                  a byte per episode: did it succeed
    /episodes/12               its channels, packed as of ``pack``
    /episodes/12/cameras/0     the mp4 file that its camera 0 is in
    /episodes/12/cameras/0/7   what its camera 0 saw in step 7, as PNG
"""

from __future__ import annotations

import base64
import html
import json
import re
import struct
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from headstart.artifact import write_bytes
from headstart.config import to_json
from headstart.data import journal
from headstart.data.guard import Guard, guarded
from headstart.data.store import Dataset
from headstart.data.summary import (
    described_bill,
    grouped,
    outline,
    size,
    succeeded,
    title_of,
)
from headstart.data.video import encode_mp4
from headstart.ledger import Cost
from headstart.page.assemble import assemble, json_for_script, read
from headstart.types import Episode

SCRIPTS = (
    "page/elements.js",
    "page/scene.js",
    *(f"data/view_page/{name}.js" for name in ("source", "plots", "screens", "viewer")),
)
EMBEDDED_HEIGHT = 240
"""Pixels: pictures in a page that is one file are no higher."""

_ROUTE = re.compile(r"/(?:(outcomes)|episodes/(\d{1,12})(?:/cameras/(\d{1,3})(?:/(\d{1,12}))?)?)?")
_CHUNK = 2**20
_DECODED_STEPS = 32
"""Steps whose pictures are in memory together."""


@contextmanager
def opened(root: Path) -> Iterator[Dataset]:
    """The dataset, or what an importer makes of it in a temporary folder.

    Raises:
        ValueError: nothing that can be read.
    """
    if not root.exists() or (root / journal.NAME).exists():
        yield Dataset(root)
        return
    with tempfile.TemporaryDirectory(prefix="headstart-view-") as folder:
        copy = Path(folder) / root.resolve().name
        guarded("headstart.data.importers:import_dataset", {"src": root.resolve(), "dst": copy})
        yield Dataset(copy)


def serve(root: Path, port: int = 0) -> None:
    """Serve the page on this machine, and to this machine only, until interrupted.

    Args:
        port: 0 for a free one.

    Raises:
        ValueError: no dataset there, or the port is taken.
    """
    with opened(root) as dataset:
        try:
            server = Server(dataset, title_of(root), port)
        except OSError as error:
            raise ValueError(f"port {port}: {error.strerror}; --port 0 takes a free one") from None
        with server:
            print(f"{root}: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()


def write_page(root: Path, out: Path, most_episodes: int) -> tuple[int, int]:
    """Write the page and some of the episodes, chosen evenly, to one file.

    Video is made small (EMBEDDED_HEIGHT).

    Returns:
        How many episodes are in it, and of how many.

    Raises:
        ValueError: no dataset there, or it has no episode.
    """
    with opened(root) as dataset:
        if not dataset.num_episodes or most_episodes < 1:
            raise ValueError(f"{root}: no episode to show")
        chosen = np.linspace(0, dataset.num_episodes - 1, min(most_episodes, dataset.num_episodes))
        numbers = chosen.round().astype(np.int64).tolist()
        packed, clips = [], []
        with Guard() as guard:

            def ask(entry: str, **arguments: Any) -> str:
                return guard.call(f"{__name__}:{entry}", {"root": dataset.root} | arguments)

            success = np.frombuffer(base64.b64decode(ask("read_outcomes")), np.bool_)
            for number in numbers:
                packed.append(ask("read_episode", number=number, has_films=True))
                cameras = range(len(dataset.cameras))
                films = [ask("make_film", number=number, camera=k) for k in cameras]
                clips.append([{"url": f"data:video/mp4;base64,{film}"} for film in films])
        embedded = {
            "episodes": packed,
            "clips": clips,
            "outcomes": success[numbers].astype(int),
            "won": Counter(dataset.episode_table()["task_id"][success].tolist()),
        }
        write_bytes(out, build_page(dataset, title_of(root), numbers, embedded).encode())
        return len(numbers), dataset.num_episodes


def build_page(
    dataset: Dataset,
    title: str,
    numbers: Sequence[int] | None = None,
    embedded: dict[str, Any] | None = None,
) -> str:
    """The page as text.

    Args:
        numbers: the episodes that it lists, all by default.
        embedded: their content, for a page without a server.
    """
    table = dataset.episode_table()
    listed = np.arange(dataset.num_episodes) if numbers is None else np.asarray(numbers)
    columns = {name: table[name][listed] for name in ("task_id", "instruction", "behavior")}
    texts, codes = np.unique(np.concatenate(list(columns.values())), return_inverse=True)
    task, instruction, behavior = codes.reshape(3, -1)
    facts = outline(dataset)
    bill = described_bill(Cost.from_json(facts["bill"]))
    data = {
        **{k: facts[k] for k in ("episodes", "env_steps", "control_hz", "behaviors", "format")},
        "fps": dataset.fps,
        "obs": dataset.obs_channels,
        "action": dataset.action_channels,
        "cameras": dataset.cameras,
        "tasks": sorted(Counter(table["task_id"].tolist()).items()),
        "grouped": grouped(dataset.channels),
        "size": size(facts["bytes"]),
        "bill": [("cost", line) for line in bill],
        "table": {
            "number": listed,
            "steps": table["num_steps"][listed],
            "texts": texts,
            "task": task,
            "instruction": instruction,
            "behavior": behavior,
        },
        "embedded": embedded,
    }
    parts = {
        "title": html.escape(title),
        "style": read("page/base.css", "data/view_page/style.css"),
        "script": read(*SCRIPTS),
        "data": json_for_script(data),
    }
    return assemble(read("data/view_page/template.html"), parts)


def pack(episode: Episode, dataset: Dataset, starts_s: Sequence[float | None]) -> bytes:
    """An episode for the page: length of the header (uint32), header (JSON), float32 columns.

    All little-endian; the header names the columns and their shapes, in order.

    Args:
        starts_s: where each camera's film of the episode starts [s]; None: there are pictures.
    """
    columns = {
        "obs": episode.obs,
        "action": episode.action,
        "reward": episode.reward[:, None],
        "success": episode.success[:, None],
    }
    if episode.action_expert is not None:
        columns["label"] = episode.action_expert
    header = {
        "steps": episode.num_steps,
        "seed": episode.seed,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "arrays": [[name, *array.shape] for name, array in columns.items()],
        "clips": [None if start is None else {"start_s": start} for start in starts_s],
    }
    text = json.dumps(to_json(header)).encode()
    text += b" " * (-len(text) % 4)  # so that the columns are aligned
    arrays = [np.ascontiguousarray(array, "<f4").tobytes() for array in columns.values()]
    return b"".join([struct.pack("<I", len(text)), text, *arrays])


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file (https://www.w3.org/TR/png-3: chunks of length, type, CRC)."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = picture.reshape(height, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


# ---- what the guard's child reads, in base64 ----------------------------------------------------


@lru_cache(1)
def read_outcomes(root: Path) -> str:
    """A byte per episode: did it succeed."""
    return _text(succeeded(_dataset(root)).astype(np.uint8).tobytes())


def read_episode(root: Path, number: int, has_films: bool = False) -> str:
    """An episode as of ``pack``; ``has_films``: each camera has a film that starts with it."""
    dataset = _dataset(root)
    starts = [
        0.0 if has_films else None if c.storage == "image" else dataset.clip(number, c.name).start_s
        for c in dataset.cameras
    ]
    return _text(pack(dataset.episodes([number])[0], dataset, starts))


def read_picture(root: Path, number: int, camera: int, step: int) -> str:
    """What a camera saw in a step, as PNG."""
    dataset = _dataset(root)
    return _text(png(dataset.images(number, dataset.cameras[camera].name, [step])[0]))


def make_film(root: Path, number: int, camera: int) -> str:
    """A small film of what a camera saw in an episode, decoded and encoded bit by bit."""
    dataset = _dataset(root)
    shown = dataset.cameras[camera]
    stride = -(-shown.height // EMBEDDED_HEIGHT)
    height, width = (side // stride // 2 * 2 for side in (shown.height, shown.width))  # even
    num_steps = int(dataset.episode_table()["num_steps"][number])

    def pictures() -> Iterator[np.ndarray]:
        for first in range(0, num_steps, _DECODED_STEPS):
            steps = range(first, min(first + _DECODED_STEPS, num_steps))
            for picture in dataset.images(number, shown.name, steps):
                yield picture[::stride, ::stride][:height, :width]

    return _text(encode_mp4(pictures(), replace(shown, height=height, width=width), dataset.fps))


@lru_cache(1)
def _dataset(root: Path) -> Dataset:
    return Dataset(root)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


# ---- the server --------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves one dataset on 127.0.0.1, reading only."""

    daemon_threads = True

    def __init__(self, dataset: Dataset, title: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.dataset = dataset
        self.title = title
        self._reading = threading.Lock()
        self._guard = Guard()

    def server_close(self) -> None:
        super().server_close()
        with self._reading:
            self._guard.close()

    def read(self, entry: str, **arguments: int) -> bytes:
        """What one of the functions above gives, of this dataset."""
        with self._reading:
            call = {"root": self.dataset.root} | arguments
            return base64.b64decode(self._guard.call(f"{__name__}:{entry}", call))


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the browser has what it wants
        except KeyboardInterrupt:  # the terminal's, which the guard's child has got as well
            self.close_connection = True
        except (ValueError, OSError) as error:
            self._send(str(error).encode(), "text/plain; charset=utf-8", 500)

    def log_message(self, format: str, *args: Any) -> None:
        """A line per request would bury the address."""

    def _answer(self) -> None:
        # A page elsewhere may point its own name at this machine; the browser then sends that name.
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return self._send(b"only for this machine", "text/plain", 403)
        match = _ROUTE.fullmatch(self.path.partition("?")[0])
        numbers = [None if n is None else int(n) for n in match.groups()[1:]] if match else []
        if match is None or not self._exists(*numbers):
            return self._send(b"no such page", "text/plain", 404)
        number, camera, step = numbers
        if match[1]:
            return self._send(self.server.read("read_outcomes"), "application/octet-stream")
        if number is None:
            page = build_page(self.server.dataset, self.server.title)
            return self._send(page.encode(), "text/html; charset=utf-8")
        if camera is None:
            content = self.server.read("read_episode", number=number)
            return self._send(content, "application/octet-stream")
        if step is not None:
            content = self.server.read("read_picture", number=number, camera=camera, step=step)
            return self._send(content, "image/png")
        dataset = self.server.dataset
        if dataset.cameras[camera].storage == "image":
            return self._send(b"no film", "text/plain", 404)
        return self._send_file(dataset.clip(number, dataset.cameras[camera].name).path)

    def _exists(self, number: int | None, camera: int | None, step: int | None) -> bool:
        dataset = self.server.dataset
        if number is not None and number >= dataset.num_episodes:
            return False
        if step is not None and step >= dataset.episode_table()["num_steps"][number]:
            return False
        return camera is None or camera < len(dataset.cameras)

    def _send(self, content: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self._send_headers(kind, len(content))
        self.wfile.write(content)

    def _send_headers(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _send_file(self, path: Path) -> None:
        """The file or the part that is asked for (RFC 9110, 14: one range of bytes)."""
        with path.open("rb") as file:
            total = file.seek(0, 2)
            span = _byte_range(self.headers.get("Range", ""), total)
            if span is None:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                return self._send_headers("video/mp4", 0)
            first, last = span
            whole = (first, last) == (0, total - 1) and "Range" not in self.headers
            self.send_response(200 if whole else 206)
            self.send_header("Accept-Ranges", "bytes")
            if not whole:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            self._send_headers("video/mp4", last - first + 1)
            file.seek(first)
            left = last - first + 1
            while left and (part := file.read(min(left, _CHUNK))):
                self.wfile.write(part)
                left -= len(part)


def _byte_range(header: str, total: int) -> tuple[int, int] | None:
    """(first, last) byte of ``bytes=0-99``, ``bytes=100-`` or ``bytes=-100``; all of it without.

    None: there are no such bytes.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if match is None or match[0] == "bytes=-":
        return 0, total - 1
    if not match[1]:
        first, last = max(0, total - int(match[2])), total - 1
    else:
        first, last = int(match[1]), min(total - 1, int(match[2] or total))
    return (first, last) if first <= last else None
