import json
import math
import re
from dataclasses import replace

import pytest

from headstart import cli
from headstart.arms import Prior, read_arms, write_arm
from headstart.artifact import read_json, write_json
from headstart.ledger import Bill, Cost
from headstart.report_page import price_words as words
from headstart.stages.price_report import PriceReportConfig, price_report, summarise
from result_files import DATA, GIVEN, PRIOR, tuned, write_points, write_prior, write_result

FROM_PRIOR = {"model": "runs/first/pretrain", "data": "runs/first/data"}
WITH_DEMONSTRATION = FROM_PRIOR | {"demonstrations": "runs/first/demonstrations", "count": 1}


@pytest.fixture
def folder(tmp_path):
    """From scratch 20,000 steps a task, rlpd 2,000, a prior 100 and what stands behind it."""
    root = tmp_path / "results"
    for task in ("c", "d"):
        for seed in (0, 1):
            scratch = [(10_000, 40.0, 0.2), (20_000, 80.0, 0.9)]
            write_result(root, "scratch", task, scratch, seed, ancestors=())
            told = [(0, 0.0, 0.3), (1_000, 10.0, 0.9)]
            write_result(root, "told", task, told, seed, FROM_PRIOR, (PRIOR, DATA))
        config, demonstration = {"demonstrations": "x"}, (tuned(task), DATA, GIVEN)
        write_result(root, "rlpd_1", task, [(1_900, 9.5, 0.9)], 0, config, (GIVEN,))
        write_result(root, "demos_1", task, [(0, 0.0, 0.9)], 0, WITH_DEMONSTRATION, demonstration)
    return root


def compared(content, arm, access, currency="env_steps", threshold=0.8):
    ((comparison, against),) = [
        (c, a)
        for c in content["comparisons"]
        for a in c["against"]
        if (c["arm"], a["access"], c["currency"], c["threshold"])
        == (arm, access, currency, threshold)
    ]
    return comparison, against


def test_ratios_are_factored_into_demonstrations_and_pretraining(folder):
    content = summarise(read_arms(folder))
    comparison, reward = compared(content, "demos_1", "reward")
    _, given = compared(content, "demos_1", "demonstrations")
    # Two tasks: 40,000 from scratch, 4,000 with a demonstration, 200 from the prior.
    assert (reward["arm"], given["arm"]) == ("scratch", "rlpd_1")
    assert (reward["marginal"], given["marginal"], comparison["marginal"]) == (40_000, 4_000, 200)
    assert reward["ratio"]["value"] == 200
    assert given["ratio"]["value"] == 20  # what pre-training bought
    assert comparison["demonstrations_factor"]["value"] == 10


def test_the_full_ratio_charges_the_whole_upstream_bill(folder):
    content = summarise(read_arms(folder))
    _, against = compared(content, "demos_1", "reward")
    assert against["full_ratio"]["value"] == pytest.approx(40_000 / (10_000 + 200))
    _, in_core = compared(content, "demos_1", "reward", "core_s")
    # From scratch 160 core-s; pre-training 500, fine-tuning and demonstration 8.5 a task.
    assert in_core["full_ratio"]["value"] == pytest.approx(160 / (500 + 17))


def test_break_even_and_the_sentence_say_from_which_task_on(folder):
    _, against = compared(summarise(read_arms(folder)), "demos_1", "reward")
    assert against["break_even"]["value"] == pytest.approx(10_000 / (20_000 - 100))
    assert against["sentence"] == (
        "Pre-training paid here. In simulator steps: 80 % on 2 tasks for 200 to adapt and 10k spent"
        " before, against 40k (scratch). Break-even: task 1 [1, 1]."
    )


def test_where_pretraining_did_not_pay_it_says_so(folder):
    content = summarise(read_arms(folder))
    _, against = compared(content, "demos_1", "demonstrations")
    # 4,000 steps against 10,200; each further task saves 1,900.
    assert against["verdict"] == "Pre-training did not pay here"
    assert against["break_even"]["value"] == pytest.approx(10_000 / 1_900)
    assert "Break-even: task 6 [6, 6]." in against["sentence"]
    assert against["sentence"] in words.format_tables(content)
    # Nor does the headline tell of the rival with reward only alone.
    assert content["beside"] == (
        "Against the same demonstrations (From scratch, off-policy, demonstrations in its buffer,"
        " 1 demonstration): 20\u00d7 [20, 20], and 0.39\u00d7 [0.39, 0.39]"
        " counting all that came before. Pre-training did not pay here."
    )


