import json
import math
import re

import numpy as np
import pytest

from headstart.artifact import read_json, write_json
from headstart.ledger import Bill, Cost, write_bill, write_unfinished_bill
from headstart.page.assemble import json_for_script
from headstart.report_page import words
from headstart.report_page.page import build_page, replay_tracks
from headstart.stages.report import (
    ALL_TASKS,
    CURRENCIES,
    ReportConfig,
    Run,
    break_even,
    format_table,
    losses,
    report,
    success,
    summarise,
)
from report_run import RATES, replay, write_run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", episodes=4)


@pytest.fixture(scope="module")
def content(run_folder):
    return report(ReportConfig(runs=(run_folder,)))


def small_run(root, seed=0, rows=()):
    """A run folder with nothing but these evaluated rows."""
    write_json(root / "recipe.json", {"recipe": "tiny", "seed": seed, "command": "x"})
    write_json(root / "evaluate" / "result.json", {"protocol": {}, "rows": list(rows)})
    return root


def row(arm, outcomes, task="suite/a", seed=0, **more):
    return {"arm": arm, "task": task, "demonstration": 0, "seed": seed, "success": outcomes} | more


def test_report_holds_every_arm_that_ran(content):
    assert set(content["seen"]) == {"told", "shown_once"}
    assert {f"heldout.{name}" for name in content["heldout"]} == set(RATES)
    shown = content["heldout"]["shown_once"]
    assert shown["episodes"] == 5 * 3 * 4
    assert len(shown["tasks"]) == 5
    assert shown["interval"][0] < shown["mean"] < shown["interval"][1]


def test_report_files_hold_what_is_returned(run_folder, content):
    assert read_json(run_folder / "report.json") == json.loads(json.dumps(content))
    page = (run_folder / "report.html").read_text()
    assert content["headline"].replace(" %", "&nbsp;%") in page


