from pathlib import Path

import pytest
import recorder


@pytest.mark.parametrize("task", ["state", "cameras"])
def test_killed_at_random_instants_nothing_acknowledged_is_lost(scratch: Path, task: str):
    report = recorder.random_kills(scratch, task, 4, seed=0, longest_s=0.4)
    assert (report["kills"], report["failures"]) == (4, [])


@pytest.mark.parametrize(("task", "every"), [("state", 8), ("cameras", 21)])
def test_killed_around_any_file_operation_nothing_acknowledged_is_lost(
    scratch: Path, task: str, every: int
):
    report = recorder.kills_at_every_point(scratch, task, every)
    assert report["failures"] == []
    assert report["points"] > 8
