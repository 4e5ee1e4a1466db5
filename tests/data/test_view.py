import json
import re
import signal
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from headstart.data import parquet, video
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.view import Server, build_page, opened, pack, png, write_page
from headstart.types import Camera, Channel, Clip, Episode, Task

CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action", "cm"),
)
CAMERAS = (Camera("front", 16, 32), Camera("wrist", 6, 4, "image"))
TASK = Task("suite", "reach", "", CHANNELS, 100, 10.0, CAMERAS)
HOSTILE = "</script><script>alert(1)</script>"


def make_episode(seed: int, steps: int = 4) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        task_id="suite/reach",
        instruction=HOSTILE if seed == 0 else "reach",
        obs=rng.standard_normal((steps, 2)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=np.full(steps, np.nan, np.float32),
        success=np.arange(steps) == steps - 1 + seed % 2,
        final_obs=rng.standard_normal(2).astype(np.float32),
        terminated=True,
        truncated=False,
        seed=seed,
        behavior="expert",
        action_expert=np.ones((steps, 1), np.float32) if seed % 2 else None,
        images={
            c.name: rng.integers(0, 256, (steps, c.height, c.width, 3), np.uint8) for c in CAMERAS
        },
    )


EPISODES = [make_episode(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("view") / "set"
    with DatasetWriter(root, TASK) as writer:
        writer.save_episodes(EPISODES)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with Server(Dataset(root), "a set") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, address: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers; the address is sent as it is."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", address, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def unpack(content: bytes) -> dict:
    (length,) = struct.unpack_from("<I", content)
    episode = json.loads(content[4 : 4 + length])
    at = 4 + length
    assert at % 4 == 0, "the browser wants its numbers aligned"
    for name, rows, width in episode["arrays"]:
        episode[name] = np.frombuffer(content, "<f4", rows * width, at).reshape(rows, width)
        at += 4 * rows * width
    assert at == len(content)
    return episode


def data_of(page: str) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_an_episode_arrives_as_it_is(server):
    for number in (0, 1):
        status, content, _ = ask(server, f"/episodes/{number}")
        episode, saved = unpack(content), EPISODES[number]
        assert status == 200
        np.testing.assert_array_equal(episode["obs"], saved.obs)
        np.testing.assert_array_equal(episode["action"], saved.action)
        np.testing.assert_array_equal(episode["success"][:, 0], saved.success)
        assert np.isnan(episode["reward"]).all(), "unknown stays unknown"
        assert (episode["terminated"], episode["truncated"]) == (True, False)
        assert ("label" in episode) == (saved.action_expert is not None)
        assert [clip is None for clip in episode["clips"]] == [False, True]


def test_the_page_lists_every_episode_and_needs_nothing_else(server):
    status, content, _ = ask(server, "/?theme=dark")
    page = content.decode()
    data = data_of(page)
    assert status == 200
    assert data["table"]["number"] == [0, 1, 2, 3, 4]
    assert data["table"]["texts"][data["table"]["instruction"][1]] == "reach"
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert ask(server, "/outcomes")[1] == bytes([1, 0, 1, 0, 1])


def test_what_a_dataset_says_cannot_become_part_of_the_page(root):
    page = build_page(Dataset(root), HOSTILE)
    assert HOSTILE not in page
    assert HOSTILE in data_of(page)["table"]["texts"]


@pytest.mark.parametrize(
    "address",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/meta/info.json",
        "/episodes/0/../../meta/info.json",
        "/episodes/5",
        "/episodes/-1",
        "/episodes/0/cameras/2",
        "/episodes/0/cameras/1",
        "/episodes/0/cameras/1/4",
        "/episodes/99999999999999999999",
    ],
)
def test_nothing_else_is_served(server, address):
    assert ask(server, address)[0] == 404


def test_only_this_machine_is_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/episodes/0", Host="elsewhere.example:80")[0] == 403


def test_nothing_can_be_written(server, root):
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    for method in ("POST", "PUT", "DELETE"):
        address = f"http://127.0.0.1:{server.server_port}/episodes/0"
        request = urllib.request.Request(address, data=b"x", method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        assert error.value.code == 501
    ask(server, "/")
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def test_film_is_served_whole_and_in_parts(server, root):
    clip = Dataset(root).episodes([2])[0].images["front"]
    assert isinstance(clip, Clip)
    film = clip.path.read_bytes()
    status, content, headers = ask(server, "/episodes/2/cameras/0")
    assert (status, content, headers["Content-Type"]) == (200, film, "video/mp4")
    for span, first, last in (
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, len(film) - 1),
        ("bytes=-5", len(film) - 5, len(film) - 1),
        (f"bytes=0-{10**9}", 0, len(film) - 1),
    ):
        status, content, headers = ask(server, "/episodes/2/cameras/0", Range=span)
        assert (status, content) == (206, film[first : last + 1])
        assert headers["Content-Range"] == f"bytes {first}-{last}/{len(film)}"
    status, content, headers = ask(server, "/episodes/2/cameras/0", Range="bytes=999999999-")
    assert (status, content, headers["Content-Range"]) == (416, b"", f"bytes */{len(film)}")


def read_png(content: bytes) -> np.ndarray:
    """(H, W, 3) of a PNG as ``png`` writes it: 8-bit RGB, one IDAT, no filter."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, 3)


def test_pictures_are_served_without_loss(server):
    status, content, headers = ask(server, "/episodes/3/cameras/1/2")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    saved = EPISODES[3].images["wrist"]
    assert isinstance(saved, np.ndarray)
    np.testing.assert_array_equal(read_png(content), saved[2])
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(read_png(png(picture)), picture)


def test_a_browser_without_the_codec_gets_pictures_of_the_film(server, root):
    _, content, _ = ask(server, "/episodes/3/cameras/0/2")
    np.testing.assert_array_equal(read_png(content), Dataset(root).images(3, "front", [2])[0])


def test_no_file_is_parsed_in_the_users_process(server, root, tmp_path, monkeypatch):
    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("parsed here")

    for module, name in ((parquet, "decode"), (video, "VideoFile"), (video, "decode_png")):
        monkeypatch.setattr(module, name, parsed)
    for address in ("/", "/outcomes", *(f"/episodes/2{rest}" for rest in (
        "", "/cameras/0", "/cameras/0/1", "/cameras/1/1",
    ))):  # fmt: skip
        assert ask(server, address)[0] == 200, address
    assert write_page(root, tmp_path / "page.html", 1) == (1, 5)


def test_a_damaged_episode_is_one_line_and_the_others_stay(tmp_path):
    with DatasetWriter(tmp_path / "set", Task("s", "t", "", CHANNELS, 9, 10.0)) as writer:
        for seed in range(2):
            episode = make_episode(seed)
            episode.images = {}
            writer.save_episode(episode)
    with Server(Dataset(tmp_path / "set"), "a set") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        file = sorted((tmp_path / "set/data").rglob("*.parquet"))[0]
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.unlink()
        file.write_bytes(content)
        status, message, _ = ask(server, "/episodes/0")
        assert status == 500
        assert str(file).encode() in message and len(message.splitlines()) == 1
        assert ask(server, "/episodes/1")[0] == 200
        server.shutdown()
        thread.join()


def test_one_file_has_episodes_chosen_evenly_and_their_films(root, tmp_path):
    assert write_page(root, tmp_path / "page.html", 3) == (3, 5)
    page = (tmp_path / "page.html").read_text()
    data = data_of(page)
    assert data["episodes"] == 5 and data["table"]["number"] == [0, 2, 4]
    assert data["embedded"]["outcomes"] == [1, 1, 1]
    assert len(data["embedded"]["episodes"]) == 3
    for films in data["embedded"]["clips"]:
        assert all(film["url"].startswith("data:video/mp4;base64,") for film in films)
    assert write_page(root, tmp_path / "page.html", 99) == (5, 5)


def test_packed_numbers_are_little_endian_and_aligned(root):
    dataset = Dataset(root)
    episode = unpack(pack(EPISODES[1], dataset, [0.5, None]))
    np.testing.assert_array_equal(episode["label"], np.ones((4, 1)))
    assert episode["clips"] == [{"start_s": 0.5}, None]


def test_a_dataset_in_another_format_is_shown_too(tmp_path):
    foreign = tmp_path / "walk.npz"
    np.savez(
        foreign,
        observations=np.zeros((6, 2), np.float32),
        actions=np.ones((6, 1), np.float32),
        terminals=np.array([0, 0, 1, 0, 0, 1], np.float32),
        qpos=np.zeros((6, 1)),
        qvel=np.zeros((6, 1)),
    )
    before = list(tmp_path.iterdir())
    with opened(foreign) as dataset:
        assert (dataset.num_episodes, dataset.num_steps) == (2, 4)
        assert not dataset.root.is_relative_to(tmp_path)
        place = dataset.root
    assert not place.exists()
    assert list(tmp_path.iterdir()) == before


def test_control_c_ends_the_server_cleanly(root):
    command = [sys.executable, "-m", "headstart.cli", "data", "view", str(root)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/", child.stdout.readline())
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=20) as answer:
        assert answer.status == 200
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=20)
    assert (child.returncode, error) == (0, "")
