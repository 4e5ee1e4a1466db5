import numpy as np
import pytest

from headstart.task_sets import (
    Priced,
    TaskSet,
    break_even,
    draw,
    draw_upstream,
    is_known,
    ratio,
)

# Means over the two tasks: 0.35 with a budget of 10 a task, 0.75 with 20, 0.8 with 40.
TWO = {
    "a": [[(10.0, 0.2), (20.0, 1.0)]],
    "b": [[(10.0, 0.5), (40.0, 0.6)]],
}
AS_MEASURED = np.array([[0.5, 0.5]])


def constant(price, censored=False, samples=101):
    return Priced(np.full(samples, float(price)), np.full(samples, censored), float(price))


def test_a_set_of_tasks_by_hand():
    priced = TaskSet(TWO).price(AS_MEASURED, 0.8)
    assert priced.budget == 40.0
    assert priced.price.tolist() == [20.0 + 40.0]  # the first run stopped at 20
    assert not priced.censored.any()
    assert TaskSet(TWO).price(AS_MEASURED, 0.7).price.tolist() == [20.0 + 20.0]


def test_a_mean_success_never_reached_is_a_lower_bound_of_all_that_was_spent():
    priced = TaskSet(TWO).price(AS_MEASURED, 0.9)
    assert (priced.price.tolist(), priced.censored.tolist()) == ([60.0], [True])
    assert priced.budget == np.inf
    assert priced.most.tolist() == [np.inf]


def test_the_best_success_counts_and_a_later_fall_does_not_undo_it():
    falls = TaskSet({"a": [[(10.0, 0.9), (20.0, 0.1)]]})
    priced = falls.price(np.array([[1.0]]), 0.8)
    assert (priced.price.tolist(), priced.budget) == ([10.0], 10.0)


def test_mean_success_within_a_budget_by_hand():
    got = TaskSet(TWO).mean_within(AS_MEASURED, np.array([0.0, 10.0, 19.0, 20.0, 40.0, 1e9]))
    assert got.tolist() == [pytest.approx([0.0, 0.35, 0.35, 0.75, 0.8, 0.8])]


