from pathlib import Path

import disk_full
import oracle
import pytest


@pytest.mark.parametrize(("task", "every"), [(oracle.STATE, 2), (oracle.CAMERAS, 5)])
def test_full_at_any_operation_a_recording_keeps_what_it_has_and_goes_on(scratch, task, every):
    report = disk_full.recording(scratch, task, every)
    assert report["failures"] == []
    assert report["points"] > 5


def test_a_limit_on_the_size_of_files_is_one_clear_error(scratch: Path):
    assert disk_full.file_size_limit(scratch, [600, 3000])["failures"] == []


def test_a_small_disk_that_fills_up_for_real(scratch: Path):
    report = disk_full.small_disk(scratch, megabytes=4)
    if report is None:
        pytest.skip("only root may mount a file system")
    assert report["failures"] == []
    assert report["rounds"] == 3


def test_full_at_any_operation_there_is_still_a_checkpoint(scratch: Path):
    assert disk_full.training(scratch)["failures"] == []