def test_an_adaptation_dearer_than_scratch_never_pays(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(500, 5.0, 0.9)])
        write_result(tmp_path, "told", task, [(900, 9.0, 0.9)], 0, FROM_PRIOR, (PRIOR, DATA))
    content = summarise(read_arms(tmp_path))
    _, against = compared(content, "told", "reward")
    assert against["ratio"]["value"] == pytest.approx(5 / 9)
    assert math.isinf(against["break_even"]["value"])
    assert against["sentence"].startswith("Pre-training did not pay here.")
    assert against["sentence"].endswith("Break-even: never.")
    assert "Pre-training did not pay here" in content["headline"]


def test_scratch_that_never_got_there_is_a_lower_bound(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(50_000, 500.0, 0.1)])
        write_result(tmp_path, "told", task, [(1_000, 9.0, 0.9)], 0, FROM_PRIOR, (PRIOR, DATA))
    content = summarise(read_arms(tmp_path))
    _, against = compared(content, "told", "reward")
    assert (against["ratio"]["value"], against["ratio"]["bound"]) == (50.0, ">=")
    assert against["break_even"]["bound"] == "<="
    assert "against >= 100k (scratch)" in against["sentence"]
    assert ">= 50\u00d7" in words.format_tables(content)


def test_a_prior_that_never_got_there_did_not_pay(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(50_000, 500.0, 0.9)])
        write_result(tmp_path, "told", task, [(1_000, 9.0, 0.1)], 0, FROM_PRIOR, (PRIOR, DATA))
    _, against = compared(summarise(read_arms(tmp_path)), "told", "reward")
    assert against["verdict"] == "Pre-training did not pay here: it never got there"


def test_where_neither_got_there_the_headline_says_so(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(50_000, 500.0, 0.1)])
        write_result(tmp_path, "told", task, [(1_000, 9.0, 0.1)], 0, FROM_PRIOR, (PRIOR, DATA))
    assert summarise(read_arms(tmp_path))["headline"] == (
        "For 80 % on 2 tasks, neither learning from scratch (From scratch, PPO) nor a prior"
        " (Prior, told, learns from reward) got there."
    )


def test_an_unknown_upstream_is_seen_in_every_number_that_holds_it(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(50_000, 500.0, 0.9)])
        write_result(tmp_path, "told", task, [(1_000, 9.0, 0.9)], config=FROM_PRIOR)
    content = summarise(read_arms(tmp_path))
    _, against = compared(content, "told", "reward")
    assert against["ratio"]["value"] == 50.0
    assert (against["full_ratio"], against["break_even"]) == (None, None)
    assert against["verdict"].startswith("Not known whether pre-training paid")
    (price,) = [
        p
        for p in content["sets"][0]["prices"]
        if (p["arm"], p["currency"], p["threshold"]) == ("told", "env_steps", 0.8)
    ]
    assert (price["marginal"], price["full"]) == (2_000.0, None)


def test_an_arm_of_unknown_price_in_one_currency_is_named_there(tmp_path):
    for core_s, env_steps, arm in ((5.0, None, "scratch"), (None, 7, "off_policy")):
        point = {"env_steps": env_steps, "core_s": core_s, "success_rate": 0.9, "episodes": 50}
        write_points(tmp_path, arm, "a", [point])
    write_result(tmp_path, "told", "a", [(9, 9.0, 0.9)], 0, FROM_PRIOR)
    content = summarise(read_arms(tmp_path))
    unknown = content["sets"][0]["unknown"]
    assert unknown == {"env_steps": ["scratch"], "core_s": ["off_policy"]}
    lines = words.format_tables(content).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("80 % mean")) :]
    rows = {line.split()[0]: line.split()[1:] for line in table[1:4]}
    assert rows["scratch"] == ["1", "of", "1", "unknown", "unknown", "unknown", "5", "s", "5", "s"]
    assert rows["off_policy"] == ["1", "of", "1", "7", "7", "unknown", "unknown", "unknown"]


def test_the_rival_is_the_cheapest_that_was_run_on_all_the_tasks(folder):
    for task in ("c", "d"):
        write_result(folder, "off_policy", task, [(5_000, 300.0, 0.9)])
    write_result(folder, "sb3_sac", "c", [(10, 0.1, 0.9)])
    content = summarise(read_arms(folder))
    _, steps = compared(content, "told", "reward")
    _, core_s = compared(content, "told", "reward", "core_s")
    assert (steps["arm"], core_s["arm"]) == ("off_policy", "scratch")
    assert steps["not_on_all"] == ["sb3_sac"]


