from pathlib import Path

import hostile


def test_hostile_files_are_one_clear_line_and_no_crash(scratch: Path):
    report = hostile.campaign(scratch, 90, seed=0)
    assert report["failures"] == []
    read = sum(outcome.get("read", 0) for outcome in report["outcomes"].values())
    assert read < 70  # most are refused; what still reads was changed where it does not matter
