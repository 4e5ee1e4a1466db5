"""What the tests have the guard call. It imports little: every new child imports it again."""

import errno
import json
import os
import time
from pathlib import Path


def echo(path: Path, values: list) -> dict:
    print("working on it", flush=True)
    return {"is_path": isinstance(path, Path), "values": values, "pid": os.getpid()}


def crash(path: Path, number: int) -> None:
    os.kill(os.getpid(), number)


def hang(path: Path) -> None:
    while True:
        time.sleep(0.05)


def slow_but_alive(path: Path) -> str:
    for _ in range(15):
        time.sleep(0.1)
        path.write_text("x")
    return "done"


def grow(path: Path) -> None:
    path.with_name("x" * 2**31)


def fail(path: Path, kind: str) -> None:
    match kind:
        case "ours":
            raise ValueError(f"{path}: no column 'actoin'; did you mean action")
        case "our own kind":
            ours = type("Located", (ValueError,), {"__module__": "headstart.data.importers.base"})
            raise ours(f"{path}: damaged: line 3 is not what was written")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        case "h5py":
            raise OSError("Unable to open\nfile")
        case "bug":
            raise KeyError("fps")
        case "long":
            raise ValueError(f"{path}: a shape of {[1] * 10_000}")
        case "deep":
            json.loads("[" * 100_000)