def test_rivals_that_could_not_be_compared_are_named(folder):
    curves = {f"suite/{task}": {"1": [[10, 0.9]]} for task in ("c", "d")}
    write_json(folder / "published/tdmpc2.json", {"episodes": 10, "curves": curves})
    (folder / "rlpd_1/d-0.json").unlink()
    content = summarise(read_arms(folder))
    _, steps = compared(content, "told", "reward")
    _, core_s = compared(content, "told", "reward", "core_s")
    assert (steps["arm"], steps["unknown"]) == ("published_tdmpc2", [])
    assert (core_s["arm"], core_s["unknown"]) == ("scratch", ["published_tdmpc2"])
    assert core_s["sentence"].endswith(" Of unknown price: published_tdmpc2.")
    _, shown = compared(content, "demos_1", "reward")
    assert shown["sentence"].endswith(" Not run on all of these tasks: rlpd_1.")


def test_a_rival_with_more_reward_stands_in_and_is_marked(tmp_path):
    for task in ("c", "d"):
        write_result(tmp_path, "scratch", task, [(5_000, 5.0, 0.9)])
        write_result(tmp_path, "told_success", task, [(900, 9.0, 0.9)], 0, FROM_PRIOR, (PRIOR,))
    _, against = compared(summarise(read_arms(tmp_path)), "told_success", "reward")
    assert (against["arm"], against["same_reward"]) == ("scratch", False)
    for task in ("c", "d"):
        write_result(tmp_path, "scratch_success", task, [(9_000, 9.0, 0.9)])
    _, against = compared(summarise(read_arms(tmp_path)), "told_success", "reward")
    assert (against["arm"], against["same_reward"]) == ("scratch_success", True)


def test_tasks_that_a_prior_knows_already_cost_nothing_more(folder, tmp_path):
    for task in ("a", "b"):
        write_result(folder, "scratch", task, [(20_000, 80.0, 0.9)])
    prior = Prior(write_prior(tmp_path / "prior"))
    content = summarise(read_arms(folder, prior), prior.known_already())
    found = {
        (len(c["tasks"]), c["known_already"]): c["marginal"]
        for c in content["comparisons"]
        if (c["arm"], c["currency"], c["threshold"]) == ("told", "env_steps", 0.8)
    }
    # Told: c and d for 1,000 each. With a at 100 % and b at 90 % and c and d as they are at 30 %
    # the mean is 62.5 %, so that all four need that budget, which costs nothing on a and b.
    assert found == {(2, 0): 2_000.0, (4, 2): 2_000.0}
    assert [len(s["tasks"]) for s in content["sets"]] == [2, 4]


def test_a_task_that_the_prior_knows_is_not_among_the_new_ones_where_it_was_measured_too(
    folder, tmp_path
):
    write_result(folder, "lifted", "a", [(0, 0.0, 0.3), (500, 5.0, 0.9)], 0, FROM_PRIOR)
    prior = Prior(write_prior(tmp_path / "prior"))
    content = summarise(read_arms(folder, prior), prior.known_already())
    assert content["sets"][0]["tasks"] == ["suite/c", "suite/d"]


def test_a_prior_that_takes_nothing_more_is_not_told_as_infinitely_cheaper(tmp_path):
    for seed in (0, 1):
        write_result(tmp_path, "scratch", "a", [(20_000, 80.0, 0.9)], seed, ancestors=())
        write_result(tmp_path, "told", "a", [(0, 0.0, 0.9)], seed, FROM_PRIOR, (PRIOR, DATA))
    content = summarise(read_arms(tmp_path))
    assert "which takes none more. Pre-training" in content["headline"]
    tables = words.format_tables(content)
    assert "takes none more" in tables and "\u221e\u00d7" not in tables
    shown = content["headline"] + "".join(tile["value"] for tile in content["tiles"])
    assert words.INFINITE not in shown


def test_half_of_the_runs_that_got_there_are_the_median(tmp_path):
    for i, reached in enumerate((0.9, 0.9, 0.9, 0.2)):
        write_result(tmp_path, "scratch", "abcd"[i], [(1_000 * (i + 1), 1.0, reached)])
    (row,) = [
        r
        for r in summarise(read_arms(tmp_path))["arms"]["scratch"]["reached"]["env_steps"]
        if r["threshold"] == 0.8
    ]
    assert (row["runs"], row["tasks"], row["median"], row["censored"]) == (3, 3, 2_000, False)
    # 1,000 (1 + 3/4 + 2/4 + 1/4)
    assert (row["restricted_mean"], row["bound"]) == (pytest.approx(2_500), 4_000)


