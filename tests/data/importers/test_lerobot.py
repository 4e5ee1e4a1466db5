import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headstart.data.importers import import_dataset
from headstart.data.importers.base import Dropped
from headstart.data.importers.lerobot import open_source
from headstart.data.store import Dataset
from headstart.types import Camera, Clip

FILES = Path(__file__).parents[1] / "files"
VERSIONS = ("v2.1", "v3.0")
DATA = "data/chunk-000/file-000.parquet"
ROWS = "meta/episodes/chunk-000/file-000.parquet"


def read(root: Path) -> list:
    return list(open_source(root, "").episodes())


def edit_table(path: Path, edit) -> None:
    table = edit(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path)


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(index).type))


def add_column(root: Path, edit_info, name: str, array: pa.Array, **feature) -> None:
    """Another feature of the state-only v3.0 set."""
    edit_table(root / DATA, lambda table: table.append_column(name, array))
    info = json.loads((root / "meta/info.json").read_text())
    entry = {"dtype": "float32", "shape": [1], "names": None} | feature
    edit_info(root, features=info["features"] | {name: entry})


@pytest.mark.parametrize("version", VERSIONS)
def test_every_value_is_the_one_that_was_recorded(version, lerobot_content):
    make = lerobot_content
    episodes = read(FILES / f"lerobot-{version}-state")
    assert [e.num_steps for e in episodes] == [7, 5, 6]
    for i, episode in enumerate(episodes):
        for t in range(episode.num_steps):
            extra = make.extra(i, t)
            environment = extra["observation.environment_state"].astype(np.float32)
            expected = [make.state(i, t), environment.ravel(), extra["observation.goal"]]
            assert episode.obs[t].tobytes() == np.concatenate(expected).tobytes()
            assert episode.action[t].tobytes() == make.action(i, t).tobytes()
        assert episode.reward.tolist() == [-t / 2 for t in range(episode.num_steps)]
        assert episode.success.tolist() == [False] * (episode.num_steps - 1) + [i != 1]
        assert (episode.obs.dtype, episode.action.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_channels_have_the_sources_own_names(version):
    source = open_source(FILES / f"lerobot-{version}-state", "")
    assert [(c.name, c.role) for c in source.channels] == [
        ("two-finger/state/x", "observation"),
        ("two-finger/state/y", "observation"),
        ("two-finger/state/finger_gap", "observation"),
        ("two-finger/environment_state/0/0", "observation"),
        ("two-finger/environment_state/0/1", "observation"),
        ("two-finger/environment_state/1/0", "observation"),
        ("two-finger/environment_state/1/1", "observation"),
        ("two-finger/goal/z", "goal"),
        ("two-finger/action/dx", "action"),
        ("two-finger/action/dy", "action"),
    ]
    assert (source.name, source.control_hz, source.num_episodes) == (f"LeRobot {version}", 10.0, 3)
    assert open_source(FILES / f"lerobot-{version}-state", "My Arm").channels[0].name == (
        "my-arm/state/x"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lerobot_does_not_tell_is_unknown(version):
    episode = read(FILES / f"lerobot-{version}-tasks")[0]
    assert np.isnan(episode.final_obs).all() and episode.final_obs.shape == (3,)
    assert np.isnan(episode.reward).all() and not episode.success.any()
    assert (episode.seed, episode.behavior) == (-1, "unknown")
    assert (episode.terminated, episode.truncated) == (False, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_changed_or_was_left_out_is_noted(version):
    source = open_source(FILES / f"lerobot-{version}-state", "")
    list(source.episodes())
    assert source.notes == [
        "'observation.environment_state' is float64, stored as float32",
        "'language' was left out: a feature of type string",
        "the observation after the last action is unknown: LeRobot has no place for it",
        "episodes count as truncated: it does not say which were terminated",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_episode_has_its_first_task(version):
    source = open_source(FILES / f"lerobot-{version}-tasks", "")
    found = [(e.instruction, e.task_id) for e in source.episodes() if not isinstance(e, Dropped)]
    assert found == [
        ("Pick up the cube.", "two-finger/pick-up-the-cube"),
        ("Open the drawer", "two-finger/open-the-drawer"),
        ("Pick up the cube.", "two-finger/pick-up-the-cube"),
    ]
    assert "an episode's task changes on its way; its first is kept" in source.notes


@pytest.mark.parametrize("version", VERSIONS)
def test_reading_may_start_at_any_episode(version):
    source = open_source(FILES / f"lerobot-{version}-state", "")
    everything = list(source.episodes())
    for start in range(4):
        later = list(source.episodes(start))
        assert [e.obs.tobytes() for e in later] == [e.obs.tobytes() for e in everything[start:]]


@pytest.mark.parametrize("version", VERSIONS)
def test_image_columns_are_decoded_to_what_was_recorded(version, lerobot_content):
    source = open_source(FILES / f"lerobot-{version}-image", "")
    assert source.cameras == (Camera("top", 48, 64, "image"),)
    for i, episode in enumerate(source.episodes()):
        for t, picture in enumerate(episode.images["top"]):
            assert np.array_equal(picture, lerobot_content.picture(i, t))


def decoded(clip: Clip, num_steps: int) -> np.ndarray:
    """(T, H, W, 3) uint8 what PyAV makes of an episode's video."""
    with av.open(str(clip.path)) as video:
        frames = {round(f.time * 10): f.to_ndarray(format="rgb24") for f in video.decode(video=0)}
    return np.stack([frames[round(clip.start_s * 10) + t] for t in range(num_steps)])


@pytest.mark.parametrize("version", VERSIONS)
def test_video_is_linked_at_the_frame_where_the_episode_begins(version, lerobot_content):
    source = open_source(FILES / f"lerobot-{version}-video", "")
    assert source.cameras == (Camera("top", 48, 64, "video"),)
    for i, episode in enumerate(source.episodes()):
        recorded = [lerobot_content.picture(i, t) for t in range(episode.num_steps)]
        found = decoded(episode.images["top"], episode.num_steps)
        assert np.abs(found.astype(int) - recorded).mean((1, 2, 3)).max() < 8  # lossy, of 255


@pytest.mark.parametrize("version", VERSIONS)
def test_imported_frames_are_those_of_the_sources_video(version, tmp_path):
    root = FILES / f"lerobot-{version}-video"
    import_dataset(root, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    for i, episode in enumerate(read(root)):
        expected = decoded(episode.images["top"], episode.num_steps)
        assert np.array_equal(dataset.images(i, "top"), expected)
        assert np.array_equal(dataset.images(i, "top", [4, 1]), expected[[4, 1]])


@pytest.mark.parametrize("version", VERSIONS)
def test_imported_images_and_numbers_are_those_recorded(version, tmp_path, lerobot_content):
    import_dataset(FILES / f"lerobot-{version}-image", tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    table = dataset.episode_table()
    assert table["num_steps"].tolist() == [7, 5, 6]
    assert table["instruction"].tolist() == list(lerobot_content.TASKS)
    for i, episode in enumerate(dataset.episodes()):
        for t, picture in enumerate(dataset.images(i, "top")):
            assert np.array_equal(picture, lerobot_content.picture(i, t))
            assert episode.obs[t].tobytes() == lerobot_content.state(i, t).tobytes()
            assert episode.action[t].tobytes() == lerobot_content.action(i, t).tobytes()


def test_a_terminated_episode_is_told_where_truncation_is_known(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    cut = np.zeros(18, bool)
    cut[11] = True  # the last step of episode 1
    add_column(root, edit_info, "next.truncated", pa.array(cut), dtype="bool")
    found = [(e.terminated, e.truncated) for e in read(root)]
    assert found == [(True, False), (False, True), (True, False)]


@pytest.mark.parametrize(
    "names", [["a", "b c"], {"motors": ["a", "b c"]}, {"b c": 1, "a": 0}, {"m": "a", "n": "b c"}]
)
def test_names_are_understood_however_they_were_written(names, lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(36, np.float32)), 2)
    add_column(root, edit_info, "observation.force", pairs, shape=[2], names=names)
    found = [c.name for c in open_source(root, "r").channels if "force" in c.name]
    assert found == ["r/force/a", "r/force/b_c"]


def test_two_dimensions_of_one_name_get_numbers(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(36, np.float32)), 2)
    add_column(root, edit_info, "observation.force", pairs, shape=[2], names=["n", "n"])
    found = [c.name for c in open_source(root, "r").channels if "force" in c.name]
    assert found == ["r/force/n/0", "r/force/n/1"]


def test_maps_and_depth_are_left_out_and_noted(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    info = json.loads((root / "meta/info.json").read_text())
    camera = {"dtype": "video", "names": ["height", "width", "channels"]}
    depth = camera | {"shape": [8, 8, 3], "info": {"is_depth_map": True}}
    grey = camera | {"shape": [8, 8, 1]}
    scan = {"dtype": "float32", "shape": [20, 20], "names": None}
    more = {"observation.images.depth": depth, "observation.images.grey": grey, "scan": scan}
    edit_info(root, features=info["features"] | more)
    source = open_source(root, "")
    assert source.cameras == () and len(source.channels) == 10
    assert source.notes[2:5] == [
        "'observation.images.depth' was left out: a depth camera",
        "'observation.images.grey' was left out: a camera of shape (8, 8, 1), not RGB",
        "'scan' was left out: 400 numbers a step, at most 256 become channels",
    ]


def test_tasks_without_a_name_for_their_index_are_read(lerobot_copy):
    root = lerobot_copy("lerobot-v3.0-tasks")
    edit_table(
        root / "meta/tasks.parquet",
        lambda t: t.rename_columns(
            [{"task": "__index_level_0__"}.get(n, n) for n in t.schema.names]
        ),
    )
    assert read(root)[1].instruction == "Open the drawer"


def test_a_gap_in_the_numbers_shifts_nothing(lerobot_copy, lerobot_content):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_table(root / DATA, lambda t: with_column(t, "episode_index", [0] * 7 + [4] * 5 + [9] * 6))
    edit_table(root / ROWS, lambda t: with_column(t, "episode_index", [0, 4, 9]))
    source = open_source(root, "")
    found = [(e.num_steps, e.obs[0, 0], e.instruction[:4]) for e in source.episodes()]
    assert found == [(7, 1.0, "Pick"), (5, 2.0, "Open"), (6, 3.0, "Pick")]
    assert "its episodes are not numbered 0, 1, 2 and so on; here they are" in source.notes


def test_rows_of_the_table_in_another_order_shift_nothing(lerobot_copy):
    root = lerobot_copy("lerobot-v3.0-video")
    edit_table(root / ROWS, lambda table: table.take([2, 0, 1]))
    found = [(e.obs[0, 0], e.instruction[:4], e.images["top"].start_s) for e in read(root)]
    assert found == [(1.0, "Pick", 0.0), (2.0, "Open", 0.7), (3.0, "Pick", 1.2)]


def test_an_episode_that_lost_frames_of_video_is_dropped(lerobot_copy):
    root = lerobot_copy("lerobot-v3.0-video")
    ends = "videos/observation.images.top/to_timestamp"
    edit_table(root / ROWS, lambda table: with_column(table, ends, [0.7, 1.1, 1.8]))
    found = read(root)
    assert found[1] == Dropped("a camera has not one frame for each step")
    assert [e.num_steps for e in (found[0], found[2])] == [7, 6]


def test_an_episode_whose_video_is_short_is_dropped(lerobot_copy):
    root = lerobot_copy("lerobot-v2.1-video")
    videos = root / "videos/chunk-000/observation.images.top"
    shutil.copy(videos / "episode_000001.mp4", videos / "episode_000000.mp4")  # 5 frames of 7
    found = read(root)
    assert found[0] == Dropped("a camera has not one frame for each step")
    assert [e.num_steps for e in found[1:]] == [5, 6]


def refused(root: Path) -> str:
    with pytest.raises(ValueError) as error:
        read(root)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(root), "ROOT")


def test_a_dataset_of_ours_needs_no_import(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_info(root, headstart={"format_version": 1})
    assert refused(root) == "ROOT: already a Headstart dataset; use it as it is"


def test_another_version_is_refused(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_info(root, codebase_version="v1.6")
    assert refused(root) == (
        "ROOT/meta/info.json: LeRobot version 'v1.6'; v2.0, v2.1, v3.0 can be imported"
    )


def test_paths_that_lead_elsewhere_are_refused(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_info(root, data_path="../{chunk_index}/{file_index}")
    assert "data_path is '../{chunk_index}/{file_index}'" in refused(root)


@pytest.mark.parametrize(
    "changes",
    [
        {"fps": "fast"},
        {"fps": 0},
        {"fps": 29.97},
        {"fps": None},
        {"features": [1]},
        {"features": {"a/../b": {"dtype": "video", "shape": [4, 4, 3]}}},
        {"features": {"a": {"dtype": "float32", "shape": [-1]}}},
        {"features": {"a": {"dtype": "float32", "shape": "wide"}}},
        {"total_episodes": []},
    ],
)
def test_an_impossible_info_is_one_clear_line(changes, lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_info(root, **changes)
    assert refused(root).startswith("ROOT/meta/info.json: ")


@pytest.mark.parametrize("version", VERSIONS)
def test_fewer_episodes_than_promised_is_an_error(version, lerobot_copy, edit_info):
    root = lerobot_copy(f"lerobot-{version}-state")
    edit_info(root, total_episodes=12)
    assert refused(root).startswith("ROOT/meta/info.json: 12 episodes, but 3 are listed in meta/")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pattern", ["data/*/*.parquet", "videos/**/*.mp4", "meta/tasks.*"])
def test_a_missing_file_is_named(version, pattern, lerobot_copy):
    root = lerobot_copy(f"lerobot-{version}-video")
    path = sorted(root.glob(pattern))[0]
    path.unlink()
    assert refused(root) == f"ROOT/{path.relative_to(root)}: no such file"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("episode_index", [0] * 7 + [1] * 4 + [2] * 7, "4 steps of episode 1, meta/ says 5"),
        ("episode_index", [0] * 6 + [1] * 5 + [0] + [2] * 6, "do not lie together"),
        ("episode_index", [0] * 7 + [1] * 5 + [3] * 6, "0 steps of episode 2, meta/ says 6"),
        ("frame_index", [*range(7), 0, 2, 1, 3, 4, *range(6)], "steps of episode 1 are missing"),
        ("task_index", [0] * 7 + [5] * 5 + [0] * 6, "task 5 is not in meta/tasks"),
    ],
)
def test_data_that_would_be_shifted_is_an_error(column, values, message, lerobot_copy):
    root = lerobot_copy("lerobot-v3.0-state")

    def edit(table: pa.Table) -> pa.Table:
        table = with_column(table, column, values)
        if message.endswith("missing") or column != "episode_index":
            return table
        places = np.concatenate([np.arange(n) for n in np.unique(values, return_counts=True)[1]])
        return with_column(table, "frame_index", places) if "together" not in message else table

    edit_table(root / DATA, edit)
    assert message in refused(root)


def test_an_episode_in_a_file_that_is_not_its_own_is_an_error(lerobot_copy, edit_info):
    root = lerobot_copy("lerobot-v3.0-state")
    edit_table(root / ROWS, lambda table: table.slice(0, 2))
    edit_info(root, total_episodes=2)
    assert refused(root) == f"ROOT/{DATA}: holds episode 2, which meta/ places elsewhere"


def test_uneven_times_are_an_error_where_frames_are_found_by_them(lerobot_copy):
    times = [0.1 * t for n in (7, 5, 6) for t in range(n)]
    times[9] += 0.03
    for kind in ("video", "state"):
        root = lerobot_copy(f"lerobot-v3.0-{kind}")
        edit_table(root / DATA, lambda table: with_column(table, "timestamp", times))
    assert refused(root.with_name("lerobot-v3.0-video")).endswith("timestamps are not 10 a second")
    source = open_source(root, "")
    list(source.episodes())
    assert "timestamps are uneven; steps are taken to be 10 a second" in source.notes


@pytest.mark.parametrize("keep", [0, 4, 100])
@pytest.mark.parametrize(
    ("version", "file"),
    [
        ("v2.1", "data/chunk-000/episode_000001.parquet"),
        ("v2.1", "meta/episodes.jsonl"),
        ("v2.1", "meta/info.json"),
        ("v3.0", DATA),
        ("v3.0", ROWS),
        ("v3.0", "meta/tasks.parquet"),
    ],
)
def test_a_file_cut_short_is_one_clear_line(version, file, keep, lerobot_copy):
    root = lerobot_copy(f"lerobot-{version}-tasks")
    path = root / file
    path.write_bytes(path.read_bytes()[:keep])
    message = refused(root)
    assert message.startswith(f"ROOT/{file}: ") or "but 0 are listed" in message
