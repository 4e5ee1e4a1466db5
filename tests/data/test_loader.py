import numpy as np
import pytest

import sequences
from headstart.data.loader import LoaderConfig, Trajectories, evenly_spaced


def config(**changes: float) -> LoaderConfig:
    return LoaderConfig(num_prompts=6, num_windows=4, **changes)  # type: ignore[arg-type]


def test_episodes_are_laid_end_to_end_by_task():
    data = sequences.trajectories()
    assert data.tasks == ("t/a", "t/b")
    assert data.length.tolist() == [7, 4, 9, 5]
    assert data.start.tolist() == [0, 7, 11, 20]
    assert data.task_of_episode.tolist() == [0, 0, 0, 1]
    assert data.shows.tolist() == [True, False, True, True]
    assert np.flatnonzero(data.last_step).tolist() == [6, 10, 19, 24]


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
        episode = np.searchsorted(data.start, rows[0], side="right") - 1
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
            episode = np.searchsorted(data.start, rows, side="right") - 1
            if data.task_of_episode[episode[0]] == 0:  # the other task has just one episode
                assert episode[0] not in episode[1:]
            predicted |= set(episode[1:].tolist())
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
            acting = np.searchsorted(data.start, row, side="right") - 1
            assert data.task_of_episode[episode] == data.task_of_episode[acting]
            seen.add(episode)
    assert seen == {0, 2, 3}


def test_where_no_success_is_known_every_episode_may_be_shown():
    failed = [sequences.episode("t/a", "go", 4, k, success=False) for k in range(2)]
    data = Trajectories.from_episodes(failed, sequences.OBS, sequences.ACTIONS)
    assert data.shows.tolist() == [True, True]
    with pytest.raises(ValueError, match="no episode to train on"):
        Trajectories.from_episodes([], sequences.OBS, sequences.ACTIONS)
