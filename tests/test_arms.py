import json
import math
import re
import shutil
from dataclasses import replace

import pytest

from headstart.arms import FREE, UNKNOWN, Prior, is_results, read_arms, write_arm
from headstart.artifact import read_json, write_json
from headstart.ledger import FINETUNED_MODEL, Bill, Cost
from result_files import DATA, GIVEN, PRIOR, tuned, write_points, write_prior, write_result

FROM_PRIOR = {"model": "runs/first/pretrain", "data": "runs/first/data"}
WITH_DEMONSTRATION = FROM_PRIOR | {"demonstrations": "runs/first/demonstrations", "count": 1}
CURVE = [(1000, 4.0, 0.5), (2000, 9.0, 0.9)]


def arms_in(folder, prior=None):
    return {arm.name: arm for arm in read_arms(folder, prior)}


def test_an_arm_knows_its_tasks_seeds_and_access(tmp_path):
    write_result(tmp_path, "scratch", "a", CURVE)
    write_result(tmp_path, "scratch", "a", CURVE[:1], seed=1)
    write_result(tmp_path, "scratch", "b", CURVE)
    write_result(tmp_path, "demos_1_success", "a", CURVE, config=WITH_DEMONSTRATION)
    write_result(tmp_path, "sb3_ppo", "a", CURVE)
    arms = arms_in(tmp_path)
    scratch = arms["scratch"]
    assert scratch.tasks == ["suite/a", "suite/b"]
    assert scratch.curves("env_steps")["suite/a"] == [[(1000, 0.5), (2000, 0.9)], [(1000, 0.5)]]
    assert (scratch.pretrained, scratch.demonstrations, scratch.reward) == (False, 0, "dense")
    demos = arms["demos_1_success"]
    assert (demos.pretrained, demos.demonstrations, demos.reward) == (True, 1, "success")
    assert arms["sb3_ppo"].peer and not scratch.peer


def test_what_learned_from_nothing_has_no_upstream_bill_even_unbilled(tmp_path):
    write_result(tmp_path, "scratch", "a", CURVE)
    (run,) = arms_in(tmp_path)["scratch"].runs
    assert (run.upstream, run.before) == (FREE, FREE)


def test_a_pretrained_run_without_a_bill_has_an_unknown_upstream(tmp_path):
    write_result(tmp_path, "told", "a", CURVE, config=FROM_PRIOR)
    write_result(tmp_path, "demos_1", "a", CURVE, config=WITH_DEMONSTRATION)
    told, demos = arms_in(tmp_path)["told"], arms_in(tmp_path)["demos_1"]
    assert told.upstream("env_steps") == [None]
    assert told.runs[0].before == FREE
    assert demos.runs[0].before == UNKNOWN
    assert demos.curves("core_s")["suite/a"] == [[(None, 0.5), (None, 0.9)]]


def test_an_upstream_that_one_run_of_a_seed_does_not_tell_is_unknown(tmp_path):
    write_result(tmp_path, "told", "a", CURVE, 0, FROM_PRIOR)
    write_result(tmp_path, "told", "b", CURVE, 0, FROM_PRIOR, (PRIOR, DATA))
    write_result(tmp_path, "told", "a", CURVE, 1, FROM_PRIOR, (PRIOR, DATA))
    assert arms_in(tmp_path)["told"].upstream("core_s") == [None, 500.0]


def test_a_bill_tells_upstream_from_what_was_spent_on_the_task(tmp_path):
    ancestors = (tuned("a"), DATA, GIVEN)
    write_result(tmp_path, "demos_1", "a", CURVE, 0, WITH_DEMONSTRATION, ancestors)
    (run,) = arms_in(tmp_path)["demos_1"].runs
    assert run.upstream == {"env_steps": 10_000, "core_s": 500.0}  # the data counted once
    # One of the twenty demonstrations: 100 steps, 0.5 core-s; and 8 core-s of fine-tuning.
    assert run.before == {"env_steps": 100, "core_s": 8.5}
    assert run.curve("core_s") == [(12.5, 0.5), (17.5, 0.9)]


