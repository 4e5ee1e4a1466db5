import math

import pytest

from headstart.prices import (
    amortised,
    break_even_interval,
    break_even_tasks,
    full,
    median_price,
    price_per_point,
    price_row,
    price_to_threshold,
    reached_by,
    restricted_mean,
)

CURVE = [(0.0, 0.0), (100.0, 0.4), (200.0, 0.8), (300.0, 0.6)]


def test_the_price_is_at_the_first_measurement_that_reaches_the_threshold():
    assert price_to_threshold(CURVE, 0.5) == (200.0, False)  # not 125, which interpolation gives
    assert price_to_threshold(CURVE, 0.8) == (200.0, False)
    assert price_to_threshold(CURVE, 0.0) == (0.0, False)


def test_a_mean_of_rates_reaches_a_threshold_that_rounding_makes_it_miss():
    assert price_to_threshold([(5, 0.7999999999999999)], 0.8) == (5, False)


def test_a_threshold_never_reached_is_censored_at_the_last_cost():
    assert price_to_threshold(CURVE, 0.9) == (300.0, True)
    with pytest.raises(ValueError, match="empty curve"):
        price_to_threshold([], 0.5)


def test_price_arithmetic_by_hand():
    assert price_per_point(100.0, 80.0) == 1.25
    assert price_per_point(100.0, 0.0) == math.inf
    assert full(1000.0, 10.0) == 1010.0
    assert amortised(1000.0, 10.0, 50) == 30.0
    assert break_even_tasks(1000.0, 60.0, 10.0) == 20.0  # 20 x 60 = 1000 + 20 x 10
    assert break_even_tasks(1000.0, 10.0, 10.0) == math.inf
    assert break_even_tasks(1000.0, 5.0, 10.0) == math.inf


def test_an_unknown_price_stays_unknown():
    assert price_per_point(None, 80.0) is None
    assert full(None, 10.0) is None
    assert amortised(None, 10.0, 50) is None
    assert break_even_tasks(None, 60.0, 10.0) is None
    assert break_even_tasks(1000.0, 60.0, None) is None


def test_a_price_row_by_hand():
    curves = [[(100.0, 1.0)], [(200.0, 1.0)], [(300.0, 0.2)]]
    row = price_row(
        "finetune", "suite/reach", "env_steps", 0.5, curves, [4000.0, 5000.0, 6000.0], 50
    )
    low, high = row.pop("interval")
    full_low, full_high = row.pop("full_interval")
    shared_low, shared_high = row.pop("amortised_interval")
    assert row == {
        "arm": "finetune",
        "task": "suite/reach",
        "currency": "env_steps",
        "threshold": 0.5,
        "marginal": 200.0,
        "marginals": [100.0, 200.0, 300.0],
        "per_point": 4.0,
        "full": 5200.0,
        "amortised": 300.0,
        "num_tasks": 50,
        "seeds": 3,
        "censored": 1,
    }
    assert 100.0 <= low < 200.0 < high <= 300.0
    assert 4100.0 <= full_low < 5200.0 < full_high <= 6300.0
    assert 180.0 <= shared_low < 300.0 < shared_high <= 420.0


def test_the_break_even_interval_resamples_seeds_with_their_own_prices():
    # N* of the seeds: 100 / (30 - 10) = 5 and 300 / (30 - 10) = 15.
    assert break_even_interval([100.0, 300.0], [30.0, 30.0], [10.0, 10.0]) == [5.0, 15.0]
    # One of the seeds does not pay, and a sample may hold it alone.
    assert break_even_interval([100.0, 100.0], [30.0, 5.0], [10.0, 10.0]) == [5.0, math.inf]
    assert break_even_interval([100.0], [30.0], [10.0]) == [None, None]
    assert break_even_interval([None, 100.0], [30.0, 30.0], [10.0, 10.0]) == [None, None]


def test_a_price_row_of_one_seed_has_no_interval():
    row = price_row("scratch", "suite/reach", "env_steps", 0.5, [CURVE], [0.0], 1)
    assert row["marginal"] == row["full"] == row["amortised"] == 200.0
    assert row["interval"] == [None, None]


def test_a_price_row_with_an_unknown_cost_has_no_price():
    curves = [[(None, 1.0)], [(200.0, 1.0)]]
    row = price_row("scratch", "suite/reach", "core_s", 0.5, curves, [5.0, 5.0], 1)
    assert (row["marginal"], row["full"], row["amortised"]) == (None, None, None)
    assert row["interval"] == [None, None]


# Five runs: three reached it, one was stopped at 20 and one at 40 without.
FIVE = [(10.0, False), (20.0, False), (20.0, True), (30.0, False), (40.0, True)]


def test_runs_that_stopped_early_count_for_as_long_as_they_ran():
    # 4/5 are left after 10; then 3/4 of them after 20; two run on, so 1/2 of them after 30.
    assert reached_by(FIVE) == [
        (10.0, pytest.approx(0.2)),
        (20.0, pytest.approx(0.4)),
        (30.0, pytest.approx(0.7)),
    ]
    assert median_price(FIVE) == (30.0, False)
    # 10 x 1 + 10 x 0.8 + 10 x 0.6 + 10 x 0.3
    assert restricted_mean(FIVE, 40.0) == pytest.approx(27.0)
    assert restricted_mean(FIVE, 15.0) == pytest.approx(10 + 5 * 0.8)


def test_without_censoring_the_estimate_is_the_share_itself():
    prices = [(30.0, False), (10.0, False), (20.0, False), (20.0, False)]
    assert reached_by(prices) == [
        (10.0, pytest.approx(0.25)),
        (20.0, pytest.approx(0.75)),
        (30.0, pytest.approx(1.0)),
    ]
    assert restricted_mean(prices, 30.0) == pytest.approx(20.0)  # their mean


def test_where_no_run_reached_it_all_are_lower_bounds():
    prices = [(30.0, True), (10.0, True)]
    assert reached_by(prices) == []
    assert median_price(prices) == (30.0, True)
    assert restricted_mean(prices, 30.0) == 30.0


def test_skill_that_is_there_from_the_start_is_free():
    assert reached_by([(0.0, False), (0.0, False)]) == [(0.0, 1.0)]
    assert median_price([(0.0, False), (0.0, False)]) == (0.0, False)
    assert restricted_mean([(0.0, False), (0.0, False)], 30.0) == 0.0