def test_seeds_of_a_task_share_its_weight():
    arm = TaskSet({"a": [[(10.0, 1.0)], [(30.0, 1.0)], [(50.0, 0.0)]], "b": [[(10.0, 1.0)]]})
    (weights,) = draw([arm], num_samples=3)
    assert weights[0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    priced = arm.price(weights[:1], 0.8)
    # With 30: 1/2 (2/3 + 1) = 0.83. The first task's runs cost 10, 30 and 30, the second's 10.
    assert priced.budget == 30.0
    assert priced.price[0] == pytest.approx((10 + 30 + 30) / 3 + 10)


def test_samples_draw_the_same_tasks_for_all_arms_and_seeds_within_them():
    curves = {name: [[(1.0, 1.0)]] * 2 for name in "abc"}
    one = TaskSet(curves)
    other = TaskSet({name: seeds[:1] for name, seeds in curves.items()})
    first, second = draw([one, other], num_samples=50)
    assert first.sum(axis=1) == pytest.approx(1.0)
    by_task = first.reshape(51, 3, 2).sum(axis=2)
    assert by_task == pytest.approx(second)
    assert len(np.unique(by_task[1:], axis=0)) > 5


def test_a_prior_is_drawn_once_for_all_tasks_and_for_what_it_cost():
    """Of three priors one has everything for 1000 a task, the others for 10."""
    priors = {str(i): [[(cost, 1.0)] for cost in (1000.0, 10.0, 10.0)] for i in range(50)}
    arm, other = TaskSet(priors, one_prior=True), TaskSet(priors)
    pairs = zip((arm, other), draw([arm, other]), strict=True)
    priced, of_runs = (of.price(w, 0.8) for of, w in pairs)
    assert priced.price[0] == of_runs.price[0] == pytest.approx(50 * 340)
    assert priced.estimate().interval == pytest.approx([50 * 10, 50 * 1000])
    before = draw_upstream([1000.0, 10.0, 10.0])
    np.testing.assert_allclose(priced.price, 50 * before)
    low, high = of_runs.estimate().interval  # of 150 draws the mean is sure
    assert 50 * 200 < low < high < 50 * 500


def test_a_sample_is_priced_as_if_it_had_been_the_experiment():
    arm = TaskSet(TWO)
    # The first task drawn twice, and the second one twice.
    priced = arm.price(np.array([[1.0, 0.0], [0.0, 1.0]]), 0.8)
    assert priced.price.tolist() == [40.0, 80.0]
    assert priced.censored.tolist() == [False, True]


def test_a_price_has_an_interval_that_is_open_where_it_was_not_reached():
    price = Priced(np.array([5.0, 4.0, 6.0]), np.array([False, False, True]), 5.0)
    got = price.estimate()
    assert (got.value, got.bound, got.interval) == (5.0, "", [4.0, np.inf])
    assert constant(5, censored=True).estimate(resampled=False).bound == ">="


def test_a_ratio_by_hand():
    got = ratio(constant(600), constant(20))
    assert (got.value, got.bound, got.interval) == (30.0, "", [30.0, 30.0])
    assert ratio(constant(600), constant(20), resampled=False).interval == [None, None]


def test_a_ratio_against_a_price_never_reached_is_a_bound():
    at_least = ratio(constant(600, censored=True), constant(20))
    assert (at_least.value, at_least.bound, at_least.interval) == (30.0, ">=", [30.0, np.inf])
    at_most = ratio(constant(600), constant(20, censored=True))
    assert (at_most.value, at_most.bound, at_most.interval) == (30.0, "<=", [0.0, 30.0])
    assert ratio(constant(600, censored=True), constant(20, censored=True)).bound == "?"


def test_what_is_free_is_infinitely_cheaper_unless_both_are():
    assert ratio(constant(600), constant(0)).value == np.inf
    assert ratio(constant(0), constant(0)).value == 1.0


def test_factors_multiply_to_the_whole():
    reward, demonstrations, pretrained = constant(600), constant(60), constant(20)
    bought = ratio(reward, demonstrations).value, ratio(demonstrations, pretrained).value
    assert bought == (10.0, 3.0)
    assert ratio(reward, pretrained).value == bought[0] * bought[1]


def test_break_even_by_hand():
    # 1000 / ((600 - 100) / 50) = 100
    got = break_even(draw_upstream([1000.0], 100), constant(600), constant(100), num_tasks=50)
    assert (got.value, got.bound, got.interval) == (100.0, "", [100.0, 100.0])


def test_break_even_where_pretraining_never_pays():
    got = break_even(draw_upstream([1000.0], 100), constant(100), constant(600), num_tasks=50)
    assert (got.value, got.interval) == (np.inf, [np.inf, np.inf])


def test_break_even_against_a_price_never_reached_is_an_upper_bound():
    scratch = constant(600, censored=True)
    got = break_even(draw_upstream([1000.0], 100), scratch, constant(100), num_tasks=50)
    assert (got.value, got.bound) == (100.0, "<=")
    low, high = got.interval
    assert low == pytest.approx(0.0)
    assert high == 100.0


def test_upstream_is_resampled_over_its_seeds():
    drawn = draw_upstream([100.0, 300.0], 400)
    assert drawn[0] == 200.0
    assert set(drawn) == {100.0, 200.0, 300.0}
    full = constant(50, samples=401).plus(drawn)
    assert full.price[0] == 250.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Ratio of two arms of 30 tasks whose prices are drawn at random; the truth is 4."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(60):
        hardness = rng.lognormal(0, 0.5, size=30)
        curves = [
            {str(i): [[(h * mean * rng.lognormal(0, 0.3), 1.0)]] for i, h in enumerate(hardness)}
            for mean in (400.0, 100.0)
        ]
        arms = [TaskSet(c) for c in curves]
        weights = draw(arms, num_samples=300, seed=trial)
        dear, cheap = (a.price(w, 1.0) for a, w in zip(arms, weights, strict=True))
        low, high = ratio(dear, cheap).interval
        held += low <= 4.0 <= high
    assert held >= 50  # of 60; nominally 57


def test_an_unknown_cost_is_found_before_it_is_priced():
    assert is_known(TWO)
    assert not is_known({"a": [[(None, 0.5)]]})