def test_a_prior_pretrained_on_its_demonstrations_is_charged_for_them_once(tmp_path):
    config = WITH_DEMONSTRATION | {"demonstrations": "runs/first/data"}
    write_result(tmp_path, "shown", "a", CURVE, 0, config, (PRIOR, DATA, DATA))
    (run,) = arms_in(tmp_path)["shown"].runs
    assert run.upstream == {"env_steps": 10_000, "core_s": 500.0}
    assert run.before == {"env_steps": 0, "core_s": 0.0}


def test_data_that_went_on_after_the_prior_was_made_of_it_stays_upstream(tmp_path):
    begun = Bill("unfinished-d", "collect", "data", Cost({"expert": 3_000}, 30, core_s=15.0))
    prior = Bill("p", "pretrain", "pretrain", Cost({}, 0, core_s=450.0), (begun,))
    finished = replace(DATA, begun_as="unfinished-d")
    config = WITH_DEMONSTRATION | {"demonstrations": "runs/first/data"}
    write_result(tmp_path, "shown", "a", CURVE, 0, config, (prior, finished))
    (run,) = arms_in(tmp_path)["shown"].runs
    assert run.upstream == {"env_steps": 10_000, "core_s": 500.0}
    assert run.before == {"env_steps": 0, "core_s": 0.0}


def test_a_finished_copy_of_the_priors_data_stays_upstream_as_the_dearer_one(tmp_path):
    data, copy = replace(DATA, begun_as="u"), replace(DATA, identity="d2", begun_as="u")
    copy = replace(copy, cost=Cost({"expert": 12_000}, 120, core_s=60.0))
    config = WITH_DEMONSTRATION | {"demonstrations": "runs/first/data"}
    prior = replace(PRIOR, ancestors=(data,))
    write_result(tmp_path, "shown", "a", CURVE, 0, config, (prior, copy))
    (run,) = arms_in(tmp_path)["shown"].runs
    assert run.upstream == {"env_steps": 12_000, "core_s": 510.0}
    assert run.before == {"env_steps": 0, "core_s": 0.0}


def learned_from(name, *made_of):
    cost = Cost({}, 0, core_s=8.0)
    return Bill(f"f-{name}", FINETUNED_MODEL, name, cost, made_of or (PRIOR, GIVEN, DATA))


# A demonstration is 100 steps and 0.5 core-s; a model 8 core-s.
@pytest.mark.parametrize(
    ("model", "count", "before", "demonstrations"),
    [
        (learned_from("a-5"), 5, {"env_steps": 500, "core_s": 10.5}, 5),
        (learned_from("a-5"), 1, {"env_steps": 500, "core_s": 10.5}, 5),  # one of the five
        (learned_from("a-5"), 0, {"env_steps": 500, "core_s": 10.5}, 5),
        (learned_from("a-1"), 5, {"env_steps": 500, "core_s": 10.5}, 5),
        (learned_from("b-5"), 1, {"env_steps": 600, "core_s": 11.0}, 6),  # five of another task
        (learned_from("b-5"), 0, {"env_steps": 500, "core_s": 10.5}, 5),
        (learned_from("a-5", learned_from("a-2"), GIVEN), 0, {"env_steps": 500, "core_s": 18.5}, 5),
        (learned_from("best"), 0, UNKNOWN, 1),  # of how many does not stand in its bill
        (learned_from("a-5", PRIOR), 0, UNKNOWN, 5),  # nor from which dataset
        (learned_from("a-5", PRIOR, DATA), 0, {"env_steps": 0, "core_s": 8.0}, 5),  # the prior's
    ],
)
def test_what_a_fine_tuned_model_learned_from_is_spent_on_the_task(
    tmp_path, model, count, before, demonstrations
):
    given = {"demonstrations": "runs/first/demonstrations", "count": count} if count else {}
    ancestors = (model, DATA, GIVEN) if count else (model, DATA)
    write_result(tmp_path, "tuned", "a", CURVE, 0, FROM_PRIOR | given, ancestors)
    arm = arms_in(tmp_path)["tuned"]
    assert arm.demonstrations == demonstrations
    assert arm.runs[0].before == before
    assert arm.runs[0].upstream == {"env_steps": 10_000, "core_s": 500.0}


