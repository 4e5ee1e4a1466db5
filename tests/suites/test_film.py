from pathlib import Path

import av
import numpy as np

from headstart.suites.film import FRAMES_PER_S, HOLD_FRAMES, encode, film


def test_a_film_has_every_frame_and_holds_the_last(tmp_path: Path):
    frames = [np.full((32, 48, 3), 20 * k, dtype=np.uint8) for k in range(10)]
    encode(frames, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].average_rate == FRAMES_PER_S
        decoded = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
    assert len(decoded) == 10 + HOLD_FRAMES
    assert np.abs(np.array(decoded[:10]) - 20 * np.arange(10)).max() < 8  # H.264 is not exact


def test_there_is_a_film_where_there_is_a_renderer_and_else_none(tmp_path: Path):
    path = tmp_path / "films/reach.mp4"
    made = film("metaworld/reach", 3, np.zeros((8, 4), dtype=np.float32), path)
    assert made == path.exists()


def test_a_renderer_that_fails_costs_the_film_and_nothing_else(tmp_path: Path):
    path = tmp_path / "film.mp4"
    assert not film("metaworld/no-such-task", 3, np.zeros((8, 4), dtype=np.float32), path)
    assert not path.exists()
