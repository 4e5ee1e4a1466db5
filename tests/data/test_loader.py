import hashlib

import numpy as np
import pytest

import sequences
from headstart.data.loader import Loader, LoaderConfig, Trajectories, evenly_spaced
from headstart.data.mixture import Mixture
from headstart.types import TokenBatch


def arrays(batch: TokenBatch) -> list[np.ndarray]:
    found = (batch.words, batch.demonstration, batch.obs, batch.action, batch.label, batch.change)
    return [array for array in found if array is not None]


def two_bodies(shares: tuple[float, ...] | None = None) -> Mixture:
    return Mixture((sequences.trajectories(), sequences.arm_trajectories()), shares)


def episode_of(data: Trajectories, row: int) -> int:
    return int(np.flatnonzero((data.start <= row) & (row < data.start + data.length))[0])


def config(**changes: float) -> LoaderConfig:
    return LoaderConfig(num_prompts=6, num_windows=4, **changes)  # type: ignore[arg-type]


def test_episodes_are_sorted_by_task_where_they_lie():
    data = sequences.trajectories()
    assert data.tasks == ("t/a", "t/b")
    assert data.length.tolist() == [7, 4, 9, 5]
    assert data.start.tolist() == [0, 12, 16, 7]
    assert data.task_of_episode.tolist() == [0, 0, 0, 1]
    assert data.shows.tolist() == [True, False, True, True]


def test_chunks_are_all_steps_and_say_where_the_next_row_is_not_the_next_step():
    data = sequences.trajectories()
    chunks = list(data.chunks(8))  # an episode of 9 steps does not fit
    assert [len(rows) for rows, _ in chunks] == [7, 5, 4, 8, 1]  # as they lie
    assert [np.flatnonzero(breaks).tolist() for _, breaks in chunks] == [[6], [4], [3], [7], [0]]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in chunks]), data.rows)
    ((whole, breaks),) = data.chunks()  # by task
    np.testing.assert_array_equal(whole[11:20], data.rows[16:25])
    assert np.flatnonzero(breaks).tolist() == [6, 10, 19, 24]


def test_batches_of_one_dataset_are_what_they_have_always_been():
    loader = sequences.loader(config())
    digest = hashlib.sha256()
    for batch in loader.batches(0, 40):
        for array in arrays(batch):
            digest.update(str((array.dtype, array.shape)).encode() + array.tobytes())
    assert digest.hexdigest() == "7f9569397a15cfdd26ea4ec5be5d054bb49c4702cf752ce7dbd9e9d7d0423c96"


