"""Both ways between Headstart and the real lerobot, in an environment that has it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.data.importers import import_dataset
from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Camera, Channel, Episode, Task

pytest.importorskip("lerobot", reason="lerobot is not installed here: `make interop` tests it")

from lerobot.datasets.lerobot_dataset import LeRobotDataset

sys.path.append(str(Path(__file__).parents[1] / "data/files"))
import make_lerobot as theirs

FPS = 10
LENGTHS = (4, 9, 6)
SIZE = (48, 64)  # height, width in pixels
CAMERAS = (Camera("front", *SIZE, "video"), Camera("wrist", *SIZE, "image"))
CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("hand/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action"),
    Channel("gripper", "action"),
)
TASK = Task("suite", "reach", "reach the goal", CHANNELS, 100, FPS, CAMERAS)
INSTRUCTIONS = ("reach the goal", "push to the goal", "reach the goal")


def pictures(episode: int, camera: int) -> np.ndarray:
    """(T, H, W, 3) uint8: red tells the episode, blue the camera, a bright bar the step."""
    found = np.full((LENGTHS[episode], *SIZE, 3), (70 * episode, 30, 100 * camera), np.uint8)
    for step in range(len(found)):
        found[step, :, 6 * step : 6 * step + 6] = 240
    return found


def our_episode(number: int) -> Episode:
    rng = np.random.default_rng(number)
    steps = LENGTHS[number]
    return Episode(
        task_id=f"suite/{INSTRUCTIONS[number].split()[0]}",
        instruction=INSTRUCTIONS[number],
        obs=rng.standard_normal((steps, 3)).astype(np.float32),
        action=rng.standard_normal((steps, 2)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        success=np.arange(steps) == steps - 1,
        final_obs=rng.standard_normal(3).astype(np.float32),
        terminated=number == 0,
        truncated=number != 0,
        seed=number,
        behavior="expert",
        images={"front": pictures(number, 0), "wrist": pictures(number, 1)},
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A dataset of ours, of two saves."""
    root = tmp_path_factory.mktemp("ours") / "dataset"
    with DatasetWriter(root, TASK) as writer:
        writer.save_episodes([our_episode(0), our_episode(1)])
        writer.save_episode(our_episode(2))
    return root


def load(root: Path, **options) -> LeRobotDataset:
    return LeRobotDataset("someone/something", root=root, video_backend="pyav", **options)


