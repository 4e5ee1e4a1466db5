"""An artifact: the folder that one run of one stage writes.

::

    config.json      stage, format version, config, package versions, machine; written first
    metrics.jsonl    one line per log call
    progress.jsonl   while the run is not complete: what it has finished, one line a piece
    result.json      written last: a run that has one is complete
    ledger.json      what it cost (see headstart.ledger)
    README.md        a short card
    tensorboard/     the metrics again, for TensorBoard
    ...              the thing itself: a dataset, checkpoints, pages
    SHA256SUMS       checksums of all this once it is finished; ``sha256sum -c`` reads it
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from headstart.config import differences, to_json
from headstart.tracking import make_tracker

FORMAT_VERSION = 1

MEMORY_PER_ENV_MB = 25
"""What one simulator takes: EnvPool keeps a model for each."""

MOST_JSON_BYTES = 2**28
"""What is larger is not read: it is not ours, and would take many times that of memory."""

SEAL = "SHA256SUMS"

TRACKERS = ("tensorboard", "trackio", "wandb")
"""Folders that other programs write to whenever they like."""

NOT_CONTENT = (
    "ledger.json",
    "metrics.jsonl",
    "progress.jsonl",
    "README.md",
    "checkpoint.safetensors",  # what training goes on from, and the costs up to there
    "checkpoint-before.safetensors",
    SEAL,
    *TRACKERS,
)
"""Top-level names that an artifact's identity leaves out, as it does hidden files and logs."""

CLOCKS = ("wall_s", "core_s", "gpu_s", "energy_j", "flops_per_s", "interrupted")
"""Names of the numbers in result.json that are measured, or of the tries that were stopped."""


