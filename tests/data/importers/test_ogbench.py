"""Small files from OGBench 1.2.2's environments are read as its load_dataset reads them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from headstart.data.importers import ogbench
from headstart.data.importers.base import Dropped

FILES = Path(__file__).parents[1] / "files" / "ogbench-1.2.2"
CUBE = FILES / "cube-single-play-v0.npz"
VISUAL = FILES / "visual-cube-single-play-v0.npz"


def write(path: Path, **arrays) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def rows(num: int, *ends: int, **more) -> dict[str, np.ndarray]:
    """``num`` rows whose trajectories end at the rows ``ends``."""
    terminals = np.zeros(num, bool)
    terminals[list(ends)] = True
    obs = np.arange(num * 2, dtype=np.float32).reshape(num, 2)
    return {"observations": obs, "actions": -obs[:, :1], "terminals": terminals, **more}


def test_every_transition_is_what_ogbench_reads():
    source = ogbench.open_source(CUBE, "")
    episodes = list(source.episodes())
    with np.load(FILES / "cube-single-play-v0.expected.npz") as theirs:
        np.testing.assert_array_equal(
            np.concatenate([e.obs for e in episodes]), theirs["observations"]
        )
        np.testing.assert_array_equal(
            np.concatenate([e.action for e in episodes]), theirs["actions"]
        )
        following = np.concatenate([[*e.obs[1:], e.final_obs] for e in episodes])
        np.testing.assert_array_equal(following, theirs["next_observations"])
        ends = np.flatnonzero(theirs["terminals"]) + 1
    assert [e.num_steps for e in episodes] == np.diff(ends, prepend=0).tolist() == [4, 5, 6]
    assert all(e.truncated and not e.terminated for e in episodes)
    assert all(np.isnan(e.reward).all() and not e.success.any() for e in episodes)


def test_pictures_become_a_camera_and_the_simulator_s_state_the_channels():
    source = ogbench.open_source(VISUAL, "")
    episodes = list(source.episodes())
    with np.load(FILES / "visual-cube-single-play-v0.expected.npz") as theirs:
        seen = np.concatenate([e.images["observations"] for e in episodes])
        np.testing.assert_array_equal(seen, theirs["observations"])
    with np.load(VISUAL) as file:
        state = np.hstack([file["qpos"], file["qvel"]])
    np.testing.assert_array_equal(episodes[0].obs, state[:3])
    np.testing.assert_array_equal(episodes[0].final_obs, state[3])
    assert source.obs_channels[0].name == "visual-cube-single/qpos/0"


def test_names_and_rate_come_from_the_file_s_name(tmp_path):
    source = ogbench.open_source(CUBE, "")
    (first, *_) = source.episodes()
    assert source.channels[0].name == "cube-single/state/0"
    assert (first.task_id, first.behavior) == ("cube-single/cube-single-play", "play")
    assert source.control_hz == 20.0 and "left out: qpos, qvel" in source.notes
    path = write(tmp_path / "humanoidmaze-giant-navigate-v0-val.npz", **rows(4, 3))
    maze = ogbench.open_source(path, "walker")
    assert maze.control_hz == 40.0 and maze.channels[0].name == "walker/state/0"
    assert next(maze.episodes()).instruction == "humanoidmaze giant navigate"


def test_blocks_give_what_one_read_gives(tmp_path, monkeypatch):
    whole = list(ogbench.open_source(CUBE, "").episodes())
    monkeypatch.setattr(ogbench, "BLOCK_BYTES", 1)  # a block for each trajectory
    for start in range(4):
        parts = list(ogbench.open_source(CUBE, "").episodes(start))
        assert [e.obs.tobytes() for e in parts] == [e.obs.tobytes() for e in whole[start:]]


def test_a_single_row_is_dropped_and_rows_after_the_last_terminal_are_kept(tmp_path):
    path = write(tmp_path / "a.npz", **rows(7, 2, 3))
    first, single, last = ogbench.open_source(path, "a").episodes()
    assert first.obs[:, 0].tolist() == [0, 2] and first.final_obs.tolist() == [4, 5]
    assert isinstance(single, Dropped)
    assert last.obs[:, 0].tolist() == [8, 10] and last.final_obs.tolist() == [12, 13]


def test_rewards_and_masks_of_a_relabelled_file_are_kept(tmp_path):
    reward, masks = np.array([-1.0, -1.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    path = write(tmp_path / "a.npz", **rows(4, 3, rewards=reward, masks=masks))
    (episode,) = ogbench.open_source(path, "a").episodes()
    assert episode.reward.tolist() == [-1, -1, 0]  # of the state seen, as OGBench pairs them
    assert episode.success.tolist() == [False, True, False]  # of the state after the action


def test_it_matches_npz_files_only(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing of the sort")
    assert ogbench.matches(CUBE)
    assert not ogbench.matches(tmp_path / "a.npz") and not ogbench.matches(FILES)


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Replace one member of the archive."""
    with zipfile.ZipFile(CUBE) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.namelist():
            new.writestr(item, content if item == name else old.read(item))


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((2**40, 5)), "the file has other bytes"),
        (header((18, 5), "|O") + bytes(999), "expected rows of numbers"),
        (header((18, -5)), "other bytes"),
        (b"\x93NUMPY\x09\x00", "damaged"),
        (b"", "damaged"),
        (header((18, 20_000)) + bytes(18 * 20_000 * 4), "actions: 20000 numbers a step"),
        (header((17, 5)) + bytes(17 * 5 * 4), "different lengths"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_asked_for(tmp_path, content, message):
    rewrite(tmp_path / "a.npz", "actions.npy", content)
    with pytest.raises(ValueError, match=message) as caught:
        list(ogbench.open_source(tmp_path / "a.npz", "a").episodes())
    assert str(tmp_path / "a.npz") in str(caught.value) and "\n" not in str(caught.value)


def test_damage_anywhere_is_one_clear_line(tmp_path):
    path = tmp_path / "a.npz"
    content = CUBE.read_bytes()
    for at in range(60, len(content), 371):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        try:
            episodes = list(ogbench.open_source(path, "a").episodes())
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # the flip was where nothing is read, e.g. in an array that is left out
            whole = ogbench.open_source(CUBE, "a").episodes()
            for ours, theirs in zip(episodes, whole, strict=True):
                assert ours.obs.tobytes() == theirs.obs.tobytes()
                assert ours.action.tobytes() == theirs.action.tobytes()


def test_a_missing_array_is_named(tmp_path):
    path = write(tmp_path / "a.npz", observations=np.zeros((3, 1)), actions=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="terminals: not there"):
        ogbench.open_source(path, "a")
