from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from headstart.artifact import read_json
from headstart.data import video
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.verify import verify
from headstart.data.video import VideoFile
from headstart.types import Camera, Clip
from recordings import FILMED, TOP, WRIST, bits, film, grey, save, shades

VIDEOS = "videos/observation.images.top/chunk-000"


def write_mp4(path, values: list[int], times: list[int] | None = None, options=None) -> None:
    """A file of somebody else's: frames of these shades at these multiples of 1/20 s."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = TOP.height, TOP.width, "yuv420p"
        for picture, time in zip(grey(values, TOP), times or range(len(values)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_frames_are_where_they_were_put(tmp_path):
    batches = [[film(0, 3), film(1, 4)], [film(2, 5)]]
    dataset = save(tmp_path, *batches, schema=FILMED)
    for i, episode in enumerate([*batches[0], *batches[1]]):
        expected = [10 * (i + 2 * t) for t in range(episode.num_steps)]
        assert shades(dataset.images(i, "top")) == expected
        assert shades(dataset.images(i, "top", [2, 0, 2])) == [expected[t] for t in (2, 0, 2)]
    assert dataset.images(0, "top", []).shape == (0, 32, 64, 3)


def test_image_columns_lose_nothing(tmp_path):
    dataset = save(tmp_path, [film(0), film(1)], schema=FILMED)
    for i in range(2):
        np.testing.assert_array_equal(dataset.images(i, "wrist"), film(i).images["wrist"])
        np.testing.assert_array_equal(
            dataset.images(i, "wrist", [2, 0]), film(i).images["wrist"][[2, 0]]
        )
        read = dataset.episodes([i])[0]
        np.testing.assert_array_equal(read.images["wrist"], film(i).images["wrist"])
        assert bits(read) == bits(film(i))


def test_time_stamps_are_exact_multiples_of_the_frame_time(tmp_path):
    save(tmp_path, [film(0, 3), film(1, 4)], schema=FILMED)
    path = tmp_path / VIDEOS / "file-000.mp4"
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert [p.pts * p.time_base for p in packets] == [Fraction(k, 20) for k in range(7)]
        assert all(packet.is_keyframe for packet in packets[::2])


def test_videos_at_a_rate_that_is_no_whole_number_keep_every_frame(tmp_path):
    dataset = save(tmp_path, [film(0, 5)], schema=replace(FILMED, control_hz=12.5))
    assert (dataset.control_hz, dataset.fps) == (12.5, 12)
    assert shades(dataset.images(0, "top")) == [0, 20, 40, 60, 80]


def test_a_copy_links_to_the_same_videos(tmp_path):
    dataset = save(tmp_path / "a", [film(0, 3), film(1, 4)], [film(2, 2)], schema=FILMED)
    copy = save(tmp_path / "b", list(dataset.iter_episodes([2, 1])), schema=dataset)
    for new, old in enumerate((2, 1)):
        assert shades(copy.images(new, "top")) == shades(dataset.images(old, "top"))
        np.testing.assert_array_equal(copy.images(new, "wrist"), dataset.images(old, "wrist"))
    linked = tmp_path / "b" / VIDEOS / "file-001.mp4"
    assert linked.samefile(tmp_path / "a" / VIDEOS / "file-000.mp4")
    assert verify(tmp_path / "b") == []


def test_clips_of_one_file_share_it_also_when_the_writer_is_opened_again(tmp_path):
    path = tmp_path / "long.mp4"
    write_mp4(path, [10 * k for k in range(20)])
    schema = replace(FILMED, cameras=(TOP,))
    first = replace(film(0, 3), images={"top": Clip(path, 2 / 20)})
    second = replace(film(1, 4), images={"top": Clip(path, 11 / 20)})
    save(tmp_path / "data", [first], schema=schema)
    dataset = save(tmp_path / "data", [second], schema=schema)
    assert [p.name for p in sorted((tmp_path / "data" / VIDEOS).iterdir())] == ["file-000.mp4"]
    assert shades(dataset.images(0, "top")) == [20, 30, 40]
    assert shades(dataset.images(1, "top", [3, 0])) == [140, 110]


def test_a_clip_is_copied_where_it_cannot_be_linked(tmp_path, monkeypatch):
    write_mp4(tmp_path / "clip.mp4", [10, 20, 30])

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    episode = replace(film(0, 3), images={"top": Clip(tmp_path / "clip.mp4", 0.0)})
    dataset = save(tmp_path / "data", [episode], schema=replace(FILMED, cameras=(TOP,)))
    copied = tmp_path / "data" / VIDEOS / "file-000.mp4"
    assert not copied.samefile(tmp_path / "clip.mp4")
    assert copied.read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    assert shades(dataset.images(0, "top")) == [10, 20, 30]


@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        (lambda path: Clip(path, 1 / 20), "has no frame for 1 of 3 steps, the first at 0.150000 s"),
        (lambda path: Clip(path, 0.01), "has no frame for 3 of 3 steps, the first at 0.010000 s"),
        (lambda path: Clip(path.with_name("gone.mp4"), 0.0), "no such file"),
        (lambda path: Clip(path.with_name("text.mp4"), 0.0), "text.mp4: damaged: "),
    ],
)
def test_a_clip_without_a_frame_for_each_step_is_refused(tmp_path, clip, problem):
    write_mp4(tmp_path / "clip.mp4", [10, 20, 30])
    (tmp_path / "text.mp4").write_text("no video")
    episode = replace(film(1, 3), images={"top": clip(tmp_path / "clip.mp4")})
    schema = replace(FILMED, cameras=(TOP,))
    with DatasetWriter(tmp_path / "data", schema) as writer:
        with pytest.raises(ValueError, match=problem):
            writer.save_episode(episode)
        writer.save_episode(replace(episode, images={"top": Clip(tmp_path / "clip.mp4", 0.0)}))
    assert verify(tmp_path / "data") == []


def test_a_clip_with_a_gap_is_refused_and_says_which_episode_and_camera(tmp_path):
    write_mp4(tmp_path / "clip.mp4", [10, 20, 30], [0, 1, 3])
    episode = replace(film(1, 3), images={"top": Clip(tmp_path / "clip.mp4", 0.0)})
    problem = r"^episode 0 \('suite/reach', seed 1\), camera 'top': .*no frame for 1 of 3 steps"
    with (
        DatasetWriter(tmp_path / "data", replace(FILMED, cameras=(TOP,))) as writer,
        pytest.raises(ValueError, match=problem),
    ):
        writer.save_episode(episode)


def test_a_frame_that_the_encoder_loses_is_found_when_it_is_saved(tmp_path, monkeypatch):
    real = video.encode_mp4
    monkeypatch.setattr(video, "encode_mp4", lambda p, *rest: real(list(p)[:-1], *rest))
    with (
        DatasetWriter(tmp_path, FILMED) as writer,
        pytest.raises(ValueError, match=r"episode 1 .*camera 'top': .* no frame for 1 of 4 steps"),
    ):
        writer.save_episodes([film(0, 3), film(1, 4)])
    assert Dataset(tmp_path).num_episodes == 0


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ({}, "pictures of no camera, expected of"),
        ({"top": grey([1, 2], TOP)}, r"pictures of \['top'\], expected of"),
        ({"top": grey([1, 2], TOP), "wrist": grey([1, 2, 3], WRIST)}, "expected uint8 .3, 32, 64"),
        (
            {"top": grey([1, 2, 3], TOP), "wrist": grey([1, 2, 3], WRIST).astype(np.float32)},
            "camera 'wrist': pictures are float32",
        ),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tmp_path, images, problem):
    with DatasetWriter(tmp_path, FILMED) as writer, pytest.raises(ValueError, match=problem):
        writer.save_episode(replace(film(0), images=images))


def test_a_damaged_video_is_refused_before_it_is_decoded(tmp_path):
    dataset = save(tmp_path, [film(0)], schema=FILMED)
    path = tmp_path / VIDEOS / "file-000.mp4"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: damaged: its checksum"):
        dataset.images(0, "top")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"avc1", b"zzzz", "damaged, or of a codec that is not known here"),
        (b"vide", b"soun", "(has no video|damaged)"),
    ],
)
def test_a_video_that_cannot_be_parsed_is_one_line_that_names_the_file(tmp_path, old, new, problem):
    path = tmp_path / "clip.mp4"
    write_mp4(path, [10, 20, 30])
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=rf"^{path}: {problem}[^\n]*$"):
        VideoFile(path, path)


@pytest.mark.parametrize("first", ["moov", "mdat"])
def test_a_video_that_was_cut_short_is_refused_wherever_the_cut_is(tmp_path, first):
    path = tmp_path / "clip.mp4"
    options = {"movflags": "+faststart"} if first == "moov" else {}
    write_mp4(path, [10, 20, 30], options=options)
    content = path.read_bytes()
    assert content.index(first.encode()) < content.index(b"mdat" if first == "moov" else b"moov")
    for kept in range(0, len(content), 7):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"^{path}: [^\n]*$"), VideoFile(path, path) as file:
            file.frames(np.arange(3) / 20)


def test_what_is_written_about_a_video_need_not_be_unicode(tmp_path):
    path = tmp_path / "clip.mp4"
    write_mp4(path, [10, 20, 30])
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"\xa4avf"))
    with VideoFile(path, path) as file:
        assert shades(file.frames(file.times_s())) == [10, 20, 30]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((0, "topp"), "no camera 'topp'; did you mean top"),
        ((1, "top"), "no episode 1; there are 1"),
        ((0, "top", [3]), "no step 3 in episode 0; there are 3"),
    ],
)
def test_pictures_that_are_not_there_are_refused(tmp_path, arguments, problem):
    dataset = save(tmp_path, [film(0)], schema=FILMED)
    with pytest.raises(ValueError, match=problem):
        dataset.images(*arguments)


def test_statistics_of_pictures_by_hand(tmp_path):
    camera = Camera("wrist", 2, 2, "image")
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    white[..., 1] = 51  # green
    episode = replace(film(0, 2), images={"wrist": np.stack([black, white])})
    schema = replace(FILMED, cameras=(camera,))
    for _ in range(2):  # merged, and read again from the disk
        save(tmp_path, [episode], schema=schema)
    stats = read_json(tmp_path / "meta/stats.json")["observation.images.wrist"]
    assert stats["mean"] == [[[0.5]], [[0.1]], [[0.5]]]
    assert stats["std"] == [[[0.5]], [[pytest.approx(0.1)]], [[0.5]]]
    assert (stats["min"], stats["max"]) == ([[[0.0]]] * 3, [[[1.0]], [[0.2]], [[1.0]]])
    assert (stats["q10"], stats["q90"]) == ([[[0.0]]] * 3, [[[1.0]], [[0.2]], [[1.0]]])
    assert stats["count"] == [4]