def as_bytes(picture) -> np.ndarray:
    """(H, W, 3) uint8 of lerobot's (3, H, W) float between 0 and 1."""
    return (picture.numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


def test_lerobot_reads_our_steps_and_tasks(ours):
    dataset = load(ours)
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (sum(LENGTHS), 3, FPS)
    index = 0
    for i in range(3):
        episode = our_episode(i)
        for t in range(episode.num_steps):
            item = dataset[index]
            assert (item["episode_index"], item["frame_index"], item["index"]) == (i, t, index)
            assert item["task"] == INSTRUCTIONS[i]
            assert item["observation.state"].numpy().tobytes() == episode.obs[t].tobytes()
            assert item["action"].numpy().tobytes() == episode.action[t].tobytes()
            assert item["next.reward"].item() == episode.reward[t]
            assert bool(item["next.success"]) == episode.success[t]
            assert bool(item["next.done"]) == (t == episode.num_steps - 1)
            assert bool(item["next.truncated"]) == (t == episode.num_steps - 1 and i != 0)
            index += 1


def test_lerobot_reads_our_pictures(ours):
    dataset, reader = load(ours), Dataset(ours)
    index = 0
    for i in range(3):
        front = reader.images(i, "front")
        for t in range(LENGTHS[i]):
            item = dataset[index]
            wrist = as_bytes(item["observation.images.wrist"])
            assert np.array_equal(wrist, pictures(i, 1)[t])
            found = as_bytes(item["observation.images.front"]).astype(int)
            assert np.abs(found - front[t]).max() <= 2  # another conversion to RGB
            assert np.abs(found - pictures(i, 0)[t]).mean() < 8  # lossy, of 255
            index += 1


def test_lerobot_cuts_windows_of_our_episodes(ours):
    offsets = [-2, 0, 3]
    dataset = load(ours, delta_timestamps={"action": [k / FPS for k in offsets]})
    index = 0
    for i in range(3):
        action = our_episode(i).action
        for t in range(LENGTHS[i]):
            item = dataset[index]
            wanted = np.array([t + k for k in offsets])
            inside = wanted.clip(0, LENGTHS[i] - 1)
            assert np.array_equal(item["action"].numpy(), action[inside])
            assert item["action_is_pad"].tolist() == (wanted != inside).tolist()
            index += 1


def test_lerobot_loads_single_episodes_of_ours(ours):
    dataset = load(ours, episodes=[2])
    assert len(dataset) == LENGTHS[2]
    assert dataset[0]["task"] == INSTRUCTIONS[2]
    assert np.array_equal(dataset[5]["observation.state"].numpy(), our_episode(2).obs[5])
    found = as_bytes(dataset[5]["observation.images.front"]).astype(int)
    assert np.abs(found - pictures(2, 0)[5]).mean() < 8


def test_lerobot_can_normalise_by_our_statistics(ours):
    stats = load(ours).meta.stats
    for key, column in (("observation.state", "obs"), ("action", "action")):
        values = np.concatenate([getattr(our_episode(i), column) for i in range(3)])
        assert np.allclose(stats[key]["mean"], values.mean(0), atol=1e-5)
        assert np.allclose(stats[key]["std"], values.std(0), atol=1e-5)
        assert np.allclose(stats[key]["min"], values.min(0))
        assert np.allclose(stats[key]["max"], values.max(0))
    for camera in ("front", "wrist"):
        found = stats[f"observation.images.{camera}"]
        assert np.shape(found["mean"]) == (3, 1, 1)
        assert 0 < np.min(found["mean"]) < np.max(found["mean"]) < 1
        assert np.all(np.asarray(found["std"]) > 0)


def test_a_policy_of_lerobot_can_train_on_ours(ours):
    """Its own loader, normalisation and an action-chunking transformer: the loss is finite."""
    import torch
    from lerobot.configs.types import FeatureType
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features

    metadata = load(ours).meta
    features = dataset_to_policy_features(metadata.features)
    outputs = {k: f for k, f in features.items() if f.type is FeatureType.ACTION}
    config = ACTConfig(
        input_features={k: f for k, f in features.items() if k not in outputs},
        output_features=outputs,
        chunk_size=4,
        n_action_steps=4,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        pretrained_backbone_weights=None,
        device="cpu",
    )
    dataset = load(ours, delta_timestamps={"action": [k / FPS for k in range(4)]})
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8)))
    prepare, _ = make_act_pre_post_processors(config, metadata.stats)
    loss, _ = ACTPolicy(config).forward(prepare(batch))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("kind", ["state", "video", "image", "tasks"])
def test_what_lerobot_recorded_is_imported_bit_for_bit(kind, tmp_path):
    theirs.write(tmp_path / "source", kind)
    source = load(tmp_path / "source")
    result = import_dataset(tmp_path / "source", tmp_path / "ours")
    dataset = Dataset(tmp_path / "ours")
    assert (result["episodes"], result["steps"]) == (source.num_episodes, len(source))
    table = dataset.episode_table()
    for i, episode in enumerate(dataset.episodes()):
        start = int(table["start"][i])
        assert episode.num_steps == theirs.LENGTHS[i]
        assert episode.instruction == source[start]["task"]
        for t in range(episode.num_steps):
            item = source[start + t]
            state = item["observation.state"].numpy()
            assert episode.obs[t, :3].tobytes() == state.tobytes()
            assert episode.action[t].tobytes() == item["action"].numpy().tobytes()
            if kind in ("video", "image"):
                found = dataset.images(i, "top", [t])[0].astype(int)
                picture = as_bytes(item["observation.images.top"])
                assert np.abs(found - picture).max() <= (2 if kind == "video" else 0)


def test_an_imported_set_goes_back_to_lerobot(tmp_path):
    theirs.write(tmp_path / "source", "video")
    import_dataset(tmp_path / "source", tmp_path / "ours")
    source, found = load(tmp_path / "source"), load(tmp_path / "ours")
    assert len(source) == len(found)
    for before, after in zip(source, found, strict=True):
        assert before["observation.state"].equal(after["observation.state"])
        assert before["action"].equal(after["action"])
        assert before["observation.images.top"].equal(after["observation.images.top"])
        assert before["task"] == after["task"]
