import itertools
import json
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest

from headstart import ledger
from headstart.artifact import check_seal, write_json
from headstart.config import to_json
from headstart.ledger import (
    Bill,
    Cost,
    Meter,
    RunMeter,
    read_bill,
    settle,
    share_of,
    spent_so_far,
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


class Drawn:
    """A gauge of which the readings are known."""

    def __init__(self, readings):
        self.joules = lambda: next(readings)

    def poll(self):
        pass


def test_a_meter_counts_on_from_where_a_run_resumes(monkeypatch):
    clock = iter([(10.0, 100.0), (11.0, 101.0), (14.0, 107.0)])
    monkeypatch.setattr(ledger, "_clocks", lambda: next(clock))
    monkeypatch.setattr(ledger, "Gauge", lambda num_gpus: Drawn(iter([40.0, 90.0])))
    with Meter(start=DATA, num_gpus=2) as meter:
        meter.count_env_steps("expert", 5)
        meter.count_env_steps("policy", 7)
        meter.count_demonstrations(1)
        meter.count_flops(1e9)
        midway = meter.cost()
    counted = {"expert": 105, "perturbed-expert": 50, "policy": 7}
    assert midway == Cost(counted, 11, 3.0, 2.0, 1e9, 2.0, 40.0)
    assert meter.cost() == Cost(counted, 11, 9.0, 8.0, 1e9, 5.0, 90.0)


def test_a_machine_that_cannot_tell_what_it_drew_makes_the_sum_unknown(monkeypatch):
    monkeypatch.setattr(ledger, "Gauge", lambda num_gpus: Drawn(repeat(None)))
    with Meter(start=Cost(energy_j=5.0)) as meter:
        pass
    assert meter.cost().energy_j is None
    measured = Bill("d", "collect", "data", Cost(energy_j=7.0))
    assert total([measured]).energy_j == 7.0
    assert total([Bill("m", "pretrain", "m", meter.cost(), (measured,))]).energy_j is None


@pytest.mark.parametrize("cost", [DATA, Cost.unknown()])
def test_a_bill_from_before_energy_was_measured_is_read_as_unknown_and_never_zero(tmp_path, cost):
    write_bill(tmp_path, Bill("m", "pretrain", "model", cost, (Bill("d", "x", "d", cost),)))
    bill = json.loads((tmp_path / "ledger.json").read_text())
    del bill["cost"]["energy_j"], bill["ancestors"][0]["cost"]["energy_j"]
    write_json(tmp_path / "ledger.json", bill)
    old = replace(cost, energy_j=None)
    assert read_bill(tmp_path) == Bill("m", "pretrain", "model", old, (Bill("d", "x", "d", old),))
    assert total([read_bill(tmp_path), Bill("n", "x", "n", Cost(energy_j=1.0))]).energy_j is None


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


def random_bills(rng: np.random.Generator, n: int) -> list[Bill]:
    """n bills, each with up to three ancestors of those before it; costs are powers of two."""
    bills: list[Bill] = []
    for i in range(n):
        parents = rng.choice(i, size=min(i, rng.integers(4)), replace=False) if i else []
        cost = Cost({"expert": 2**i}, core_s=float(2**i))
        bills.append(Bill(str(i), "stage", str(i), cost, tuple(bills[p] for p in parents)))
    return bills


@pytest.mark.parametrize("seed", range(30))
def test_a_total_counts_every_bill_once_whatever_the_sharing(seed):
    rng = np.random.default_rng(seed)
    bills = random_bills(rng, 12)
    asked = [bills[i] for i in rng.integers(12, size=3)]  # one may be asked for twice

    def reachable(bill: Bill) -> set[int]:
        return {int(bill.identity)}.union(*map(reachable, bill.ancestors))

    # A sum of different powers of two: counting one twice, or missing one, cannot cancel out.
    expected = sum(2**i for i in set().union(*map(reachable, asked)))
    assert total(asked).env_steps == expected
    assert total(asked).core_s == float(expected)
    (first, *_) = asked
    assert total([first]).env_steps == (first.cost.env_steps or 0) + (
        total(first.ancestors).env_steps or 0
    )


def test_two_bills_of_one_artifact_that_tell_it_differently_are_unknown_where_they_differ():
    data = Bill("d", "collect", "data", DATA)
    model = Bill("m", "pretrain", "model", TRAIN, (data,))
    edited = replace(data, cost=replace(DATA, core_s=0.0))
    for bills in ([model, edited], [edited, model]):
        assert total(bills) == replace(TRAIN + DATA, core_s=None)
    stripped = replace(model, ancestors=())  # one that hides what it was made from
    tuned = Bill("f", "finetune", "tuned", Cost(), (model,))
    for bills in ([stripped, tuned], [tuned, stripped]):
        assert total(bills) == TRAIN + DATA


def test_a_run_that_went_on_after_something_was_made_of_it_is_counted_once(tmp_path):
    first = Cost({"expert": 30}, core_s=1.5, wall_s=1.0)
    RunMeter(tmp_path, "collect", before=first).save_bill()
    model = Bill("m", "pretrain", "model", TRAIN, (read_bill(tmp_path),))
    more = Cost({"expert": 50}, core_s=2.5, wall_s=1.5)
    RunMeter(tmp_path, "collect", before=more).save_bill()
    going_on = read_bill(tmp_path)
    settle(tmp_path)
    finished = read_bill(tmp_path)
    assert finished.identity != going_on.identity
    for data in (going_on, finished):
        tuned = Bill("f", "finetune", "tuned", Cost(), (model, data))
        assert total([tuned]) == total([data, model]) == TRAIN + first + more


def copy_of_run(identity, core_s, **more):
    """A bill of a run, or of a copy of it, that was begun as u."""
    cost = Cost({"expert": 10}, core_s=core_s, **more)
    return Bill(identity, "pretrain", identity, cost, begun_as="unfinished-u")


@pytest.mark.parametrize(
    ("bills", "core_s"),
    [
        ([("unfinished-u", 20.0), ("unfinished-u", 50.0)], 50.0),
        ([("f", 20.0), ("unfinished-u", 15.0)], 20.0),  # which the finished one holds
        ([("f", 20.0), ("unfinished-u", 50.0)], 50.0),
        ([("f", 20.0), ("g", 25.0)], 25.0),
        ([("f", 20.0), ("g", 25.0), ("unfinished-u", 15.0)], 25.0),
        ([("f", 20.0), ("g", None)], None),
    ],
)
def test_copies_of_a_run_count_as_the_dearer_one_finished_or_not(bills, core_s):
    copies = [copy_of_run(*about) for about in bills]
    for ordered in itertools.permutations(copies):
        assert total(ordered) == Cost({"expert": 10}, core_s=core_s)
        made_of = [Bill(f"m{i}", "x", "m", Cost(), (copy,)) for i, copy in enumerate(ordered)]
        assert total(made_of) == Cost({"expert": 10}, core_s=core_s)


def test_of_two_copies_each_quantity_is_that_of_the_dearer():
    one = Bill("f", "x", "f", Cost({"expert": 5, "policy": 9}, 1, 20.0), begun_as="unfinished-u")
    other = Bill("g", "x", "g", Cost({"expert": 7}, 2, 15.0), begun_as="unfinished-u")
    dearer = Cost({"expert": 7, "policy": 9}, 2, 20.0)
    assert total([one, other]) == total([other, one]) == dearer
    unknown = replace(other, cost=Cost({"expert": None}, None, 15.0))
    assert total([one, unknown]) == Cost({"expert": None, "policy": 9}, None, 20.0)
    nothing_known = replace(other, cost=Cost.unknown())
    assert total([one, nothing_known]) == Cost.unknown()


def test_what_copies_of_a_run_were_made_of_is_counted_once_each():
    data, more = Bill("d", "collect", "d", DATA), Bill("e", "collect", "e", TRAIN)
    one = replace(copy_of_run("f", 20.0), ancestors=(data,))
    other = replace(copy_of_run("g", 25.0), ancestors=(data, more))
    assert total([one, other]) == Cost({"expert": 10}, core_s=25.0) + DATA + TRAIN


@pytest.mark.parametrize("seed", range(30))
def test_a_total_counts_every_run_once_at_its_dearest_copy_whatever_the_sharing(seed):
    rng = np.random.default_rng(seed)
    bills: list[Bill] = []
    for i in range(10):  # runs, each with copies: one that goes on, and finished ones
        before = list(bills)
        for k in range(rng.integers(1, 4)):
            parents = rng.choice(len(before), size=min(len(before), 3)) if before else []
            cost = Cost({"expert": (k + 1) * 4**i}, core_s=float((k + 1) * 4**i))
            begun_as, made_of = f"unfinished-{i}", tuple(before[p] for p in parents)
            identity = begun_as if k == rng.integers(3) else f"{i}-{k}"
            bills.append(Bill(identity, "stage", str(i), cost, made_of, begun_as))
    asked = [bills[i] for i in rng.integers(len(bills), size=3)]

    def walk(bill: Bill) -> list[Bill]:
        return [bill, *(b for made_of in bill.ancestors for b in walk(made_of))]

    dearest: dict[str, int] = {}
    for bill in (b for one in asked for b in walk(one)):
        dearest[bill.run] = max(dearest.get(bill.run, 0), bill.cost.env_steps or 0)
    # Digits to the base of four: counting a run twice, or missing one, cannot cancel out.
    assert total(asked).env_steps == sum(dearest.values())
    assert total(asked).core_s == float(sum(dearest.values()))


def test_a_run_begun_anew_where_another_was_is_paid_beside_it(tmp_path):
    bills = []
    for cost in (DATA, TRAIN):
        RunMeter(tmp_path, "collect", before=cost).save_bill()
        bills.append(read_bill(tmp_path))
        (tmp_path / "ledger.json").unlink()
    assert total(bills) == DATA + TRAIN


def test_a_grandparent_that_two_parents_share_is_paid_once_by_every_way_of_asking():
    data = Bill("d", "collect", "data", DATA)
    # A copy each, as bills that were read from the disk hold.
    parents = [Bill(n, "pretrain", n, Cost(core_s=1.0), (replace(data),)) for n in "ab"]
    child = Bill("c", "merge", "child", Cost(core_s=0.5), tuple(parents))
    assert total([child]).core_s == 0.5 + 1.0 + 1.0 + 2.0
    assert total([child, *parents, data]) == total([child])
    assert total(child.ancestors) + child.cost == total([child])
    assert total([child]).env_steps == DATA.env_steps


def test_an_ancestor_that_nobody_knows_makes_the_whole_total_unknown(tmp_path):
    imported = read_bill(tmp_path)  # a set without a bill
    model = Bill("m", "pretrain", "model", TRAIN, (imported, Bill("d", "collect", "d", DATA)))
    tuned = Bill("f", "finetune", "tuned", Cost(core_s=1.0), (model,))
    assert total([tuned]) == Cost.unknown()
    assert total(tuned.ancestors[0].ancestors[1:]) == DATA  # and no more than it stands on


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


@pytest.mark.parametrize("kept", ["progress.jsonl", "checkpoint.safetensors"])
def test_what_earlier_tries_spent_is_unknown_and_never_zero_once_their_bill_is_gone(tmp_path, kept):
    assert spent_so_far(tmp_path) == Cost()
    write_unfinished_bill(tmp_path, "pretrain", TRAIN)
    (tmp_path / kept).write_text("")
    assert spent_so_far(tmp_path) == TRAIN
    (tmp_path / "ledger.json").unlink()
    assert spent_so_far(tmp_path) == Cost.unknown()


def test_a_damaged_bill_is_refused(tmp_path):
    write_bill(tmp_path, Bill("d", "collect", "data", DATA))
    path = tmp_path / "ledger.json"
    path.write_text(path.read_text().replace("core_s", "cores"))
    with pytest.raises(ValueError, match=r"ledger\.json\.cost: unknown key 'cores'; did you mean"):
        read_bill(tmp_path)


def test_a_bill_of_too_many_generations_is_one_clear_line(tmp_path):
    before, after = json.dumps(to_json(Bill("0", "merge", "x", DATA))).split("[]")
    (tmp_path / "ledger.json").write_text(f"{before}[" * 300 + f"]{after}" * 300)
    with pytest.raises(ValueError, match=r"ledger\.json: ancestors of ancestors, nested too deep"):
        read_bill(tmp_path)


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