def test_a_success_that_misses_the_threshold_by_rounding_has_it_in_every_count(tmp_path):
    write_result(tmp_path, "scratch", "a", [(1_000, 1.0, 0.8 - 1e-16)])
    (row,) = [
        r
        for r in summarise(read_arms(tmp_path))["arms"]["scratch"]["reached"]["env_steps"]
        if r["threshold"] == 0.8
    ]
    assert (row["runs"], row["tasks"], row["censored"]) == (1, 1, False)


def test_the_curve_of_an_arm_is_its_mean_over_tasks(tmp_path):
    write_result(tmp_path, "scratch", "c", [(10, 1.0, 0.2), (30, 3.0, 1.0)])
    write_result(tmp_path, "scratch", "d", [(10, 1.0, 0.6), (20, 2.0, 0.4)])
    (curve, _) = summarise(read_arms(tmp_path))["sets"][0]["curves"]
    assert curve["budgets"] == [10, 20, 30]
    assert curve["mean"] == pytest.approx([0.4, 0.4, 0.8])
    assert curve["shares"] == [[(10, 0.5), (30, 1.0)], [(30, 1.0)], [(30, 1.0)]]  # 50, 80, 90 %
    assert all(low <= mean for low, mean in zip(curve["low"], curve["mean"], strict=True))


def test_any_part_of_the_results_is_reported_and_the_rest_is_missing(tmp_path):
    write_result(tmp_path, "scratch", "c", [(10, 1.0, 0.2)])
    content = summarise(read_arms(tmp_path))
    assert "told" in content["missing"] and "scratch" not in content["missing"]
    assert content["headline"].startswith("Nothing has been learned both from scratch and by")
    text = words.format_tables(content)
    assert "not run yet: off_policy" in text
    assert ">= 10" in text


def test_a_peers_arm_is_marked(folder):
    write_result(folder, "sb3_ppo", "c", [(10_000, 40.0, 0.9)])
    assert "another library" in words.format_tables(summarise(read_arms(folder)))


def test_imitation_is_priced_over_demonstrations(folder):
    points = [
        {"demonstrations": k, "env_steps": 100 * k, "core_s": 30.0, "success_rate": s}
        | {"episodes": 50}
        for k, s in ((1, 0.85), (50, 0.95))
    ]
    for task in ("c", "d"):
        write_points(folder, "imitation", task, points)
    content = summarise(read_arms(folder))
    _, against = compared(content, "demos_1", "demonstrations")
    assert (against["arm"], against["marginal"]) == ("imitation_1", 200)
    assert against["ratio"]["value"] == 1.0


