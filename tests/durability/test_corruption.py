import subprocess
from pathlib import Path

import corruption

from headstart.data.store import Dataset
from headstart.data.verify import verify


def test_damage_is_found_repaired_and_never_loaded(scratch: Path):
    report = corruption.campaign(scratch, 40, seed=0)
    assert (report["missed"], report["wrong"], report["lost"]) == ([], [], [])
    assert len(report["kinds"]) > 15


def test_what_is_not_damaged_verifies(scratch: Path):
    corruption.make_dataset(scratch / "set")
    corruption.make_model(scratch / "model")
    assert verify(scratch / "set") == [] and verify(scratch / "model") == []
    assert Dataset(scratch / "set").num_episodes == 10


def test_the_seal_is_what_sha256sum_checks(scratch: Path):
    corruption.make_model(scratch)
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=scratch, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
