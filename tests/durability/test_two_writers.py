import os
import platform
import subprocess
import sys
from pathlib import Path

import oracle
import pytest

from headstart.data.store import Dataset, DatasetWriter

HOLDER = """
import sys
import oracle
from headstart.data.store import DatasetWriter
with DatasetWriter(sys.argv[1], oracle.STATE) as writer:
    writer.save_episode(oracle.episode(0))
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_told_who_holds_the_dataset(scratch: Path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", HOLDER, str(scratch / "set")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        with pytest.raises(ValueError, match="another writer is at work") as refused:
            DatasetWriter(scratch / "set", oracle.STATE)
        assert str(holder.pid) in str(refused.value)
        assert platform.node() in str(refused.value)
        assert "\n" not in str(refused.value)
        assert Dataset(scratch / "set").num_episodes == 1  # reading is free
        holder.kill()
    with DatasetWriter(scratch / "set", oracle.STATE) as writer:  # no lock is left behind
        writer.save_episode(oracle.episode(1))
    assert oracle.problems(scratch / "set", oracle.STATE, 2) == []
