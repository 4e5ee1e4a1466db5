import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.artifact import manifest, read_json, write_json
from headstart.data import tools
from headstart.data.compact import compact
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.summary import clock, describe, grouped, information, size, succeeded
from headstart.data.verify import verify
from headstart.ledger import Bill, Cost, read_bill, total, write_bill
from headstart.types import Camera, Channel, Clip, Episode, Task

CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("hand/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action", "cm"),
)
TASK = Task("suite", "reach", "", CHANNELS, 100, 10.0)


def make_episode(number: int, task: str, steps: int = 3, success: bool = True) -> Episode:
    rng = np.random.default_rng(number)
    won = np.zeros(steps, bool)
    won[-1] = success
    return Episode(
        task_id=f"suite/{task}",
        instruction=f"{task} the goal",
        obs=rng.standard_normal((steps, 3)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        success=won,
        final_obs=rng.standard_normal(3).astype(np.float32),
        terminated=False,
        truncated=True,
        seed=number,
        behavior="expert" if number % 2 else "random",
    )


EPISODES = [
    make_episode(number, "reach" if number < 6 else "push", 2 + number, success=number % 3 == 0)
    for number in range(10)
]


def save(root: Path, episodes=EPISODES, schema: Task = TASK, bill: Bill | None = None) -> Path:
    with DatasetWriter(root, schema) as writer:
        writer.save_episodes(episodes)
    if bill is not None:
        write_bill(root, bill)
    return root


def digests(root: Path) -> list[str]:
    return Dataset(root).episode_table()["sha256"].tolist()


def seeds(root: Path) -> list[int]:
    return Dataset(root).episode_table()["seed"].tolist()


def test_information_counts_what_is_there(tmp_path):
    save(tmp_path / "a", bill=Bill("x", "collect", "a", Cost({"expert": 65}, demonstrations=10)))
    facts = information(tmp_path / "a")
    assert (facts["episodes"], facts["env_steps"]) == (10, sum(range(2, 12)))
    assert facts["tasks"] == {
        "suite/push": {"episodes": 4, "steps": 8 + 9 + 10 + 11, "success": 0.5},
        "suite/reach": {"episodes": 6, "steps": 2 + 3 + 4 + 5 + 6 + 7, "success": 1 / 3},
    }
    assert facts["behaviors"] == {"random": 5, "expert": 5}
    text = "\n".join(describe(facts))
    assert "65 simulator steps (expert 65)" in text
    assert "10 demonstrations" in text
    assert "hand                 x y [m]" in text
    assert "6 s" in text, "65 steps at 10 Hz"


def test_what_nobody_knows_of_a_bill_reads_unknown(tmp_path):
    root = save(tmp_path / "a")
    assert "  bill       unknown" in describe(information(root))
    write_bill(root, Bill("a", "import", "a", replace(Cost.unknown(), demonstrations=10)))
    text = "\n".join(describe(information(root)))
    assert "unknown simulator steps" in text
    assert "10 demonstrations, unknown core-s" in text


def test_success_is_at_any_step(tmp_path):
    dataset = Dataset(save(tmp_path / "a"))
    assert succeeded(dataset).tolist() == [number % 3 == 0 for number in range(10)]
    with DatasetWriter(tmp_path / "empty", TASK):
        pass
    assert succeeded(Dataset(tmp_path / "empty")).tolist() == []


def test_channels_are_grouped_by_body_and_unit():
    names = [f"joint/{i}" for i in range(5)] + ["arm/x", "arm/z", "lone"]
    channels = [Channel(name, "observation", "m" if "arm" in name else "") for name in names]
    assert grouped(channels) == [("joint", "0..4"), ("arm", "x z [m]"), ("-", "lone")]


def test_sizes_and_times_are_readable():
    assert [size(n) for n in (12, 999.6, 9_440_000)] == ["12 B", "1 kB", "9.44 MB"]
    assert [clock(s) for s in (6.4, 1250, 3900)] == ["6 s", "20 min 50 s", "1 h 5 min"]


def test_merge_keeps_every_episode_bit_for_bit(tmp_path):
    a, b = save(tmp_path / "a", EPISODES[:4]), save(tmp_path / "b", EPISODES[4:])
    result = tools.merge(tools.MergeConfig(sources=(a, b), out=tmp_path / "c"))
    assert digests(tmp_path / "c") == digests(a) + digests(b)
    assert result["episodes"] == 10
    assert read_json(tmp_path / "c/result.json") == result
    assert "4 tasks" not in (tmp_path / "c/README.md").read_text()
    assert "10 episodes, 65 steps, 2 tasks" in (tmp_path / "c/README.md").read_text()


def test_merge_marks_channels_that_a_source_lacks_as_missing(tmp_path):
    elbow, grip = Channel("elbow", "observation"), Channel("grip", "action")
    other = replace(TASK, channels=(elbow, CHANNELS[0], grip, CHANNELS[3]))
    theirs = replace(
        EPISODES[0],
        obs=EPISODES[0].obs[:, :2],
        final_obs=EPISODES[0].final_obs[:2],
        action=np.stack([np.zeros(2, np.float32), EPISODES[0].action[:, 0]], axis=1),
        action_expert=np.ones((2, 2), np.float32),
    )
    a, b = save(tmp_path / "a", [EPISODES[1]]), save(tmp_path / "b", [theirs], other)
    tools.merge(tools.MergeConfig(sources=(a, b), out=tmp_path / "c"))
    merged = Dataset(tmp_path / "c")
    assert [c.name for c in merged.obs_channels] == ["hand/x", "hand/y", "goal/x", "elbow"]
    assert [c.name for c in merged.action_channels] == ["hand/dx", "grip"]
    first, second = merged.episodes()
    nan = np.float32("nan")
    np.testing.assert_array_equal(first.obs[:, :3], EPISODES[1].obs)
    assert np.isnan(first.obs[:, 3]).all() and np.isnan(first.action[:, 1]).all()
    np.testing.assert_array_equal(second.obs[:, [3, 0]], theirs.obs)
    np.testing.assert_array_equal(
        second.final_obs, [theirs.final_obs[1], nan, nan, theirs.final_obs[0]]
    )
    np.testing.assert_array_equal(second.action[:, [1, 0]], theirs.action)
    np.testing.assert_array_equal(second.label, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control_hz": 20.0}, "their control rates are 10 and 20 Hz"),
        ({"cameras": (Camera("arm", 4, 6),)}, "their cameras are none and arm 4 x 6 (video)"),
        (
            {"channels": (Channel("hand/x", "observation", "cm"), *CHANNELS[1:])},
            "b: channel 'hand/x' is observation [cm], in",
        ),
    ],
)
def test_merge_refuses_what_does_not_go_together(tmp_path, change, message):
    a, b = save(tmp_path / "a"), save(tmp_path / "b", [], replace(TASK, **change))
    with pytest.raises(ValueError) as error:
        tools.merge(tools.MergeConfig(sources=(a, b), out=tmp_path / "c"))
    assert message in str(error.value)
    assert str(a) in str(error.value) and str(b) in str(error.value)
    assert not (tmp_path / "c").exists()


