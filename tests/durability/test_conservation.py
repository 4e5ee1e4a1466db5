from pathlib import Path

import numpy as np
import oracle
import pytest

from headstart.data import video
from headstart.data.store import Dataset, DatasetWriter


@pytest.mark.parametrize("broken", ["a frame is dropped", "a frame comes twice", "no frame"])
def test_an_encoder_that_loses_frames_is_caught_at_the_save(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    """As a streaming encoder does that cannot keep up."""
    encode = video.encode_mp4

    def losing(pictures, *arguments, **options):
        frames: list[np.ndarray] = list(pictures)
        changed = {
            "a frame is dropped": frames[:3] + frames[4:],
            "a frame comes twice": frames[:3] + frames[2:],
            "no frame": frames[:1],
        }
        return encode(iter(changed[broken]), *arguments, **options)

    with DatasetWriter(scratch, oracle.CAMERAS) as writer:
        writer.save_episode(oracle.episode(0, oracle.CAMERAS))
        with monkeypatch.context() as patch:
            patch.setattr(video, "encode_mp4", losing)
            with pytest.raises(ValueError, match=r"front.*frames|frames.*front"):
                writer.save_episode(oracle.episode(5, oracle.CAMERAS))
        writer.save_episode(oracle.episode(1, oracle.CAMERAS))
    assert oracle.problems(scratch, oracle.CAMERAS, 2) == []


def test_every_row_has_its_frame(scratch: Path):
    with DatasetWriter(scratch, oracle.CAMERAS) as writer:
        writer.save_episodes([oracle.episode(i, oracle.CAMERAS) for i in range(6)])
    dataset = Dataset(scratch)
    steps = dataset.episode_table()["num_steps"].tolist()
    for camera in ("front", "wrist"):
        assert [len(dataset.images(i, camera)) for i in range(6)] == steps
