import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headstart.data.guard import Guard, guarded

HERE = "guard_entries:"


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    """A child that several tests use: starting one takes longest."""
    with Guard(timeout_s=1.0) as guard:
        yield guard


def test_a_call_returns_what_the_function_returned(capfd: pytest.CaptureFixture):
    result = guarded(HERE + "echo", {"path": Path("/x"), "values": [1, None, "é", 0.5]})
    assert result["is_path"] and result["values"] == [1, None, "é", 0.5]
    assert result["pid"] != os.getpid()
    assert capfd.readouterr().out == "working on it\n"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_of_the_parser_is_one_line(guard: Guard, number: int):
    problem = rf"^/x: damaged: the parser crashed \(signal {int(number)}\)$"
    with pytest.raises(ValueError, match=problem):
        guard.call(HERE + "crash", {"path": "/x", "number": int(number)})


def test_a_hang_is_one_line_and_leaves_no_process(guard: Guard):
    pid = guard.call(HERE + "echo", {"path": "/x", "values": []})["pid"]
    with pytest.raises(ValueError, match=r"^/x: damaged: the parser got nowhere in 1 s$"):
        guard.call(HERE + "hang", {"path": "/x"})
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="bytes moved are counted on Linux only")
def test_a_long_call_that_reads_or_writes_is_not_a_hang(guard: Guard, tmp_path: Path):
    assert guard.call(HERE + "slow_but_alive", {"path": tmp_path / "x"}) == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_is_bounded():
    with pytest.raises(ValueError, match=r"^/x: damaged, or too large: .* more than 1 GiB of mem"):
        guarded(HERE + "grow", {"path": "/x"}, memory_bytes=2**30)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("ours", r"^/x: no column 'actoin'; did you mean action$"),
        ("our own kind", r"^/x: damaged: line 3 is not what was written$"),
        ("long", r"^/x: a shape of \[1(, 1){100,200},? ?1? \.\.\.$"),
        ("h5py", r"^/x: cannot be read: OSError: Unable to open file \(guard_entries\.py:\d+\)$"),
        ("bug", r"^/x: cannot be read: KeyError: 'fps' \(guard_entries\.py:\d+\)$"),
        ("deep", r"^/x: cannot be read: RecursionError: [^\n]*$"),
    ],
)
def test_what_the_function_raises_is_one_line(guard: Guard, kind: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        guard.call(HERE + "fail", {"path": "/x", "kind": kind})


def test_a_full_disk_stays_an_os_error(guard: Guard):
    with pytest.raises(OSError, match=r"No space left on device: '/x'$") as raised:
        guard.call(HERE + "fail", {"path": "/x", "kind": "full"})
    assert raised.value.errno == errno.ENOSPC


def test_after_a_crash_the_next_call_has_a_new_child(guard: Guard):
    first = guard.call(HERE + "echo", {"path": "/x", "values": []})["pid"]
    assert guard.call(HERE + "echo", {"path": "/x", "values": []})["pid"] == first
    with pytest.raises(ValueError, match="crashed"):
        guard.call(HERE + "crash", {"path": "/x", "number": int(signal.SIGSEGV)})
    assert guard.call(HERE + "echo", {"path": "/x", "values": []})["pid"] != first


def test_a_module_in_the_current_folder_is_never_run(tmp_path: Path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('untrusted code ran')")
    monkeypatch.chdir(tmp_path)
    assert guarded(HERE + "echo", {"path": "/x", "values": [1]})["values"] == [1]


PARENT = """
from headstart.data.guard import Guard
with Guard() as guard:
    print(guard.call("guard_entries:echo", {"path": "/x", "values": []})["pid"], flush=True)
    guard.call("guard_entries:hang", {"path": "/x"})
"""


def test_the_child_ends_with_its_parent():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break  # ended; nobody here collects it
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()