def test_no_dataset_is_merged_with_itself(tmp_path):
    save(tmp_path / "a", EPISODES[:1])
    again = tmp_path / "b/../a"
    with pytest.raises(ValueError, match="named twice would have each episode twice"):
        tools.merge(tools.MergeConfig(sources=(tmp_path / "a", again), out=tmp_path / "c"))


def test_a_merged_dataset_owes_its_sources_once(tmp_path):
    shared = Bill("root", "collect", "root", Cost({"expert": 100}))
    for name, steps in (("a", 10), ("b", 5)):
        save(
            tmp_path / name, EPISODES[:1], bill=Bill(name, "x", name, Cost({"p": steps}), (shared,))
        )
    config = tools.MergeConfig(sources=(tmp_path / "a", tmp_path / "b"), out=tmp_path / "c")
    tools.merge(config)
    bill = read_bill(tmp_path / "c")
    assert (bill.stage, bill.name, bill.identity) == ("merge", "c", manifest(tmp_path / "c"))
    assert total([bill]).env_steps == 100 + 10 + 5


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.5, 0.25, 0.25)])
def test_shares_are_exact_for_the_whole_and_for_every_task(shares):
    tasks = ["a"] * 40 + ["b"] * 20 + ["c"] * 40
    parts = tools.draw_shares(tasks, shares, seed=0)
    for part, share in enumerate(shares):
        assert (parts == part).sum() == share * 100
        for task in "abc":
            mine = np.array([t == task for t in tasks])
            assert abs((parts[mine] == part).sum() - share * mine.sum()) <= 1


def test_single_episodes_of_many_tasks_are_shared_too():
    parts = tools.draw_shares([str(i) for i in range(50)], (0.9, 0.1), seed=3)
    assert (parts == 1).sum() == 5


def test_the_same_seed_gives_the_same_split_and_another_another():
    tasks = ["a"] * 30
    first = tools.draw_shares(tasks, (0.5, 0.5), 1)
    np.testing.assert_array_equal(first, tools.draw_shares(tasks, (0.5, 0.5), 1))
    assert (first != tools.draw_shares(tasks, (0.5, 0.5), 2)).any()