def test_demonstrations_from_two_datasets_are_both_spent(tmp_path):
    other = Bill("h", "collect", "more", Cost({"expert": 300}, 2, core_s=4.0))
    config = FROM_PRIOR | {"demonstrations": "runs/more", "count": 1}
    write_result(tmp_path, "tuned", "a", CURVE, 0, config, (learned_from("a-5"), DATA, other))
    arm = arms_in(tmp_path)["tuned"]
    # Five of 100 steps and 0.5 core-s, one of 150 and 2, the model 8.
    assert arm.runs[0].before == {"env_steps": 650, "core_s": 12.5}
    assert arm.demonstrations == 6


def test_a_run_knows_whether_its_prior_was_trained_on_the_task(tmp_path):
    folder, evaluated = tmp_path / "r", {"model": "m", "seen": "suite/all"}
    for arm, config in (
        ("prior_of_all", evaluated | {"heldout": ""}),
        ("asked_for_new_ones", evaluated | {"heldout": "suite/new"}),
        ("told", FROM_PRIOR),
        ("scratch", {}),
    ):
        for task in "ac":
            write_result(folder, arm, task, CURVE, 0, config)
    arms = arms_in(folder, Prior(write_prior(tmp_path / "prior")))  # which was trained on a and b
    assert arms["prior_of_all"].known == {"suite/a", "suite/c"}
    assert arms["told"].known == arms["asked_for_new_ones"].known == {"suite/a"}
    assert arms["off_the_bat"].known == {"suite/a", "suite/b"}
    assert arms["scratch"].known == arms["finetuned_1"].known == set()
    assert arms_in(folder)["told"].known == set()  # where nobody says so
    assert arms["told"].demonstrated == ["suite/a"]
    assert arms["finetuned_1"].demonstrated == ["suite/c"]  # which one was given of


def test_an_imported_set_of_unknown_cost_makes_the_upstream_unknown(tmp_path):
    imported = Bill("i", "import", "imported", Cost.unknown())
    prior = Bill("p", "pretrain", "pretrain", Cost({}, 0, core_s=450.0), (imported,))
    write_result(tmp_path, "told", "a", CURVE, 0, FROM_PRIOR, (prior, DATA))
    assert arms_in(tmp_path)["told"].upstream("core_s") == [None]


def test_demonstrations_given_to_an_arm_from_scratch_are_spent_on_the_task(tmp_path):
    config = {"demonstrations": "runs/first/demonstrations"}
    write_result(tmp_path, "rlpd_5", "a", CURVE, 0, config, (GIVEN,))
    (run,) = arms_in(tmp_path)["rlpd_5"].runs
    assert (run.upstream, run.before) == (FREE, {"env_steps": 500, "core_s": 2.5})


def test_imitation_goes_over_demonstrations_and_is_cut_for_arms_that_were_given_fewer(tmp_path):
    points = [
        {"demonstrations": k, "env_steps": 100 * k, "core_s": 30.0, "success_rate": s}
        | {"episodes": 50}
        for k, s in ((10, 0.9), (1, 0.3), (5, 0.6))
    ]
    write_points(tmp_path, "imitation", "a", points, 0, FROM_PRIOR)  # whose statistics it shares
    write_result(tmp_path, "demos_5", "a", CURVE, config=WITH_DEMONSTRATION | {"count": 5})
    arms = arms_in(tmp_path)
    assert set(arms) == {"imitation", "imitation_5", "demos_5"}
    assert arms["imitation"].demonstrations == 10
    assert arms["imitation"].curves("env_steps")["suite/a"] == [
        [(100, 0.3), (500, 0.6), (1000, 0.9)]
    ]
    assert arms["imitation_5"].curves("env_steps")["suite/a"] == [[(100, 0.3), (500, 0.6)]]
    assert arms["imitation_5"].demonstrations == 5
    assert not arms["imitation_5"].pretrained
    assert arms["imitation"].runs[0].upstream == FREE