class Artifact:
    """The folder of one run of one stage. Make one with ``create`` or ``open``."""

    def __init__(self, root: Path, header: dict[str, Any], tracker: str = "none") -> None:
        self.root = root
        self.header = header
        self._tracker = make_tracker(tracker, root, header)

    @classmethod
    def create(
        cls, root: Path | str, stage: str, config: Any, resume: bool = False, tracker: str = "none"
    ) -> Artifact:
        """A folder for a new run, or with ``resume`` the folder of the same run to go on with.

        Resuming a run that never began starts it, so the same command may be run again and again.

        Args:
            config: the stage's config, a dataclass.
            tracker: one of ``tracking.TRACKERS``.

        Raises:
            ValueError: the folder has something else in it, or a run and ``resume`` is False, or
                a run of another stage, format or config.
        """
        root = Path(root)
        header = _header(stage, config)
        if (root / "config.json").exists():
            if not resume:
                raise ValueError(f"{root} already holds a run; choose another folder, or resume it")
            saved = cls.open(root).header
            _check_same_run(root, saved, stage, config)
            return cls(root, saved, tracker)
        if root.exists() and any(not path.name.startswith(".") for path in root.iterdir()):
            raise ValueError(f"{root} is not empty and holds no run; choose another folder")
        artifact = cls(root, header, tracker)
        write_json(root / "config.json", header)
        return artifact

    @classmethod
    def open(cls, root: Path | str) -> Artifact:
        """An artifact that exists already.

        Raises:
            ValueError: no artifact there, a damaged one, or one of another format version.
        """
        root = Path(root)
        header = read_sealed_json(root, "config.json")
        version = header.get("format_version") if isinstance(header, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{root / 'config.json'}: format version {version}; this is {FORMAT_VERSION}"
            )
        for key, kind in (("stage", str), ("config", dict)):
            if not isinstance(header.get(key), kind):
                raise ValueError(f"{root / 'config.json'}: '{key}' is missing, or of a wrong type")
        return cls(root, header)

    @property
    def stage(self) -> str:
        return self.header["stage"]

    @property
    def config(self) -> dict[str, Any]:
        """The config as JSON values; ``config.from_json`` makes it a dataclass again."""
        return self.header["config"]

    @property
    def is_complete(self) -> bool:
        return (self.root / "result.json").exists()

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line, e.g. ``{"step": 100, "train/loss": 0.5}``. "step" is required."""
        record = to_json(dict(metrics))
        with open(self.root / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        if self._tracker is not None:
            numbers = {k: float(v) for k, v in metrics.items() if k != "step" and _is_number(v)}
            self._tracker.log(int(metrics["step"]), numbers)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines logged so far. A last line cut short by a crash is left out."""
        path = self.root / "metrics.jsonl"
        records = _read_lines(path)
        if not all(_is_number(r.get("step")) for r in records):
            raise ValueError(f"{path}: damaged: a line has no step")
        return records

    def save_progress(self, piece: Mapping[str, Any]) -> None:
        """Append a finished piece of the work; from then on an interruption does not undo it."""
        path = self.root / "progress.jsonl"
        is_new = not path.exists()
        with open(path, "a") as file:
            file.write(json.dumps(to_json(dict(piece)), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _fsync(self.root)

    def progress(self) -> list[dict[str, Any]]:
        """The pieces that earlier tries at this run have finished, to go on from.

        A last line cut short by a crash is removed, so that the next one starts on its own.
        """
        path = self.root / "progress.jsonl"
        pieces = _read_lines(path)
        if pieces:
            write_bytes(path, "".join(json.dumps(piece) + "\n" for piece in pieces).encode())
        else:
            path.unlink(missing_ok=True)
        return pieces

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after ``step``, from which the run goes on."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_bytes(self.root / "metrics.jsonl", text.encode())
        if self._tracker is not None:
            self._tracker.purge(step)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the run complete. It holds no time stamps."""
        write_json(self.root / "result.json", dict(result))
        (self.root / "progress.jsonl").unlink(missing_ok=True)
        if self._tracker is not None:
            self._tracker.close()

    def result(self) -> dict[str, Any]:
        """What ``write_result`` wrote. Raises ValueError while the run is not complete."""
        if not self.is_complete:
            raise ValueError(f"{self.root}: the run is not complete; resume it first")
        return read_sealed_json(self.root, "result.json")


def result_if_any(root: Path | str) -> dict[str, Any]:
    """An artifact's result; empty where it has none, as one of fine-tuning's models."""
    exists = (Path(root) / "result.json").exists()
    return read_sealed_json(root, "result.json") if exists else {}


def manifest(root: Path | str) -> str:
    """The identity of an artifact: a sha256 of its content's names and hashes.

    Left out: what it cost, logs, cards, hidden files, of config.json the versions and the
    machine, and of result.json the seconds and joules that things took. So the same content has
    the same identity wherever and whenever it was made. For a dataset's files stands its journal,
    which has their hashes.
    """
    root = Path(root)
    digest = hashlib.sha256()
    in_journal = ("data", "videos") if _has_journal(root) else ()
    for parts in _files(root, (*NOT_CONTENT, *in_journal)):
        content = _content_sha256(root.joinpath(*parts), parts)
        digest.update(f"{'/'.join(parts)}\0{content}\n".encode())
    return digest.hexdigest()


def seal(root: Path | str) -> None:
    """Write SHA256SUMS: a checksum for each file of an artifact that is finished.

    Left out are hidden files, logs, trackers' folders, and of a dataset the files that its own
    journal vouches for as it grows. Check with ``check_seal`` or ``sha256sum -c SHA256SUMS``.
    """
    root = Path(root)
    _write_seal(root, {name: _sha256(root / name) for name in _sealed_files(root)})


@contextmanager
def resealing(root: Path, name: str) -> Iterator[None]:
    """One file of an artifact changes; its seal, if it has one, vouches for the others as before.

    Killed inside the block, it says nothing of that file and is otherwise whole.
    """
    recorded = _read_seal(root)
    if recorded:
        _write_seal(root, {n: sha256 for n, sha256 in recorded.items() if n != name})
    yield
    if recorded:
        _write_seal(root, recorded | {name: _sha256(root / name)})


def check_seal(root: Path | str) -> list[tuple[Path, str]]:
    """What has happened to a sealed artifact: (file, "missing", "changed" or "extra") of each.

    Raises:
        ValueError: not sealed, or the seal itself is damaged.
    """
    root = Path(root)
    if not (root / SEAL).is_file():
        raise ValueError(f"{root / SEAL}: no such file; the artifact is not finished")
    recorded = _read_seal(root)
    found = _sealed_files(root)
    extra = [(root / name, "extra") for name in found if name not in recorded]
    return extra + [
        (root / name, "missing" if name not in found else "changed")
        for name, sha256 in recorded.items()
        if name not in found or _sha256(root / name) != sha256
    ]


def check_memory(num: int, what: str = "environments", each_mb: float = MEMORY_PER_ENV_MB) -> None:
    """Refuse to start what would not fit.

    Raises:
        ValueError: they need more than the memory that is free.
    """
    needed_mb = num * each_mb
    available_mb = psutil.virtual_memory().available / 2**20
    if needed_mb > available_mb:
        raise ValueError(
            f"{num} {what} need about {needed_mb:.0f} MB of memory, and"
            f" {available_mb:.0f} MB are free; use fewer"
        )


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path to write to; when the block ends it becomes ``path``, whole and durable.

    If the block raises, or the process dies, ``path`` is what it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file, or on any failure leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, or on any failure leave what was there. Values as for ``config.to_json``."""
    text = json.dumps(to_json(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is missing, cut short, not JSON, or larger than any of ours.
    """
    path = Path(path)
    if not path.is_file():  # which a pipe or a device is not either: reading those may never end
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; at most {MOST_JSON_BYTES} are read")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON: not UTF-8 text") from None
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: not JSON of ours: nested too deeply") from None
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise ValueError(f"{path}: cut short after {len(text)} characters") from None
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: not JSON: {error.msg} at {at}") from None
    except ValueError:  # an integer of thousands of digits
        raise ValueError(f"{path}: not JSON of ours: a number is too long") from None


def read_sealed_json(root: Path | str, name: str) -> Any:
    """``read_json`` of an artifact's file, which if the artifact is sealed has to be unchanged."""
    path = Path(root) / name
    value = read_json(path)
    sha256 = _read_seal(Path(root)).get(name)
    if sha256 is not None and _sha256(path) != sha256:
        raise ValueError(f"{path}: damaged: its checksum is not the one in {SEAL}")
    return value


def count(n: int, noun: str) -> str:
    """``1 task``, ``1,200 tasks``: for cards and pages."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def write_card(root: Path | str, title: str, lines: Sequence[str]) -> None:
    """Write README.md: a title and a few lines of Markdown."""
    write_bytes(Path(root) / "README.md", "\n".join([f"# {title}", "", *lines, ""]).encode())


def _header(stage: str, config: Any) -> dict[str, Any]:
    packages = ("headstart", "numpy", "torch", "envpool")
    return {
        "stage": stage,
        "format_version": FORMAT_VERSION,
        "config": to_json(config),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": _gpu_models(),
        },
    }


def _check_same_run(root: Path, saved: dict[str, Any], stage: str, config: Any) -> None:
    if saved["stage"] != stage:
        raise ValueError(f"{root} holds a run of '{saved['stage']}', not of '{stage}'")
    changed = differences(saved["config"], config)
    if changed:
        raise ValueError(f"{root} holds a run with another config: {', '.join(changed)}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_models() -> list[str]:
    """Models of the NVIDIA GPUs, from the driver's own files, so that torch need not be loaded."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bool)) and value is not None and hasattr(value, "__float__")


def _files(root: Path, left_out: Sequence[str]) -> list[tuple[str, ...]]:
    """Parts of the names of an artifact's regular files, but for hidden ones, logs and these."""
    names = sorted(path.relative_to(root).parts for path in root.rglob("*") if path.is_file())
    return [
        parts
        for parts in names
        if parts[0] not in left_out
        and not parts[-1].endswith(".log")
        and not any(part.startswith(".") for part in parts)
    ]


def _read_seal(root: Path) -> dict[str, str]:
    """The checksum of each file; none where the artifact is not sealed."""
    path = root / SEAL
    recorded: dict[str, str] = {}
    content = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
    for line in re.findall(r"[^\n]*\n|[^\n]+$", content):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^\n]+)\n", line)
        if match is None or match[2] in recorded:
            raise ValueError(f"{path}: damaged: {line[:80]!r} is no checksum and name")
        recorded[match[2]] = match[1]
    return recorded


def _write_seal(root: Path, recorded: Mapping[str, str]) -> None:
    lines = [f"{sha256}  {name}\n" for name, sha256 in recorded.items()]
    write_bytes(root / SEAL, "".join(lines).encode())


def _sealed_files(root: Path) -> list[str]:
    # Episodes may be added to a dataset at any time; its journal has their checksums.
    dataset = ("data", "meta", "videos") if _has_journal(root) else ()
    return ["/".join(parts) for parts in _files(root, (SEAL, *TRACKERS, *dataset))]


def _has_journal(root: Path) -> bool:
    return (root / "meta/journal.jsonl").exists()


def _content_sha256(path: Path, parts: tuple[str, ...]) -> str:
    if parts == ("config.json",):
        header = read_json(path)
        content = {"stage": header["stage"], "config": header["config"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if parts[-1] == "result.json":
        content = json.dumps(_without_clocks(read_json(path)), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_folder(path: Path) -> None:
    """Make a folder, and those above it, that power loss cannot take back."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _fsync(path.parent)


def _without_clocks(value: Any) -> Any:
    """JSON values without what differs between two equal runs."""
    if isinstance(value, dict):
        return {k: _without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return [_without_clocks(v) for v in value] if isinstance(value, list) else value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, without a last line cut short; no file: none."""
    if not path.exists():
        return []
    whole = path.read_text(errors="replace").split("\n")[:-1]
    try:
        records = [json.loads(line) for line in whole]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON lines: {error}") from None
    if not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path}: damaged: a line is no record")
    return records


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