def test_split_by_shares_keeps_every_episode_once(tmp_path):
    source = save(tmp_path / "a")
    config = tools.SplitConfig(source=source, out=tmp_path / "out", shares=(0.8, 0.2))
    results = tools.split(config)
    train, heldout = digests(tmp_path / "out/train"), digests(tmp_path / "out/heldout")
    assert (results["train"]["episodes"], results["heldout"]["episodes"]) == (8, 2)
    assert sorted(train + heldout) == sorted(digests(source))


def test_split_by_tasks_and_by_numbers_gives_the_second_part_what_is_named(tmp_path):
    source = save(tmp_path / "a")
    tools.split(tools.SplitConfig(source=source, out=tmp_path / "t", tasks=("*/pu*",)))
    assert seeds(tmp_path / "t/heldout") == [6, 7, 8, 9]
    config = tools.SplitConfig(
        source=source, out=tmp_path / "n", episodes=("0", "7-8"), names=("rest", "few")
    )
    tools.split(config)
    assert seeds(tmp_path / "n/few") == [0, 7, 8]
    assert seeds(tmp_path / "n/rest") == [1, 2, 3, 4, 5, 6, 9]


def test_parts_merged_again_cost_what_the_whole_did(tmp_path):
    source = save(tmp_path / "a", bill=Bill("a", "collect", "a", Cost({"expert": 65})))
    tools.split(tools.SplitConfig(source=source, out=tmp_path / "s", shares=(0.5, 0.5)))
    parts = (tmp_path / "s/train", tmp_path / "s/heldout")
    tools.merge(tools.MergeConfig(sources=parts, out=tmp_path / "b"))
    assert total([read_bill(tmp_path / "b")]).env_steps == 65
    assert sorted(digests(tmp_path / "b")) == sorted(digests(source))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "part by one of --shares"),
        ({"shares": (0.5, 0.5), "tasks": ("suite/push",)}, "part by one of"),
        ({"shares": (0.5, 0.4)}, "--shares add up to 0.9"),
        ({"shares": (0.9, 0.05, 0.05)}, "3 parts need 3 different --names, not 2"),
        ({"tasks": ("suite/pus",)}, "no task 'suite/pus'; did you mean suite/push"),
        ({"tasks": ("*",)}, "part 'train' of"),
        ({"episodes": ("8-12",)}, "has 10 episodes, 0 to 9"),
        ({"episodes": ("x",)}, "use a number, 7, or a range"),
        ({"shares": (0.5, 0.5), "names": ("a", "../b")}, "a part's name is that of a folder"),
        ({"shares": (0.5, 0.5), "seed": -1}, "--seed -1 is negative"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(tmp_path, options, message):
    source = save(tmp_path / "a")
    with pytest.raises(ValueError) as error:
        tools.split(tools.SplitConfig(source=source, out=tmp_path / "out", **options))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"task": ("suite/push",)}, [6, 7, 8, 9]),
        ({"success": True}, [0, 3, 6, 9]),
        ({"failure": True, "task": ("*reach",)}, [1, 2, 4, 5]),
        ({"behavior": ("expert",)}, [1, 3, 5, 7, 9]),
        ({"min_steps": 10}, [8, 9]),
        ({"episodes": ("2-4", "9")}, [2, 3, 4, 9]),
    ],
)
def test_filter_keeps_what_passes_bit_for_bit(tmp_path, options, kept):
    source = save(tmp_path / "a")
    tools.filter_episodes(tools.FilterConfig(source=source, out=tmp_path / "b", **options))
    assert seeds(tmp_path / "b") == kept
    assert digests(tmp_path / "b") == [digests(source)[number] for number in kept]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"behavior": ("exprt",)}, "no behavior 'exprt'; did you mean expert"),
        ({"success": True, "failure": True}, "no episode passes both"),
        ({"min_steps": 99}, "none of 10 episodes passes"),
    ],
)
def test_a_filter_that_nothing_passes_is_refused(tmp_path, options, message):
    source = save(tmp_path / "a")
    with pytest.raises(ValueError) as error:
        tools.filter_episodes(tools.FilterConfig(source=source, out=tmp_path / "b", **options))
    assert message in str(error.value)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    source = save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/precious").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        tools.filter_episodes(tools.FilterConfig(source=source, out=tmp_path / "b"))
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["precious"]