def test_a_priors_report_tells_what_it_can_do_and_what_it_cost(tmp_path):
    write_result(tmp_path / "r", "scratch", "c", CURVE)
    prior = Prior(write_prior(tmp_path / "prior"))
    arms = arms_in(tmp_path / "r", prior)
    assert set(arms) == {"scratch", "off_the_bat", "shown_once", "finetuned_1", "imitation_1"}
    told = arms["off_the_bat"]
    assert told.tasks == ["suite/a", "suite/b", "suite/c"]
    assert told.curves("env_steps")["suite/b"] == [[(0.0, 0.9)]]
    assert told.upstream("core_s") == [500.0]
    assert arms["finetuned_1"].curves("core_s") == {"suite/c": [[(8.5, 0.9)]]}
    assert (arms["finetuned_1"].pretrained, arms["finetuned_1"].demonstrations) == (True, 1)
    assert arms["imitation_1"].upstream("env_steps") == [0.0]
    assert not arms["imitation_1"].pretrained
    assert [run.task for run in prior.known_already()] == ["suite/a", "suite/b"]


def test_a_prior_stands_in_for_bills_that_were_not_kept(tmp_path):
    write_result(tmp_path / "r", "demos_1", "c", CURVE, config=WITH_DEMONSTRATION)
    write_result(tmp_path / "r", "shown", "c", CURVE, config=WITH_DEMONSTRATION)
    arms = arms_in(tmp_path / "r", Prior(write_prior(tmp_path / "prior")))
    (demos,), (shown,) = arms["demos_1"].runs, arms["shown"].runs
    assert demos.upstream == {"env_steps": 10_000.0, "core_s": 500.0}
    assert demos.before == {"env_steps": 100.0, "core_s": 8.5}
    assert shown.before == {"env_steps": 100.0, "core_s": 0.5}


def test_a_folder_of_results_is_told_from_a_run(tmp_path):
    write_result(tmp_path / "r", "scratch", "c", CURVE)
    assert is_results(tmp_path / "r")
    assert not is_results(tmp_path / "nowhere")
    write_json(tmp_path / "r/recipe.json", {})
    assert not is_results(tmp_path / "r")


def test_mistakes_are_one_line_that_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"no results of arms.*ARM/TASK-SEED\.json"):
        read_arms(tmp_path)
    path = write_points(tmp_path, "scratch", "a", [{"env_steps": 5, "episodes": 50}])
    with pytest.raises(
        ValueError, match=r"a-0\.json: point 0 .*'success_rate' is None; use a number"
    ):
        read_arms(tmp_path)
    write_points(tmp_path, "scratch", "a", [{"success_rate": 1.0, "episodes": "50"}])
    with pytest.raises(ValueError, match=r"a-0\.json: point 0 .*'episodes' is '50'; use a number"):
        read_arms(tmp_path)
    damaged = write_result(tmp_path, "told", "a", CURVE, ancestors=(PRIOR,))
    other = damaged.read_text().replace('"stage": "pretrain"', '"stag": "pretrain"')
    write_arm(damaged, json.loads(other))
    path.unlink()
    with pytest.raises(ValueError, match=r"a-0\.json: bill.*unknown key 'stag'; did you mean"):
        read_arms(tmp_path)
    damaged.unlink()
    write_points(tmp_path, "scratch", "a", [])
    with pytest.raises(ValueError, match=r"a-0\.json: its curve is empty"):
        read_arms(tmp_path)
    with pytest.raises(ValueError, match=r"no report\.json; make it with: headstart report"):
        Prior(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"env_steps": "5"}, "'env_steps' is '5'; use a number from 0 on"),
        ({"core_s": math.nan}, "'core_s' is 'NaN'; use a number from 0 on"),
        ({"env_steps": -5}, "'env_steps' is -5; use a number from 0 on"),
        ({"success_rate": math.nan}, "'success_rate' is 'NaN'; use a number from 0 on"),
        ({"success_rate": 90}, "success_rate is 90; use 0 to 1"),
    ],
)
def test_a_number_that_makes_no_sense_is_told_with_its_point(tmp_path, changes, problem):
    point = {"env_steps": 5, "core_s": 1.0, "success_rate": 0.9, "episodes": 50}
    path = write_points(tmp_path, "scratch", "a", [point])
    content = read_json(path)
    content["result"]["curve"].append(point | changes)
    write_arm(path, content)
    with pytest.raises(ValueError, match=rf"a-0\.json: point 1 of its curve.*{problem}"):
        read_arms(tmp_path)