def test_batches_made_ahead_are_those_made_one_by_one():
    loader = sequences.loader(config(), data=two_bodies())
    for update, batch in enumerate(loader.batches(7, 11), 7):
        for a, b in zip(arrays(batch), arrays(loader.batch(update)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("last", [7, 8, 11])
def test_no_batch_is_made_that_nobody_takes(monkeypatch: pytest.MonkeyPatch, last: int):
    loader, made = sequences.loader(config()), []
    monkeypatch.setattr(loader, "batch", made.append)
    assert len(list(loader.batches(7, last))) == last - 7
    assert made == list(range(7, last))


def test_a_column_of_labels_that_are_the_actions_may_be_left_out():
    data = sequences.trajectories()
    short = sequences.trajectories()
    short.rows = np.ascontiguousarray(data.rows[:, :10])
    for update in range(8):
        pair = (sequences.loader(config(), data=d).batch(update) for d in (data, short))
        for a, b in zip(*map(arrays, pair), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_mixture_has_the_columns_of_all_and_each_sequence_only_its_own():
    data = two_bodies((0.5, 0.5))
    assert [c.name for c in data.obs_channels[6:]] == ["goal/z", "arm/1"]
    assert [c.name for c in data.action_channels] == [
        "hand/dx", "hand/dy", "hand/dz", "arm/d1",
    ]  # fmt: skip
    batch = sequences.loader(config(told=0.0, shown=1.0, random_frames=0.0), data=data).batch(0)
    assert batch.demonstration is not None
    arm = ~np.isnan(batch.obs[:, 0, 0, 7])
    assert 0 < arm.sum() < len(arm)
    for values in (batch.obs, batch.demonstration[..., None, :8]):
        assert np.isnan(values[arm][..., 1:7]).all() and not np.isnan(values[arm][..., 0]).any()
        assert np.isnan(values[~arm][..., 7]).all() and not np.isnan(values[~arm][..., :7]).any()
    assert (
        np.isnan(batch.action[arm][..., 1:3]).all() and np.isnan(batch.action[~arm][..., 3]).all()
    )
    rows = {row.tobytes() for row in sequences.arm_trajectories().obs}
    for step in batch.obs[arm].reshape(-1, 8):
        assert step[[7, 0]].tobytes() in rows


def test_columns_asked_for_are_what_a_batch_has():
    data = sequences.arm_trajectories()
    names = (["hand/x", "other", "arm/1"], ["arm/d1", "hand/dx"])
    loader = Loader(data, config(told=1.0, shown=0.0), np.zeros((1, 6), np.int64), 3, 5, 0, names)
    batch = loader.batch(0)
    rows = {row.tobytes() for row in data.obs}
    assert all(step[[2, 0]].tobytes() in rows for step in batch.obs.reshape(-1, 3))
    assert np.isnan(batch.obs[..., 1]).all()


@pytest.mark.parametrize(("shares", "arm"), [(None, 1 / 3), ((0.2, 0.8), 0.8)])
def test_sequences_are_drawn_by_task_or_by_the_shares_asked_for(shares, arm):
    loader = sequences.loader(config(), data=two_bodies(shares))
    batches = [loader.batch(k) for k in range(150)]
    drawn = np.mean([~np.isnan(b.obs[:, 0, 0, 7]) for b in batches])
    assert drawn == pytest.approx(arm, abs=0.06)


def test_two_halves_of_a_dataset_are_the_whole():
    whole = sequences.trajectories()
    halves = []
    for task in (0, 1):
        half = sequences.trajectories()
        chosen = whole.task_of_episode == task
        half.start, half.length = whole.start[chosen], whole.length[chosen]
        half.tasks, half.instructions = (whole.tasks[task],), (whole.instructions[task],)
        half.task_of_episode, half.shows = np.zeros(chosen.sum(), int), whole.shows[chosen]
        halves.append(half)
    settings = config(random_frames=0.0)
    a, b = (sequences.loader(settings, data=d) for d in (whole, Mixture(tuple(halves))))
    for update in range(10):
        for x, y in zip(arrays(a.batch(update)), arrays(b.batch(update)), strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_task_without_an_episode_to_show_has_an_empty_demonstration():
    data = sequences.trajectories()
    data.shows[data.task_of_episode == 1] = False
    loader = sequences.loader(config(told=0.0, shown=1.0), data=data)
    home = {row.tobytes() for row in data.obs[7:12]}
    seen = set()
    for update in range(10):
        batch = sequences.loader(config(told=0.0, shown=1.0, random_frames=0.0), data=data).batch(
            update
        )
        shown = loader.batch(update).demonstration
        for sequence, demonstration in zip(batch.obs, shown, strict=True):
            is_home = sequence[0, 0].tobytes() in home
            assert np.isnan(demonstration).all() == is_home
            seen.add(is_home)
    assert seen == {True, False}


def test_a_prompt_spans_the_episode_first_step_to_last():
    steps = evenly_spaced(np.array([9, 3]), 5)
    assert steps.tolist() == [[0, 2, 4, 6, 8], [0, 0, 1, 2, 2]]


def test_a_batch_is_a_function_of_seed_and_update():
    first, second = sequences.loader(config()), sequences.loader(config())
    for update in (5, 0, 5):
        a, b = first.batch(update), second.batch(update)
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.label, b.label)
    assert not np.array_equal(first.batch(0).obs, first.batch(1).obs)
    assert not np.array_equal(sequences.loader(config(), seed=1).batch(0).obs, first.batch(0).obs)


def test_windows_are_consecutive_steps_of_one_episode_and_end_with_it():
    data = sequences.trajectories()
    batch = sequences.loader(config(told=1.0, shown=0.0)).batch(3)
    place = {row.tobytes(): k for k, row in enumerate(data.obs)}
    for b, n in np.ndindex(6, 4):
        rows = [place[step.tobytes()] for step in batch.obs[b, n]]
        episode = episode_of(data, rows[0])
        end = data.start[episode] + data.length[episode]
        for k, row in enumerate(rows):
            inside = rows[0] + k < end
            assert row == (rows[0] + k if inside else end - 1)
            assert np.isnan(batch.label[b, n, k]).all() != inside
            if rows[0] + k < end - 1:
                np.testing.assert_array_equal(
                    batch.change[b, n, k], data.obs[row + 1] - data.obs[row]
                )
            else:
                assert np.isnan(batch.change[b, n, k]).all()


def test_the_episode_that_is_shown_is_not_the_one_to_predict():
    data = sequences.trajectories()
    loader = sequences.loader(config(told=0.0, shown=1.0, random_frames=0.0))
    place = {row.tobytes(): k for k, row in enumerate(data.obs)}
    predicted = set()
    for update in range(40):
        batch = loader.batch(update)
        assert batch.demonstration is not None
        for shown, obs in zip(batch.demonstration, batch.obs, strict=True):
            rows = [place[shown[0, :7].tobytes()], *(place[w.tobytes()] for w in obs[:, 0])]
            shown_episode, *episodes = (episode_of(data, row) for row in rows)
            if data.task_of_episode[shown_episode] == 0:  # the other task has just one episode
                assert shown_episode not in episodes
            predicted |= set(episodes)
    assert predicted == {0, 1, 2, 3}


def test_cues_are_dropped_at_the_shares_asked_for():
    loader = sequences.loader(config(told=0.25, shown=0.5))
    cues = [
        (b.words is not None, b.demonstration is not None) for b in map(loader.batch, range(400))
    ]
    share = {cue: cues.count(cue) / 400 for cue in set(cues)}
    assert share[(True, False)] == pytest.approx(0.25, abs=0.07)
    assert share[(False, True)] == pytest.approx(0.5, abs=0.07)
    assert share[(True, True)] == pytest.approx(0.2, abs=0.07)
    assert share[(False, False)] == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"told": 0.7, "shown": 0.6}, r"told 0\.7 and shown 0\.6 are more than all sequences"),
        ({"told": -0.1}, r"told is -0\.1; use 0 to 1"),
        ({"random_frames": 2.0}, r"random_frames is 2\.0; use 0 to 1"),
        ({"num_prompts": 0}, "num_prompts is 0; use at least 1"),
    ],
)
def test_shares_that_are_no_parts_of_one_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        LoaderConfig(**changes)


