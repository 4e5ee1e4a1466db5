import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from headstart.artifact import read_json
from headstart.data import lerobot_v3 as v3
from headstart.types import Camera, Channel
from recordings import EPISODES, FILMED, FRAMES, ROWS, TASK, film, make_episode, same, save


def test_only_vectors_longer_than_one_are_lists_as_lerobot_wants(tmp_path):
    save(tmp_path, EPISODES)
    schema = pq.read_schema(tmp_path / FRAMES)
    assert str(schema.field("observation.state").type) == "fixed_size_list<element: float>[3]"
    assert [str(schema.field(n).type) for n in ("action", "next.reward")] == ["float", "float"]


def test_the_data_file_has_one_row_group_per_episode(tmp_path):
    save(tmp_path, EPISODES)
    metadata = pq.ParquetFile(tmp_path / FRAMES).metadata
    assert [metadata.row_group(i).num_rows for i in range(5)] == [2, 3, 4, 5, 6]


def test_files_go_to_the_next_chunk_after_a_thousand(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.lerobot_v3.FILES_PER_CHUNK", 2)
    dataset = save(tmp_path, *([e] for e in EPISODES))
    found = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "data").rglob("*.parquet"))
    assert found == [
        "data/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet",
        "data/chunk-001/file-000.parquet",
        "data/chunk-001/file-001.parquet",
        "data/chunk-002/file-000.parquet",
    ]
    assert same(dataset.episodes(), EPISODES)


def test_info_is_what_lerobot_reads(tmp_path):
    save(tmp_path, EPISODES)
    info = read_json(tmp_path / "meta/info.json")
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 20, 2)
    assert (info["fps"], info["splits"], info["video_path"]) == (12, {"train": "0:5"}, None)
    assert info["features"]["observation.state"] == {
        "dtype": "float32",
        "shape": [3],
        "names": ["hand/x", "hand/y", "goal/x"],
    }
    assert info["features"]["next.success"] == {"dtype": "bool", "shape": [1], "names": None}
    paths = {"chunk_index": 0, "file_index": 0}
    assert (tmp_path / info["data_path"].format(**paths)).exists()
    assert info["headstart"]["channels"][2] == {"name": "goal/x", "role": "goal", "unit": "m"}


def test_tasks_are_indexed_by_name_as_pandas_writes_them(tmp_path):
    save(tmp_path, EPISODES)
    table = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert table.to_pydict() == {
        "task_index": [0, 1],
        "task": ["push to the goal", "reach the goal"],
    }
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_by_hand_leave_unknown_labels_out(tmp_path):
    episode = replace(
        make_episode(1, steps=3),
        action=np.array([[1.0], [2.0], [6.0]], np.float32),
        action_expert=np.array([[np.nan], [2.0], [4.0]], np.float32),
    )
    save(tmp_path, [episode])
    stats = read_json(tmp_path / "meta/stats.json")
    assert stats["action"] == {
        "min": [1.0],
        "max": [6.0],
        "mean": [3.0],
        "std": [pytest.approx(np.sqrt(14 / 3))],  # (4 + 1 + 9) / 3
        "count": [3],
        "q01": [pytest.approx(1.02)],
        "q10": [pytest.approx(1.2)],
        "q50": [2.0],
        "q90": [pytest.approx(5.2)],
        "q99": [pytest.approx(5.92)],
    }
    assert (stats["action.expert"]["mean"], stats["action.expert"]["count"]) == ([3.0], [2])


def test_statistics_of_a_column_never_known_are_left_out(tmp_path):
    save(tmp_path, [make_episode(1, labelled=False)])
    assert "action.expert" not in read_json(tmp_path / "meta/stats.json")


def test_cameras_are_features_as_lerobot_describes_them():
    features = v3.features(FILMED)
    assert list(features)[-2:] == ["observation.images.top", "observation.images.wrist"]
    assert features["observation.images.wrist"] == {
        "dtype": "image",
        "shape": [6, 8, 3],
        "names": ["height", "width", "channels"],
    }
    assert features["observation.images.top"]["info"] == {
        "video.height": 32,
        "video.width": 64,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": 20,
        "video.channels": 3,
        "has_audio": False,
    }


def test_the_episodes_table_says_where_each_video_begins(tmp_path):
    save(tmp_path, [film(0, 3), film(1, 4)], [film(2, 2)], schema=FILMED)
    table = pq.read_table(tmp_path / ROWS).to_pydict()
    key = "videos/observation.images.top"
    assert table[f"{key}/file_index"] == [0, 0, 1]
    assert table[f"{key}/chunk_index"] == [0, 0, 0]
    assert table[f"{key}/from_timestamp"] == [0.0, 3 / 20, 0.0]
    assert table[f"{key}/to_timestamp"] == [3 / 20, 7 / 20, 2 / 20]
    info = read_json(tmp_path / "meta/info.json")
    path = info["video_path"].format(
        video_key="observation.images.top", chunk_index=0, file_index=1
    )
    assert (tmp_path / path).exists()


def test_pictures_in_columns_are_bytes_and_a_path(tmp_path):
    save(tmp_path, [film(0)], schema=FILMED)
    schema = pq.read_schema(tmp_path / FRAMES)
    wrist = schema.field("observation.images.wrist").type
    assert str(wrist) == "struct<bytes: binary, path: string>"
    assert "observation.images.top" not in schema.names


@pytest.mark.parametrize(
    ("cameras", "problem"),
    [
        ((Camera("a", 2, 2), Camera("a", 4, 4)), "two cameras are called 'a'"),
        ((Camera("left/eye", 2, 2),), "camera 'left/eye': its name may have letters"),
        ((Camera("a", 3, 2),), "a video of 3 x 2 pixels; h264 wants even numbers"),
        ((Camera("a", 0, 2, "image"),), "0 x 2 pixels"),
    ],
)
def test_cameras_that_cannot_be_written_are_refused(cameras, problem):
    with pytest.raises(ValueError, match=problem):
        v3.check_schema(replace(TASK, cameras=cameras))


X, DX = Channel("hand/x", "observation"), Channel("hand/dx", "action")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"control_hz": 0.0}, "control_hz is 0; it is how many steps a second has, above 0"),
        ({"control_hz": -5.0}, "control_hz is -5"),
        ({"control_hz": float("nan")}, "control_hz is nan"),
        ({"control_hz": float("inf")}, "control_hz is inf"),
        ({"channels": (X, replace(DX, role="actoin"))}, "'hand/dx': no role 'actoin'; did you me"),
        ({"channels": (X, DX, X)}, "two channels are called 'hand/x'; give each its own name"),
        ({"channels": (X, replace(DX, name="hand/x"))}, "two channels are called 'hand/x'"),
        ({"channels": (X, DX, replace(X, name=""))}, "a channel has no name"),
    ],
)
def test_channels_and_rates_that_make_no_sense_are_refused(tmp_path, change, problem):
    with pytest.raises(ValueError, match=problem):
        save(tmp_path / "new", schema=replace(TASK, **change))
    assert not (tmp_path / "new").exists()
