"""Who has had demonstrations of a task, within its prior's data too, and imitation of that task."""

import pytest

from headstart.arms import Prior, read_arms
from headstart.report_page import price_words as words
from headstart.stages.price_report import summarise
from result_files import DATA, PRIOR, tuned, write_points, write_prior, write_result

FROM_PRIOR = {"model": "runs/first/pretrain", "data": "runs/first/data"}
SEEN = {"model": "runs/small", "seen": "suite/all", "heldout": ""}


def held_against(content, arm, access, currency="env_steps"):
    """The comparison at 80 % and its row."""
    ((comparison, against),) = [
        (c, a)
        for c in content["comparisons"]
        for a in c["against"]
        if (c["arm"], a["access"], c["currency"], c["threshold"]) == (arm, access, currency, 0.8)
    ]
    return comparison, against


def write_prior_of_all(folder, tasks):
    """A prior that has 90 % of the tasks that it was trained on, and a learner from reward."""
    for task in tasks:
        write_result(folder, "scratch", task, [(20_000, 80.0, 0.9)])
        write_result(folder, "prior_of_all", task, [(0, 0.0, 0.9)], 0, SEEN, (PRIOR,))


def write_imitation(folder, tasks, arm="imitation"):
    """80 % with three demonstrations: 300 steps and 400 core-s a task."""
    for task in tasks:
        costs = ((1, 100, 300.0, 0.5), (3, 300, 400.0, 0.9))
        points = [
            dict(demonstrations=k, env_steps=n, core_s=c, success_rate=rate, episodes=20)
            for k, n, c, rate in costs
        ]
        write_points(folder, arm, task, points)


def test_a_prior_trained_on_the_tasks_themselves_is_held_against_imitation_of_them(tmp_path):
    write_prior_of_all(tmp_path, "cdef")
    write_imitation(tmp_path, "cd")
    content = summarise(read_arms(tmp_path))
    comparison, reward = held_against(content, "prior_of_all", "reward")
    assert (len(comparison["tasks"]), reward["arm"]) == (4, "scratch")
    assert reward["not_on_all"] == ["imitation"]
    part, steps = held_against(content, "prior_of_all", "imitation")
    assert (part["tasks"], part["of"]) == (["suite/c", "suite/d"], 4)
    # 600 steps against all 10,000 before; 800 core-s against all 500.
    assert steps["full_ratio"]["value"] == pytest.approx(0.06)
    assert steps["sentence"] == (
        "Pre-training did not pay here. In simulator steps: 80 % on 2 of its 4 tasks, which"
        " imitation was run on too, for 0 to adapt and all 10k spent before, against 600"
        " (imitation). Break-even: task 34 [34, 34], more than the 4 that it was trained on."
    )
    _, core_s = held_against(content, "prior_of_all", "imitation", "core_s")
    assert core_s["full_ratio"]["value"] == pytest.approx(1.6)
    assert core_s["sentence"] == (
        "Pre-training paid here. In core time: 80 % on 2 of its 4 tasks, which imitation was run"
        " on too, for 0 s to adapt and all 8 min spent before, against 13 min (imitation)."
        " Break-even: task 2 [2, 2]."
    )


def test_a_headline_on_tasks_that_the_prior_was_trained_on_has_imitation_beside_it(tmp_path):
    write_prior_of_all(tmp_path, "cdef")
    write_imitation(tmp_path, "cd")
    content = summarise(read_arms(tmp_path))
    assert content["headline"].startswith("For 80 % on 4 tasks, learning from scratch")
    assert content["beside"] == (
        "Against as many demonstrations as it takes (Imitation from scratch), on 2 of its 4 tasks,"
        " which imitation was run on too: 0.06\u00d7 [0.06, 0.06] counting all that came before."
        " Pre-training did not pay here."
    )
    rows = [line for line in words.format_tables(content).splitlines() if "2 of 4" in line]
    (steps, *_) = [row for row in rows if row.startswith("prior_of_all")]
    assert "imitation, as many demonstrations as it takes" in steps and "takes none more" in steps


def test_imitation_that_was_run_on_all_tasks_of_a_prior_stands_in_one_comparison(tmp_path):
    write_prior_of_all(tmp_path, "cd")
    write_imitation(tmp_path, "cd")
    content = summarise(read_arms(tmp_path))
    reward, imitation = (
        held_against(content, "prior_of_all", access)[0] for access in ("reward", "imitation")
    )
    assert reward is imitation
    assert "80 % on 2 tasks for 0 to adapt and 10k spent" in reward["against"][1]["sentence"]


def test_an_arm_on_what_its_prior_knows_is_held_against_imitation_of_that_data(tmp_path):
    root = tmp_path / "r"
    for task in "ab":
        write_result(root, "scratch", task, [(20_000, 80.0, 0.9)])
        write_result(root, "lifted", task, [(0, 0.0, 0.9)], 0, FROM_PRIOR, (PRIOR, DATA))
    write_result(root, "told", "c", [(0, 0.0, 0.9)], 0, FROM_PRIOR, (PRIOR, DATA))
    write_imitation(root, "ab", "imitation_same_data")
    prior = Prior(write_prior(tmp_path / "prior"))  # which was trained on a and b
    content = summarise(read_arms(root, prior), prior.known_already())
    comparison, against = held_against(content, "lifted", "imitation")
    assert (comparison["tasks"], comparison["knows"]) == (["suite/a", "suite/b"], 2)
    assert (against["arm"], against["marginal"]) == ("imitation_same_data", 600)
    assert against["verdict"] == "Pre-training did not pay here"
    # Of c, a new task, nobody had demonstrations.
    told = [c for c in content["comparisons"] if c["arm"] == "told" and "suite/c" in c["tasks"]]
    assert not [a for c in told for a in c["against"] if a["access"] == "imitation"]


def test_imitation_of_few_demonstrations_goes_before_that_of_all_of_the_priors_data(tmp_path):
    write_prior_of_all(tmp_path, "cdef")
    write_imitation(tmp_path, "c")
    write_imitation(tmp_path, "cde", "imitation_same_data")
    part, against = held_against(summarise(read_arms(tmp_path)), "prior_of_all", "imitation")
    assert (part["tasks"], against["arm"]) == (["suite/c"], "imitation")


def test_a_model_tuned_on_demonstrations_is_not_held_against_reward_alone(tmp_path):
    for task in "cd":
        write_result(tmp_path, "scratch", task, [(20_000, 80.0, 0.9)])
        write_result(tmp_path, "tuned", task, [(0, 0.0, 0.9)], 0, FROM_PRIOR, (tuned(task), DATA))
    write_imitation(tmp_path, "cd")
    content = summarise(read_arms(tmp_path))
    comparison, against = held_against(content, "tuned", "imitation")
    assert (comparison["marginal"], against["marginal"]) == (200, 600)  # one demonstration each
    assert content["arms"]["tuned"]["demonstrations"] == 1