@pytest.mark.parametrize("content", [[], 5, {}, {"result": 5}, {"result": None}])
def test_a_file_without_a_result_is_one_line(tmp_path, content):
    write_json(tmp_path / "scratch/a-0.json", content)
    with pytest.raises(
        ValueError, match=r"a-0\.json: its result's 'task' is missing, or of a wrong"
    ):
        read_arms(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": 5}, "its result's 'task' is missing, or of a wrong type"),
        ({"seed": "0"}, "its result's 'seed' is missing, or of a wrong type"),
        ({"seed": None}, "its result's 'seed' is missing, or of a wrong type"),
        ({"curve": {"a": 1}}, "its result's 'curve' is missing, or of a wrong type"),
        ({"curve": 5}, "its result's 'curve' is missing, or of a wrong type"),
        ({"curve": [[5, 0.9]]}, "point 0 of its curve: 'success_rate' is None"),
    ],
)
def test_a_result_of_a_wrong_type_is_one_line(tmp_path, changes, problem):
    result = {"task": "suite/a", "seed": 0, "curve": CURVE} | changes
    write_arm(tmp_path / "scratch/a-0.json", {"result": result})
    with pytest.raises(ValueError, match=rf"a-0\.json: {problem}"):
        read_arms(tmp_path)


@pytest.mark.parametrize("other", [{}, FROM_PRIOR, WITH_DEMONSTRATION | {"count": 5}])
def test_a_result_in_the_folder_of_another_arm_is_told(tmp_path, other):
    write_result(tmp_path, "shown", "a", CURVE, 0, WITH_DEMONSTRATION, (PRIOR, DATA, GIVEN))
    write_result(tmp_path, "shown", "b", CURVE, 0, other, (PRIOR, DATA, GIVEN))
    with pytest.raises(ValueError, match=r"b-0\.json: has a prior.* that a-0\.json has not"):
        read_arms(tmp_path)


def test_demonstrations_that_are_on_no_bill_are_of_unknown_cost(tmp_path):
    write_result(tmp_path, "rlpd_1", "a", CURVE, 0, {"demonstrations": "x"}, ())
    (run,) = arms_in(tmp_path)["rlpd_1"].runs
    assert (run.upstream, run.before) == (FREE, UNKNOWN)


def test_a_result_whose_bill_or_curve_was_edited_is_refused(tmp_path):
    path = write_result(tmp_path, "told", "a", CURVE, 0, FROM_PRIOR, (PRIOR, DATA))
    whole = path.read_text()
    assert arms_in(tmp_path)["told"].upstream("core_s") == [500.0]
    for honest, edited in (('"core_s": 450.0', '"core_s": 45.0'), ("0.9", "0.99")):
        assert honest in whole
        path.write_text(whole.replace(honest, edited))
        with pytest.raises(ValueError, match=r"a-0\.json: damaged: its checksum is another"):
            read_arms(tmp_path)
    without = {key: value for key, value in json.loads(whole).items() if key != "sha256"}
    write_json(path, without)
    with pytest.raises(ValueError, match=r"a-0\.json: it has no checksum; write results with"):
        read_arms(tmp_path)


@pytest.mark.parametrize("copy", ["a-1", "a-00", "b-0"])
def test_a_result_that_is_named_for_another_is_refused_and_not_counted_twice(tmp_path, copy):
    path = write_result(tmp_path, "scratch", "a", CURVE)
    shutil.copy(path, path.with_name(f"{copy}.json"))
    with pytest.raises(
        ValueError, match=rf"{copy}\.json tells of suite/a, seed 0; name it a-0\.json"
    ):
        read_arms(tmp_path)