def test_page_names_no_other_file_and_no_network(run_folder, content):
    page = (run_folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#)', page)
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, fetched by nobody


def test_success_weighs_tasks_equally_whatever_their_episodes():
    a, b = {(0, 0): {0: [1, 1, 1, 1, 1, 1]}}, {(0, 0): {0: [0, 0]}}
    assert success({"a": a, "b": b})["mean"] == 0.5


def test_interval_of_equal_outcomes_is_wilsons_and_has_a_width():
    got = success({"a": {(0, 0): {0: [0] * 10}}})
    # z = 1.96: z² / (n + z²) = 3.8415 / 13.8415
    assert got["interval"] == [0.0, pytest.approx(0.27754, abs=1e-5)]


def test_runs_are_pooled_by_seed(tmp_path):
    first = small_run(tmp_path / "a", 0, [row("heldout.shown_once", [1, 1])])
    second = small_run(tmp_path / "b", 1, [row("heldout.shown_once", [0, 1, 0, 0], seed=1)])
    content = summarise([Run.read(first), Run.read(second)])
    pooled = content["heldout"]["shown_once"]
    assert pooled["mean"] == pytest.approx((1.0 + 0.25) / 2)
    assert (pooled["episodes"], pooled["seeds"], content["seeds"]) == (6, 2, [0, 1])


def test_upstream_is_data_and_pretraining_each_once(content):
    assert content["upstream"]["env_steps"] == 412_000 + 618_000
    assert content["upstream"]["wall_s"] == 402.0 + 4620.0
    assert content["upstream"]["demonstrations"] == 7200


def test_bill_adds_up_stages_that_are_not_finished(tmp_path):
    write_json(tmp_path / "recipe.json", {"recipe": "tiny", "seed": 0, "command": "x"})
    for name, seconds in (("evaluate", 5.0), ("reinforce/a", 7.0), ("reinforce/b", 11.0)):
        write_unfinished_bill(tmp_path / name, name.partition("/")[0], Cost(wall_s=seconds))
    assert summarise([Run.read(tmp_path)])["wall_s"] == {"evaluate": 5.0, "reinforce": 18.0}


def test_prices_of_a_pretrained_arm_carry_the_upstream_bill(content):
    (price,) = [
        r
        for r in content["price"]
        if (r["arm"], r["task"], r["currency"], r["threshold"])
        == ("pretrained_finetune", ALL_TASKS, "env_steps", 0.5)
    ]
    assert price["marginal"] == 95
    assert price["full"] == 95 + 1_030_000
    assert price["amortised"] == 95 + 1_030_000 / 50


def test_a_scratch_arm_carries_no_upstream_bill(content):
    rows = [r for r in content["price"] if r["arm"].startswith("scratch")]
    assert rows
    assert all(r["full"] == r["marginal"] == r["amortised"] for r in rows)


def test_thresholds_never_reached_are_censored(content):
    censored = [r for r in content["price"] if r["censored"]]
    assert {"pretrained_shown_once", "scratch_imitation"} <= {r["arm"] for r in censored}
    assert "> " in format_table(content)


def test_unknown_costs_stay_unknown(tmp_path):
    cost = Cost({"expert": 90}, demonstrations=1, core_s=None).to_json()
    run = small_run(tmp_path, rows=[row("heldout.shown_once", [1, 1], cost=cost)])
    content = summarise([Run.read(run)])
    prices = {r["currency"]: r for r in content["price"] if r["threshold"] == 0.5}
    assert prices["env_steps"]["marginal"] == 90
    assert prices["core_s"]["marginal"] is None
    # The run has neither data nor pre-training with a bill.
    assert prices["env_steps"]["full"] is None
    assert "unknown" in format_table(content)


def test_energy_is_told_where_it_is_known_and_left_out_where_it_is_not(tmp_path):
    cost = Cost({"expert": 90}, demonstrations=1, energy_j=1500.0)
    rows = [row("heldout.shown_once", [1, 1], cost=cost.to_json())]
    known = summarise([Run.read(small_run(tmp_path / "a", rows=rows))])
    prices = {r["currency"]: r for r in known["price"] if r["threshold"] == 0.5}
    assert prices["energy_j"]["marginal"] == 1500.0
    assert "joules of the whole machine" in format_table(known)
    rows += [row("heldout.shown_once", [1], task="t/2", cost=Cost(energy_j=None).to_json())]
    unknown = summarise([Run.read(small_run(tmp_path / "b", rows=rows))])
    assert "energy_j" not in {r["currency"] for r in unknown["price"]}
    assert "joules" not in format_table(unknown)
    write_bill(tmp_path / "a/data", Bill("d", "collect", "data", Cost(energy_j=2500.0)))
    write_bill(tmp_path / "a/x", Bill("x", "evaluate", "x", Cost(energy_j=None)))
    table = format_table(summarise([Run.read(tmp_path / "a")]))
    assert table.endswith("energy of the whole machine meanwhile  collect 2.5kJ")


def priced(arm, marginal, threshold=0.5, censored=0):
    return {
        "arm": arm,
        "task": ALL_TASKS,
        "currency": "env_steps",
        "threshold": threshold,
        "marginal": marginal,
        "marginals": [marginal],
        "censored": censored,
    }


def verdict(rows, upstream=1000):
    found = break_even(rows, [dict.fromkeys(CURRENCIES, upstream)], "scratch_imitation")
    return found["env_steps"]


def test_break_even_is_upstream_over_saving():
    rows = [priced("pretrained_finetune", 20), priced("scratch_imitation", 120)]
    even = verdict(rows)
    assert even["tasks"] == 10  # 1000 / (120 - 20)
    assert even["verdict"] == "Pays from task 10 on"


def test_break_even_over_seeds_says_how_sure_it_is():
    rows = [
        priced("pretrained_finetune", 20) | {"marginals": [20, 20]},
        priced("scratch_imitation", 120) | {"marginals": [120, 120]},
    ]
    upstream = [dict.fromkeys(CURRENCIES, n) for n in (500, 1500)]
    even = break_even(rows, upstream, "scratch_imitation")["env_steps"]
    assert (even["tasks"], even["interval"]) == (10, [5, 15])
    assert "95 % interval: task 5 to task 15" in even["reason"]


def test_break_even_says_when_pretraining_does_not_pay():
    even = verdict([priced("pretrained_finetune", 120), priced("scratch_imitation", 100)])
    assert (even["tasks"], even["verdict"]) == (None, "Does not pay")


def test_break_even_against_a_censored_price_is_a_bound():
    rows = [priced("pretrained_finetune", 20), priced("scratch_imitation", 120, censored=1)]
    even = verdict(rows)
    assert even["verdict"] == "At the latest from task 10 on"
    assert "more than 120" in even["reason"]


def test_break_even_takes_the_highest_threshold_that_both_reached():
    rows = [
        priced("pretrained_finetune", 20, 0.5),
        priced("pretrained_finetune", 60, 0.8),
        priced("scratch_imitation", 70, 0.5),
        priced("scratch_imitation", 90, 0.8, censored=1),
    ]
    assert verdict(rows)["tasks"] == 20  # 1000 / (70 - 20)


def test_break_even_with_an_unknown_upstream_bill_is_not_known():
    rows = [priced("pretrained_finetune", 20), priced("scratch_imitation", 120)]
    assert verdict(rows, upstream=None)["verdict"] == "Not known"


def test_break_even_with_an_unknown_price_is_not_known():
    rows = [priced("pretrained_finetune", None), priced("scratch_imitation", 120)]
    assert verdict(rows)["verdict"] == "Not known"


def test_break_even_without_any_threshold_reached_does_not_pay():
    rows = [priced("pretrained_finetune", 20, censored=1), priced("scratch_imitation", 120)]
    assert verdict(rows)["verdict"] == "Does not pay"


def rate(mean, low, high):
    return {"mean": mean, "interval": [low, high], "episodes": 10, "seeds": 1, "tasks": {}}


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (rate(0.2, 0.1, 0.3), "the best control, open-loop replay, reaches 20 %"),
        (rate(0.5, 0.4, 0.6), "is not told apart from it"),
        (rate(0.9, 0.8, 1.0), "does better: 90 %"),
    ],
)
def test_headline_says_how_the_best_control_did(control, expected):
    heldout = {"shown_once": rate(0.55, 0.45, 0.65), "open_loop": control}
    assert expected in words.headline({}, heldout)


