import json
import math
import subprocess
import sys
import threading

import pytest

from headstart import ledger
from headstart.artifact import check_seal, write_json
from headstart.config import to_json
from headstart.ledger import (
    Bill,
    Cost,
    Meter,
    amortised,
    break_even_interval,
    break_even_tasks,
    full,
    price_per_point,
    price_row,
    price_to_threshold,
    read_bill,
    settle,
    share_of,
    total,
    write_bill,
    write_unfinished_bill,
)

DATA = Cost({"expert": 100, "perturbed-expert": 50}, 10, 2.0, 0.0, 0.0, 1.0)
TRAIN = Cost({}, 0, 8.0, 3.0, 1e12, 4.0)


def test_costs_add_by_quantity_and_origin():
    more = Cost({"expert": 1, "policy": 2}, 3, 0.5, 1.0, 1e3, 0.25)
    assert DATA + more == Cost(
        {"expert": 101, "perturbed-expert": 50, "policy": 2}, 13, 2.5, 1.0, 1e3, 1.25
    )
    assert (DATA + more).env_steps == 153


def test_unknown_infects_only_its_own_quantity():
    cost = DATA + Cost({"expert": None}, core_s=None)
    assert cost.env_steps_by_origin == {"expert": None, "perturbed-expert": 50}
    assert cost.env_steps is None
    assert cost.core_s is None
    assert (cost.demonstrations, cost.wall_s) == (10, 1.0)
    assert DATA + Cost.unknown() == Cost.unknown()
    assert Cost.unknown().env_steps is None


@pytest.mark.parametrize("cost", [DATA, TRAIN, Cost(), Cost.unknown(), Cost({"expert": None})])
def test_a_cost_survives_json(cost):
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_a_meter_counts_on_from_where_a_run_resumes(monkeypatch):
    clock = iter([(10.0, 100.0), (11.0, 101.0), (14.0, 107.0)])
    monkeypatch.setattr(ledger, "_clocks", lambda: next(clock))
    with Meter(start=DATA, num_gpus=2) as meter:
        meter.count_env_steps("expert", 5)
        meter.count_env_steps("policy", 7)
        meter.count_demonstrations(1)
        meter.count_flops(1e9)
        midway = meter.cost()
    counted = {"expert": 105, "perturbed-expert": 50, "policy": 7}
    assert midway == Cost(counted, 11, 3.0, 2.0, 1e9, 2.0)
    assert meter.cost() == Cost(counted, 11, 9.0, 8.0, 1e9, 5.0)


def test_core_seconds_include_threads_and_children():
    burn = "import time\nwhile time.thread_time() < 0.03: pass"
    with Meter() as meter:
        thread = threading.Thread(target=exec, args=(burn, {}))
        thread.start()
        thread.join()
        in_thread = meter.cost().core_s or 0.0
        subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    in_child = (meter.cost().core_s or 0.0) - in_thread
    assert in_thread >= 0.03
    assert in_child >= 0.03


def test_a_shared_ancestor_is_counted_once():
    data = Bill("d", "collect", "data", DATA)
    model = Bill("m", "pretrain", "model", TRAIN, (data,))
    first = Bill("f1", "finetune", "first", Cost(core_s=1.0), (model, data))
    second = Bill("f2", "finetune", "second", Cost(core_s=2.0), (model,))
    assert total([first, second]).core_s == 1.0 + 2.0 + 8.0 + 2.0
    assert total([first, second]).env_steps == 150
    assert total(second.ancestors) == TRAIN + DATA
    assert total([data, data]) == DATA
    assert total([]) == Cost()


def test_a_bill_survives_the_disk(tmp_path):
    data = Bill("d", "collect", "data", DATA)
    bill = Bill("m", "pretrain", "model", TRAIN + Cost(flops=None), (data,))
    write_bill(tmp_path, bill)
    assert read_bill(tmp_path) == bill


def test_a_missing_bill_is_unknown_and_never_zero(tmp_path):
    bill = read_bill(tmp_path)
    assert bill.cost == Cost.unknown()
    assert bill.identity != read_bill(tmp_path / "other").identity
    assert total([Bill("d", "collect", "data", DATA), bill]) == Cost.unknown()


def test_a_damaged_bill_is_refused(tmp_path):
    write_bill(tmp_path, Bill("d", "collect", "data", DATA))
    path = tmp_path / "ledger.json"
    path.write_text(path.read_text().replace("core_s", "cores"))
    with pytest.raises(ValueError, match=r"ledger\.json\.cost: unknown key 'cores'; did you mean"):
        read_bill(tmp_path)


CURVE = [(0.0, 0.0), (100.0, 0.4), (200.0, 0.8), (300.0, 0.6)]


def test_a_bill_of_too_many_generations_is_one_clear_line(tmp_path):
    before, after = json.dumps(to_json(Bill("0", "merge", "x", DATA))).split("[]")
    (tmp_path / "ledger.json").write_text(f"{before}[" * 300 + f"]{after}" * 300)
    with pytest.raises(ValueError, match=r"ledger\.json: ancestors of ancestors, nested too deep"):
        read_bill(tmp_path)


def test_the_price_is_at_the_first_measurement_that_reaches_the_threshold():
    assert price_to_threshold(CURVE, 0.5) == (200.0, False)  # not 125, which interpolation gives
    assert price_to_threshold(CURVE, 0.8) == (200.0, False)
    assert price_to_threshold(CURVE, 0.0) == (0.0, False)


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


def test_a_share_of_a_collection_goes_by_its_simulator_steps():
    made = Cost({"expert": 300, "perturbed-expert": 100}, demonstrations=8, core_s=20.0, wall_s=4.0)
    share = share_of(made, env_steps=100, demonstrations=2)
    assert share == Cost({"demonstration": 100}, demonstrations=2, core_s=5.0, wall_s=1.0)
    unknown = share_of(Cost.unknown(), env_steps=100, demonstrations=2)
    assert (unknown.env_steps, unknown.demonstrations, unknown.core_s) == (100, 2, None)


def test_settling_seals_once_and_never_what_has_changed_since(tmp_path):
    write_unfinished_bill(tmp_path, "evaluate", Cost())
    write_json(tmp_path / "result.json", {"success": 0.5})
    settle(tmp_path)
    assert check_seal(tmp_path) == []
    write_json(tmp_path / "result.json", {"success": 0.9})
    settle(tmp_path)
    assert check_seal(tmp_path) == [(tmp_path / "result.json", "changed")]
