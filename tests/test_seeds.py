import pytest

from headstart.seeds import PURPOSES, environment_seeds


def test_no_two_purposes_runs_or_tasks_share_a_seed():
    seeds = [
        seed
        for purpose in PURPOSES
        for run in (0, 1, 399)
        for task in (0, 49, 99)
        for seed in (
            *environment_seeds(purpose, run, task, 2),
            *environment_seeds(purpose, run, task, 1, start=9999),
        )
    ]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**31


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(ValueError, match="seed 400 is out of range; use 0 to 399"):
        environment_seeds("data", 400, 0, 1)