def test_headline_says_only_of_a_low_number():
    assert "only 8 %" in words.headline({}, {"shown_once": rate(0.08, 0.02, 0.15)})


def test_partly_finished_run_is_reported(tmp_path, capsys):
    write_json(tmp_path / "recipe.json", {"recipe": "tiny", "seed": 3, "command": "x"})
    content = report(ReportConfig(runs=(tmp_path,)))
    assert content["seen"] == content["heldout"] == {}
    assert "Nothing has been evaluated" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()


def test_json_option_prints_the_report_as_json(tmp_path, capsys):
    run = small_run(tmp_path / "run", rows=[row("seen.told", [1, 0])])
    out = tmp_path / "elsewhere"
    report(ReportConfig(runs=(run,), out=out, json=True))
    assert json.loads(capsys.readouterr().out) == read_json(out / "report.json")


@pytest.mark.parametrize(
    ("runs", "message"), [((), "name one or more"), (("nowhere",), "no recipe.json")]
)
def test_missing_runs_are_refused_in_one_line(tmp_path, runs, message):
    with pytest.raises(ValueError, match=message):
        report(ReportConfig(runs=tuple(tmp_path / name for name in runs)))


def test_row_without_a_task_is_refused_with_its_place(tmp_path):
    run = small_run(tmp_path, rows=[{"arm": "seen.told", "success": [1]}])
    with pytest.raises(ValueError, match=r"result\.json: row 0 has no 'task'"):
        Run.read(run)


def test_hostile_task_name_cannot_break_the_page(tmp_path):
    evil = "suite/</script><script>alert(1)</script>&{{script}}"
    run = small_run(tmp_path, rows=[row("heldout.shown_once", [1], task=evil)])
    report(ReportConfig(runs=(run,)))
    page = (tmp_path / "report.html").read_text()
    assert page.count("</script>") == 3  # the theme's, the data's and the script's own
    data = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert data is not None
    assert list(json.loads(data[1])["heldout"]["shown_once"]["tasks"]) == [evil]


def test_title_and_headline_are_escaped():
    page = build_page("<b>", "a < b", "c & d", {})
    assert "&lt;b&gt;" in page
    assert "a &lt; b" in page
    assert "c &amp; d" in page


def test_numbers_without_a_json_form_become_words():
    assert json.loads(json_for_script({"x": math.inf})) == {"x": "Infinity"}


def test_replays_leave_unused_objects_out():
    (drawn,) = replay_tracks([replay(np.random.default_rng(0), "door-unlock", True)])
    assert len(drawn["run"]["objects"]) == 1
    assert len(drawn["run"]["hand"]) == 150
    assert len(drawn["run"]["goal"][0]) == 3
    assert len(drawn["demonstration"]["hand"]) == 110


def test_replays_of_a_body_without_a_hand_are_left_out():
    channels = {"channels": ["joint/1"], "obs": [[0.5]]}
    assert replay_tracks([channels | {"title": "", "arm": "", "task": "", "success": True}]) == []


def test_losses_are_thinned_and_keep_their_steps_and_the_last():
    lines = [{"step": s, "train/loss": 1.0, "lr": 0.1} for s in range(1000)]
    thin = losses(lines, most=100)
    assert list(thin) == ["train/loss"]
    assert thin["train/loss"][:2] == [[9, 1.0], [19, 1.0]]
    assert thin["train/loss"][-1] == [999, 1.0]
    assert len(thin["train/loss"]) == 100


def test_learning_curves_of_reward_are_priced_where_first_reached(content):
    (price,) = [
        r
        for r in content["price"]
        if (r["arm"], r["currency"], r["threshold"]) == ("scratch_reinforce", "env_steps", 0.5)
    ]
    curve = next(c for c in content["price_curves"] if c["arm"] == "scratch_reinforce")
    first = next(p for p in curve["points"] if p["mean"] >= 0.5)
    assert price["marginal"] == first["cost"]["env_steps"]


def test_only_seeds_of_one_recipe_are_pooled_each_once(tmp_path):
    for name, seed in (("a", 0), ("b", 0)):
        write_run(tmp_path / name, seed=seed)
    with pytest.raises(ValueError, match=r"a seed can be pooled once.*\[0, 0"):
        report(ReportConfig(runs=(tmp_path / "a", tmp_path / "b")))
    recipe = json.loads((tmp_path / "b/recipe.json").read_text())
    (tmp_path / "b/recipe.json").write_text(json.dumps(recipe | {"recipe": "other", "seed": 1}))
    with pytest.raises(ValueError, match="different recipes cannot be pooled"):
        report(ReportConfig(runs=(tmp_path / "a", tmp_path / "b")))
