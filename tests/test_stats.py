import numpy as np
import pytest

from headstart.stats import bootstrap_mean, success_rates, wilson_interval


def test_wilson_interval_of_known_cases():
    # Half of 10, z = 1.96: (0.5 + 0.19207 ± 1.96 √(0.025 + 0.0096036)) / 1.38415.
    assert wilson_interval(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    # None of 10: the upper bound is z² / (10 + z²) = 3.84146 / 13.84146.
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-6))
    assert wilson_interval(10, 10) == (pytest.approx(0.722467, abs=1e-6), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_widens_with_confidence_and_narrows_with_tries():
    low, high = wilson_interval(50, 100)
    assert wilson_interval(50, 100, 0.99)[0] < low < wilson_interval(500, 1000)[0] < 0.5 < high


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"{successes} successes in {n} tries"):
        wilson_interval(successes, n)


def test_the_mean_is_of_task_means_whatever_their_number_of_episodes():
    groups = [[[np.array([1.0])], [np.array([0.0, 0.0, 0.0])]]]
    assert bootstrap_mean(groups)[0] == 0.5


def test_without_spread_the_interval_is_the_mean_because_tasks_are_fixed():
    groups = [[[np.ones(5)], [np.zeros(5)]]]
    assert bootstrap_mean(groups) == (0.5, 0.5, 0.5)


def test_the_interval_of_one_task_is_the_binomials():
    # Mean of 100 fair draws: deviation 0.05, so ± 1.96 x 0.05.
    values = np.repeat([0.0, 1.0], 50)
    mean, low, high = bootstrap_mean([[[values]]], num_samples=20_000)
    assert (mean, low, high) == pytest.approx((0.5, 0.402, 0.598), abs=0.011)


def test_demonstrations_are_resampled():
    # Episodes agree, the two demonstrations do not: the mean is 0, 1/2 or 1, at 1:2:1.
    assert bootstrap_mean([[[np.zeros(50), np.ones(50)]]]) == (0.5, 0.0, 1.0)


def test_runs_are_resampled_as_a_whole():
    # Ten tasks move together: a spread over runs is not averaged away by the number of tasks.
    groups = [[[np.full(5, value)]] * 10 for value in (0.0, 1.0)]
    assert bootstrap_mean(groups) == (0.5, 0.0, 1.0)


def test_the_spread_of_resampled_groups_is_that_of_their_theory():
    # 4 demonstrations of 25 fair episodes, each with mean 1/2: resampling demonstrations adds
    # no spread of its own, so the deviation is 0.5 / sqrt(100) = 0.05.
    values = np.tile([0.0, 1.0], 13)[:26]
    _, low, high = bootstrap_mean([[[values] * 4]], num_samples=20_000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(104), rel=0.05)


def test_the_same_seed_gives_the_same_interval():
    values = [[[np.array([0.0, 1.0, 1.0, 0.0, 1.0])]]]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)


@pytest.mark.parametrize("groups", [[], [[]], [[[]]], [[[np.zeros(0)]]]])
def test_nothing_to_average_is_refused(groups):
    with pytest.raises(ValueError, match="nothing to average"):
        bootstrap_mean(groups)


def test_success_rates_pool_the_rows_of_an_arm_and_put_held_out_arms_first():
    rows = [
        {"arm": "seen.told", "success": [True, True]},
        {"arm": "heldout.told", "success": [True, False]},
        {"arm": "heldout.told", "success": [False, False]},
    ]
    assert list(success_rates(rows).items()) == [("heldout.told", 0.25), ("seen.told", 1.0)]