def test_published_curves_are_a_peer_of_unknown_time(tmp_path):
    curves = {"suite/a": {"1": [[0, 0.0], [200, 0.9]], "2": [[0, 0.1]]}}
    write_json(tmp_path / "published/other.json", {"episodes": 10, "curves": curves})
    write_result(tmp_path, "scratch", "a", CURVE)
    arm = arms_in(tmp_path)["published_other"]
    assert (arm.peer, arm.pretrained, arm.measured) == (True, False, "published")
    assert arm.curves("env_steps") == {"suite/a": [[(0, 0.0), (200, 0.9)], [(0, 0.1)]]}
    assert arm.curves("core_s")["suite/a"][0] == [(None, 0.0), (None, 0.9)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "it has no 'curves'; it needs .*\\[steps, success\\]"),
        ([], "it has no 'curves'; it needs"),
        ({"curves": {}}, "it has no 'curves'; it needs"),
        ({"curves": {"suite/a": []}}, "suite/a: not a curve a seed; the file needs"),
        ({"curves": {"suite/a": {}}}, "suite/a: not a curve a seed; the file needs"),
        ({"curves": {"suite/a": {"x": [[0, 0.1]]}}}, "suite/a: not a curve a seed; the file needs"),
        ({"curves": {"suite/a": {"1": []}}}, "suite/a, seed 1: its curve is empty"),
        ({"curves": {"suite/a": {"1": 5}}}, "suite/a, seed 1: its curve is empty, or none"),
        ({"curves": {"suite/a": {"1": [5]}}}, "point 0 is 5; use \\[steps, success\\]"),
        ({"curves": {"suite/a": {"1": [[0, 0.1, 3]]}}}, "point 0 is .*; use \\[steps, success\\]"),
        ({"curves": {"suite/a": {"1": [[100, None]]}}}, "'success_rate' is None; use a number"),
        ({"curves": {"suite/a": {"1": [[None, 0.1]]}}}, "'env_steps' is None; use a number"),
        ({"curves": {"suite/a": {"1": [[0, 0.1], [100, 2.0]]}}}, "point 1: success_rate is 2.0;"),
        ({"curves": {"suite/a": {"1": [[0, 0.1]]}}, "episodes": None}, "'episodes' is None; use a"),
    ],
)
def test_a_published_file_that_makes_no_sense_is_one_line(tmp_path, content, problem):
    if isinstance(content, dict):
        content = {"episodes": 10} | content
    write_json(tmp_path / "published/other.json", content)
    write_result(tmp_path, "scratch", "a", CURVE)
    with pytest.raises(ValueError, match=rf"published/other\.json: .*{problem}"):
        read_arms(tmp_path)


@pytest.mark.parametrize(
    ("made_by", "problem"),
    [
        (None, 'made_by: use {"config": {...}}, or leave it out'),
        ([], 'made_by: use {"config": {...}}, or leave it out'),
        ({"config": None}, 'made_by: use {"config": {...}}, or leave it out'),
        ({"config": {"count": "1"}}, "made_by.config: 'count' is '1'; use a whole number from 0"),
        ({"config": {"count": -1}}, "made_by.config: 'count' is -1; use a whole number from 0"),
    ],
)
def test_a_maker_that_makes_no_sense_is_one_line(tmp_path, made_by, problem):
    path = write_result(tmp_path, "scratch", "a", CURVE)
    write_arm(path, {"result": read_json(path)["result"], "made_by": made_by})
    with pytest.raises(ValueError, match=rf"a-0\.json: {re.escape(problem)}"):
        read_arms(tmp_path)


def test_a_result_may_leave_its_maker_out(tmp_path):
    path = write_result(tmp_path, "scratch", "a", CURVE)
    write_arm(path, {"result": read_json(path)["result"]})
    assert arms_in(tmp_path)["scratch"].runs[0].before == FREE
