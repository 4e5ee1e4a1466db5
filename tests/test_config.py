import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from headstart.config import (
    check_ranges,
    did_you_mean,
    differences,
    free,
    from_json,
    listed,
    to_json,
)


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Config:
    task: str
    num_steps: int = 10
    shape: tuple[int, ...] = (1, 2)
    mode: Literal["told", "shown"] = "told"
    parent: Path | None = None
    amp: bool = False
    optimizer: Optimizer = Optimizer()
    weights: dict[str, float] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    device: str = free("cpu")
    anything: Any = None


FULL = Config(
    task="metaworld/reach",
    shape=(3, 4, 5),
    mode="shown",
    parent=Path("runs/a"),
    optimizer=Optimizer(lr=float("inf")),
    weights={"a": 1.0},
    rows=[1],
)


@pytest.mark.parametrize("config", [Config("x"), FULL])
def test_a_config_survives_json(config):
    import json

    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(Config, json.loads(text)) == config


def test_to_json_has_only_json_values():
    assert to_json(FULL) == {
        "task": "metaworld/reach",
        "num_steps": 10,
        "shape": [3, 4, 5],
        "mode": "shown",
        "parent": "runs/a",
        "amp": False,
        "optimizer": {"lr": "Infinity", "betas": [0.9, 0.95]},
        "weights": {"a": 1.0},
        "rows": [1],
        "device": "cpu",
        "anything": None,
    }


def test_a_whole_number_is_a_float():
    assert from_json(Optimizer, {"lr": 1}) == Optimizer(lr=1.0)
    assert isinstance(from_json(Optimizer, {"lr": 1}).lr, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "x", "num_step": 3}, "Config: unknown key 'num_step'; did you mean num_steps?"),
        ({}, "Config: 'task' is missing"),
        ({"task": "x", "num_steps": "3"}, "Config.num_steps: expected int, got str '3'"),
        ({"task": "x", "num_steps": True}, "Config.num_steps: expected int, got bool True"),
        ({"task": "x", "amp": 1}, "Config.amp: expected bool, got int 1"),
        ({"task": "x", "mode": "tol"}, "Config.mode: 'tol' is not a choice; did you mean told?"),
        ({"task": "x", "shape": [1, 2.5]}, "Config.shape[1]: expected int, got float 2.5"),
        ({"task": "x", "parent": 3}, "Config.parent: expected Path, got int 3"),
        (
            {"task": "x", "optimizer": {"Lr": 1}},
            "Config.optimizer: unknown key 'Lr'; did you mean lr?",
        ),
        (
            {"task": "x", "optimizer": {"betas": [1]}},
            "Config.optimizer.betas: expected 2 values, got 1",
        ),
        ({"task": "x", "optimizer": 3}, "Config.optimizer: expected an object, got int 3"),
        ({"task": "x", "weights": {"a": "b"}}, "Config.weights.a: expected float, got str 'b'"),
    ],
)
def test_a_mistake_gives_one_line_that_names_the_field(values, message):
    with pytest.raises(ValueError) as error:
        from_json(Config, values)
    assert str(error.value) == message


def test_differences_name_nested_fields_and_skip_free_ones():
    now = Config("x", num_steps=20, optimizer=Optimizer(lr=0.5), device="cuda")
    assert differences(Config("x"), now) == ["num_steps: 10 -> 20", "optimizer.lr: 0.001 -> 0.5"]
    assert differences(Config("x"), Config("x", device="cuda")) == []


def test_differences_read_saved_json_with_other_fields():
    before = to_json(Config("x")) | {"gone": 1}
    del before["amp"]
    assert differences(before, Config("x", device="cuda")) == [
        "gone: 1 -> (absent)",
        "amp: (absent) -> False",
    ]


def test_did_you_mean_gives_the_nearest_or_the_first_known():
    assert did_you_mean("reech", ["reach", "push"]) == "; did you mean reach?"
    assert did_you_mean("zzz", ["reach", "push"]) == "; known: reach, push"


def test_of_many_names_the_first_are_listed_and_the_rest_counted():
    assert listed(["reach", "push"], most=2) == "reach, push"
    assert listed(["reach", "push", "drawer-open"], most=2) == "reach, push and 1 more"


@pytest.mark.parametrize(
    ("lr", "problem"),
    [
        (-0.1, r"^lr is -0\.1; use 0 to 1$"),
        (1.5, r"^lr is 1\.5; use 0 to 1$"),
        (math.nan, "^lr is nan; use 0 to 1$"),
    ],
)
def test_a_number_out_of_its_range_is_refused(lr: float, problem: str):
    with pytest.raises(ValueError, match=problem):
        check_ranges(Optimizer(lr), lr=(0, 1))


def test_a_range_without_an_upper_end_has_no_infinity():
    with pytest.raises(ValueError, match=r"^lr is inf; use at least 0$"):
        check_ranges(Optimizer(math.inf), lr=(0, math.inf))
    check_ranges(Optimizer(1e9), lr=(0, math.inf))


@pytest.mark.parametrize("lr", [math.nan, math.inf, -math.inf])
def test_a_range_without_ends_has_finite_numbers_only(lr: float):
    with pytest.raises(ValueError, match=rf"^lr is {lr}; use a finite number$"):
        check_ranges(Optimizer(lr), lr=(-math.inf, math.inf))
    check_ranges(Optimizer(-1e9), lr=(-math.inf, math.inf))
