from collections.abc import Iterator
from pathlib import Path

import pytest
import trainer


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trainer.Trainer]:
    with trainer.Trainer(tmp_path_factory.mktemp("trainer") / "prepared") as process:
        yield process


@pytest.mark.parametrize("stage", trainer.STAGES)
def test_a_run_killed_twice_ends_as_one_that_was_not(
    process: trainer.Trainer, scratch: Path, stage: str
):
    report = trainer.campaign(process, scratch, stage, runs=1, deaths=2, seed=1)
    assert report["failures"] == []
    assert report["deaths"] > 0  # one by step, which is certain; one by the clock, which is not


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    process: trainer.Trainer, scratch: Path
):
    report = trainer.torn_checkpoint(process, scratch, seed=0, stages=("reinforce",))
    assert report["failures"] == []