def test_the_command_writes_a_report_of_results_and_not_of_a_run(folder, capsys):
    assert cli.main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    content = read_json(folder / "report.json")
    assert content["headline"] in printed
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#)', page)
    assert set(re.findall(r"https?://[^\s\"'`)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert cli.main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_a_rate_tells_money(folder, capsys):
    # 160 core-s from scratch at 36 an hour: 1.6; 500 + 17 by the prior: 5.2.
    assert cli.main(["report", str(folder), "--rate", "cpu=36/h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("80 % mean")) :]
    (scratch,) = [line for line in table[:5] if line.startswith("scratch")]
    (demos,) = [line for line in table[:5] if line.startswith("demos_1")]
    assert scratch.split()[-2:] == ["1.6", "1.6"]
    assert demos.split()[-2:] == ["0.17", "5.2"]


@pytest.mark.parametrize("rate", ["cpu=4", "cpu", "0.04/h", "cpu=x/h", "gpu=2/h"])
def test_a_rate_that_is_none_is_refused_in_one_line(folder, rate, capsys):
    assert cli.main(["report", str(folder), "--rate", rate]) == 2
    assert f"--rate {rate}: " in capsys.readouterr().err


def test_a_single_run_has_no_interval_and_the_verdict_says_so(tmp_path):
    write_result(tmp_path, "scratch", "c", [(50_000, 500.0, 0.9)])
    write_result(tmp_path, "told", "c", [(1_000, 9.0, 0.9)], 0, FROM_PRIOR, (PRIOR, DATA))
    content = summarise(read_arms(tmp_path))
    _, against = compared(content, "told", "reward")
    assert against["ratio"]["interval"] == [None, None]
    assert against["verdict"] == "Pre-training paid here, by a single run"
    assert "50\u00d7" in words.format_tables(content)


def test_a_priors_seeds_are_charged_their_mean_upstream(tmp_path):
    for seed, before in ((0, 1_000), (1, 3_000)):
        data = Bill(f"d{seed}", "collect", "data", Cost({"expert": before}, core_s=1.0))
        prior = Bill(f"p{seed}", "pretrain", "pretrain", Cost(core_s=1.0), (data,))
        for task in ("c", "d"):
            curve = [(100, 9.0, 0.9)]
            write_result(tmp_path, "told", task, curve, seed, FROM_PRIOR, (prior, data))
            write_result(tmp_path, "scratch", task, [(5_000, 50.0, 0.9)], seed)
    comparison, against = compared(summarise(read_arms(tmp_path)), "told", "reward")
    assert comparison["upstream"] == 2_000
    low, high = against["full_ratio"]["interval"]
    assert against["full_ratio"]["value"] == pytest.approx(10_000 / 2_200)
    assert (low, high) == (pytest.approx(10_000 / 3_200), pytest.approx(10_000 / 1_200))


def test_a_prior_of_another_task_is_not_charged_to_a_comparison(folder):
    dearer = replace(PRIOR, identity="p7", cost=Cost({"policy": 50_000}))
    write_result(folder, "told", "e", [(0, 0.0, 0.9)], 7, FROM_PRIOR, (dearer,))
    comparison, against = compared(summarise(read_arms(folder)), "told", "reward")
    assert len(comparison["tasks"]) == 2
    assert comparison["upstream"] == 10_000
    assert against["full_ratio"]["value"] == pytest.approx(40_000 / 12_000)


def test_a_prior_without_a_report_is_refused_in_one_line(folder, tmp_path, capsys):
    assert cli.main(["report", str(folder), "--prior", str(tmp_path)]) == 2
    assert "no report.json; make it with: headstart report" in capsys.readouterr().err


def test_a_report_is_the_same_twice(folder, tmp_path):
    first = price_report(PriceReportConfig(folder=folder, out=tmp_path / "a"))
    second = price_report(PriceReportConfig(folder=folder, out=tmp_path / "b"))
    assert first == second


def test_hostile_names_cannot_break_the_page(tmp_path):
    path = write_result(tmp_path, "scratch", "c", [(1, 1.0, 1.0)])
    content = read_json(path)
    content["result"]["task"] = "</script><script>alert(1)</script>/c"
    write_arm(path, content)
    price_report(PriceReportConfig(folder=tmp_path))
    assert (tmp_path / "report.html").read_text().count("</script>") == 3


def test_who_has_demonstrations_is_held_against_imitation_with_any_number(folder):
    for task in ("c", "d"):
        costs = ((1, 100, 30.0, 0.5), (3, 300, 20.0, 0.9))
        points = [
            dict(demonstrations=k, env_steps=n, core_s=c, success_rate=rate, episodes=20)
            for k, n, c, rate in costs
        ]
        write_points(folder, "imitation", task, points)
    content = summarise(read_arms(folder))
    _, given = compared(content, "demos_1", "demonstrations")
    _, any_number = compared(content, "demos_1", "imitation")
    assert given["arm"] == "rlpd_1"  # one demonstration is not enough to imitate
    assert (any_number["arm"], any_number["marginal"]) == ("imitation", 600)
    assert any_number["ratio"]["value"] == 3  # 200 steps from the prior
    assert any_number["break_even"]["value"] == pytest.approx(10_000 / (300 - 100))
    assert not [c for c in content["comparisons"] if c["arm"] == "told" and len(c["against"]) > 1]


def test_an_arm_is_not_compared_where_what_its_prior_knows_is_enough(folder, tmp_path):
    for task in ("a", "b"):
        write_result(folder, "scratch", task, [(20_000, 80.0, 0.9)])
    prior = Prior(write_prior(tmp_path / "prior"))
    content = summarise(read_arms(folder, prior), prior.known_already())
    told = [
        (c["threshold"], c["known_already"])
        for c in content["comparisons"]
        if (c["arm"], c["currency"]) == ("told", "env_steps")
    ]
    # a at 100 %, b at 90 %, c and d at 30 % are 62.5 % together before told has learned anything.
    assert told == [(0.5, 0), (0.8, 0), (0.9, 0), (0.8, 2), (0.9, 2)]


@pytest.mark.parametrize(
    ("value", "bound", "interval", "shown"),
    [
        (158.1, ">=", (125.9, math.inf), ">= 150\u00d7 [120, \u221e]"),
        (158.1, "<=", (0.0, 161.0), "<= 160\u00d7 [0, 170]"),
        (99.7, "", (99.4, 150.2), "100\u00d7 [99, 150]"),
        (0.57, ">=", (None, None), ">= 0.57\u00d7"),
        (4_544.0, "", (1.25, 5_551.0), "4,500\u00d7 [1.2, 5,600]"),
    ],
)
def test_a_bound_stays_one_when_it_is_rounded(value, bound, interval, shown):
    assert words.times({"value": value, "bound": bound, "interval": interval}) == shown