def test_shares_may_sum_to_one_but_for_rounding():
    loader = sequences.loader(config(told=0.9, shown=0.1 + 1e-12))
    assert all(loader.batch(k).obs.shape for k in range(4))


def test_only_successful_episodes_of_the_same_task_are_shown():
    data = sequences.trajectories()
    loader = sequences.loader(config(told=0.0, shown=1.0, random_frames=0.0))
    start = {data.obs[s].tobytes(): k for k, s in enumerate(data.start)}
    seen = set()
    for update in range(20):
        batch = loader.batch(update)
        assert batch.demonstration is not None
        for shown, obs in zip(batch.demonstration, batch.obs, strict=True):
            episode = start[shown[0, :7].tobytes()]
            row = np.flatnonzero((data.obs == obs[0, 0]).all(axis=1))[0]
            acting = episode_of(data, row)
            assert data.task_of_episode[episode] == data.task_of_episode[acting]
            seen.add(episode)
    assert seen == {0, 2, 3}


def test_where_no_success_is_known_every_episode_may_be_shown():
    failed = [sequences.episode("t/a", "go", 4, k, success=False) for k in range(2)]
    data = Trajectories.from_episodes(failed, sequences.OBS, sequences.ACTIONS)
    assert data.shows.tolist() == [True, True]
    with pytest.raises(ValueError, match="no episode to train on"):
        Trajectories.from_episodes([], sequences.OBS, sequences.ACTIONS)
