"""What a dataset's folder really holds: which saves count after a crash, and what is in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.artifact import read_json
from headstart.data import checks, files, journal
from headstart.data.journal import Journal, Record


def read_journal(root: Path) -> Journal:
    """The saves that count: those that are whole, if the writer died in the last one.

    Raises:
        ValueError: no dataset, one of somebody else's or of another version, or a damaged one.
    """
    path = root / journal.NAME
    check_no_repair(root)
    if not path.exists():
        raise ValueError(_why_no_journal(root))
    found = journal.read(path)
    checks.check(found)
    # The files and the line of a save are flushed together: after a crash any of them may be there.
    last = found.records[-1] if found.records else {}
    if "save" in last and any(damage(root, entry) for entry in last["files"]):
        found.drop_last()
    check_sizes(root, found)
    return found


def entries(found: Journal) -> dict[str, Record]:
    """Name -> bytes and sha256 of each data and video file."""
    return {entry["path"]: entry for save in found.saves for entry in save["files"]}


def damage(root: Path, entry: Record) -> str:
    """How a file differs from what the journal says; "" if it does not."""
    path = root / entry["path"]
    try:
        num_bytes = path.stat().st_size
        if num_bytes != entry["bytes"]:
            return f"damaged: {num_bytes} bytes, expected {entry['bytes']}"
        if files.sha256(path) != entry["sha256"]:
            return "damaged: its checksum is not the one recorded"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return ""


def check_sizes(root: Path, found: Journal) -> None:
    """Raises ValueError if a file is missing or of another length."""
    for name, entry in entries(found).items():
        path = root / name
        try:
            num_bytes = path.stat().st_size
        except OSError:
            raise ValueError(f"{path}: no such file") from None
        if num_bytes != entry["bytes"]:
            raise ValueError(f"{path}: damaged: {num_bytes} bytes, expected {entry['bytes']}")


def strays(root: Path, found: Journal) -> list[str]:
    """Data and video files that no save tells of, and unfinished ones in meta/."""
    known = entries(found)
    return [
        name
        for name in files.regular_files(root)
        if (name.startswith(("data/", "videos/")) and name not in known)
        or (name.startswith("meta/") and name.endswith(".tmp"))
    ]


def check_no_repair(root: Path) -> None:
    """Raises ValueError if a repair of the dataset was interrupted."""
    if (root / ".repaired").exists():
        raise ValueError(
            f"{root}: a repair was interrupted; finish it: headstart data repair {root}"
        )


def _why_no_journal(root: Path) -> str:
    path = root / "meta/info.json"
    if not path.exists():
        return f"{root / journal.NAME}: no such file; there is no dataset in {root}"
    info: Any = read_json(path)
    own = info.get("headstart") if isinstance(info, dict) else None
    if not isinstance(own, dict):
        return f"{path}: not written by headstart; import it: headstart data import {root} NEW"
    version = own.get("format_version")
    if version == 1:
        return f"{path}: format version 1, which is no longer read; collect the data again"
    return f"{root / journal.NAME}: no such file; headstart data repair {root} may restore it"