def test_compact_packs_files_and_changes_no_episode_and_no_bill(tmp_path):
    source = save(tmp_path / "a", EPISODES[:4])
    save(source, EPISODES[4:7])
    save(source, EPISODES[7:], bill=Bill("a", "collect", "a", Cost({"expert": 65})))
    write_json(source / "result.json", {"kept": 1})
    before, identity = digests(source), read_bill(source)
    packed = compact(source)
    assert digests(source) == before
    assert read_bill(source) == identity
    assert json.loads((source / "result.json").read_text()) == {"kept": 1}
    assert len(list((source / "data").rglob("*.parquet"))) == 1
    assert packed["files"][1] < packed["files"][0]
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "nothing is left beside it"


def filmed(number: int, steps: int) -> Episode:
    rng = np.random.default_rng(number)
    images = {
        camera.name: rng.integers(0, 256, (steps, camera.height, camera.width, 3), np.uint8)
        for camera in CAMERAS
    }
    return replace(make_episode(number, "reach", steps), images=images)


CAMERAS = (Camera("front", 16, 32), Camera("wrist", 6, 4, "image"))


def test_compact_joins_films_without_encoding_them_anew(tmp_path):
    schema = replace(TASK, cameras=CAMERAS)
    with DatasetWriter(tmp_path / "a", schema) as writer:
        for number in range(4):
            writer.save_episode(filmed(number, 3 + number))
    before = Dataset(tmp_path / "a")
    pictures = [before.images(i, c.name) for i in range(4) for c in CAMERAS]
    table = before.episode_table()
    compact(tmp_path / "a")
    after = Dataset(tmp_path / "a")
    assert len(list((tmp_path / "a/videos").rglob("*.mp4"))) == 1
    for found, saved in zip(
        [after.images(i, c.name) for i in range(4) for c in CAMERAS], pictures, strict=True
    ):
        np.testing.assert_array_equal(found, saved)
    clips = [episode.images["front"] for episode in after.episodes()]
    starts = [clip.start_s for clip in clips if isinstance(clip, Clip)]
    assert starts == pytest.approx([0.0, 0.3, 0.7, 1.2]), "3, 4 and 5 frames at 10 Hz"
    assert after.episode_table()["sha256"].tolist() == table["sha256"].tolist()
    assert verify(tmp_path / "a") == []


def test_merge_split_and_filter_keep_every_picture(tmp_path):
    schema = replace(TASK, cameras=CAMERAS)
    for name, numbers in (("a", (0, 1)), ("b", (2, 3))):
        save(tmp_path / name, [filmed(number, 4) for number in numbers], schema)
    expected = [
        Dataset(tmp_path / n).images(i, c.name) for n in "ab" for i in (0, 1) for c in CAMERAS
    ]
    tools.merge(tools.MergeConfig(sources=(tmp_path / "a", tmp_path / "b"), out=tmp_path / "m"))
    merged = Dataset(tmp_path / "m")
    for i in range(4):
        for k, camera in enumerate(CAMERAS):
            np.testing.assert_array_equal(merged.images(i, camera.name), expected[2 * i + k])
    config = tools.FilterConfig(source=tmp_path / "m", out=tmp_path / "f", episodes=("2",))
    tools.filter_episodes(config)
    np.testing.assert_array_equal(Dataset(tmp_path / "f").images(0, "front"), expected[4])
    assert verify(tmp_path / "f") == []


def test_what_else_lies_in_a_packed_dataset_stays(tmp_path):
    source = save(tmp_path / "a")
    for name in ("notes.txt", ".dropped/old", "plots/one.svg"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    compact(source)
    for name in ("notes.txt", ".dropped/old", "plots/one.svg"):
        assert (source / name).read_text() == name


def test_a_dataset_that_is_being_written_is_not_packed(tmp_path):
    source = save(tmp_path / "a")
    with DatasetWriter(source, TASK), pytest.raises(ValueError, match="another writer is at work"):
        compact(source)


def test_a_failure_while_packing_leaves_the_dataset_as_it_was(tmp_path, monkeypatch):
    source = save(tmp_path / "a")
    before = digests(source)

    def fail(one: Path, other: Path) -> None:
        raise OSError(28, "No space left on device", str(one))

    monkeypatch.setattr(tools, "exchange", fail)
    with pytest.raises(OSError, match="No space"):
        compact(source)
    assert digests(source) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_folders_change_places(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    tools.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one/file").read_text() == "other"
    assert (tmp_path / "other/file").read_text() == "one"


def test_batches_are_of_about_the_size_asked_for():
    own = 4 * 3 * 5 + 2 * 4 * 5  # obs, and action counted for its label too: 5 steps
    episodes = [make_episode(number, "reach", steps=5) for number in range(5)]
    batches = list(tools.in_batches(episodes, (), most_bytes=2 * own))
    assert [len(batch) for batch in batches] == [2, 2, 1]
