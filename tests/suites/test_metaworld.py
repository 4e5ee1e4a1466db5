import numpy as np
import pytest

from headstart.suites import metaworld, registry


def test_splits_hold_what_they_say():
    assert len(metaworld.SPLITS["mt50"]) == 50
    assert len(set(metaworld.MT10)) == 10 and set(metaworld.MT10) <= set(metaworld.SPLITS["mt50"])
    assert len(metaworld.SPLITS["ml45-train"]) == 45
    assert not set(metaworld.SPLITS["ml45-train"]) & set(metaworld.HELD_OUT)
    assert not set(metaworld.VALIDATION) & set(metaworld.HELD_OUT)
    assert not set(metaworld.SPLITS["ml40-train"]) & set(metaworld.VALIDATION)


@pytest.mark.parametrize("name", sorted(metaworld.TASKS))
def test_every_task_resets_and_steps(name: str):
    env = registry.make(metaworld.TASKS[name], seeds=[5])
    obs = env.reset()
    assert obs.shape == (1, 21) and obs.dtype == np.float32
    there = ~np.isnan(obs[0])
    assert there[:4].all() and there[18:].all()
    result = env.step(np.zeros((1, 4), np.float32))
    assert np.array_equal(np.isnan(result.obs), np.isnan(obs))
    assert np.isfinite(result.reward).all()
    env.close()


def test_an_environment_is_set_by_its_own_seed_alone():
    task = metaworld.TASKS["push"]
    first, second = registry.make(task, [1, 7, 3]), registry.make(task, [7, 8])
    a, b = first.reset(), second.reset()
    np.testing.assert_array_equal(a[1], b[0])
    assert not np.array_equal(a[0], a[1])
    # a partial reset draws environment 1's second start, whatever the others do
    first.reset(np.array([1]))
    again_first, again_second = first.reset(np.array([1])), second.reset()
    assert not np.array_equal(again_first[0], again_second[0])


def test_rows_can_be_stepped_in_part_and_a_finished_episode_must_be_reset():
    env = registry.make(metaworld.TASKS["reach"], [1, 2], max_episode_steps=3)
    env.reset()
    action = np.full((1, 4), 0.5, np.float32)
    for _ in range(2):
        assert not env.step(action, np.array([1])).truncated[0]
    result = env.step(action, np.array([1]))
    assert (result.truncated[0], result.terminated[0]) == (True, False)
    with pytest.raises(ValueError, match=r"environments \[1\] have no running episode"):
        env.step(action, np.array([1]))
    assert env.step(action, np.array([0])).obs.shape == (1, 21)
    env.reset(np.array([1]))
    assert not env.step(action, np.array([1])).truncated[0]


def test_an_absent_object_is_missing_not_at_the_origin():
    obs = registry.make(metaworld.TASKS["door-unlock"], [0]).reset()[0]
    assert np.isnan(obs[11:18]).all() and not np.isnan(obs[4:11]).any()


def test_every_reset_of_every_task_puts_the_goal_within_reach():
    for name in ("shelf-place", "push"):
        env = registry.make(metaworld.TASKS[name], [1, 2])
        first = env.reset()
        second = env.reset(np.array([1]))
        result = env.step(np.zeros((2, 4), np.float32))  # the two are in different episodes now
        np.testing.assert_allclose(result.obs[1, 18:], second[0, 18:], atol=1e-6)
        np.testing.assert_allclose(result.obs[0, 18:], first[0, 18:], atol=1e-6)
        third = env.reset()
        for obs in (first, second, third):
            assert np.abs(obs[:, 18:] - np.array([0.0, 0.7, 0.15])).max() < 0.5
        assert not np.array_equal(third[1, 18:], second[0, 18:])


@pytest.mark.parametrize("name", ["handle-press", "pick-place"])
def test_physics_that_mujoco_gave_up_is_not_taken_for_an_observation(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file here
    env, other = (registry.make(metaworld.TASKS[name], [1, 2]) for _ in range(2))
    env.reset()
    other.reset()
    action = np.zeros((2, 4), np.float32)
    spoiled = action.copy()
    spoiled[1] = np.nan
    result, plain = env.step(spoiled), other.step(action)
    assert np.isnan(result.obs[1, 0]) and not (result.terminated | result.truncated).any()
    np.testing.assert_array_equal(result.obs[0], plain.obs[0])
    np.testing.assert_array_equal(env.reset(np.array([1])), other.reset(np.array([1])))
    np.testing.assert_array_equal(env.step(action).obs, other.step(action).obs)
