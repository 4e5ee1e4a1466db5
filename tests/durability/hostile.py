"""Files made to break a parser: what becomes of the process that reads them.

Two ways of reading are told apart. What Python parses (JSON) and what safetensors does (Rust) is
read in the user's own process: there only a ValueError or OSError of one line will do. What C
parses is read in the guard's child, which may even crash, as long as the user gets one line.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import io
import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corruption
import oracle

from headstart.artifact import Artifact
from headstart.data import lerobot_v3 as v3
from headstart.data.guard import Guard
from headstart.data.importers import FORMATS, import_dataset
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.verify import repair, verify
from headstart.ledger import read_bill
from headstart.model.checkpoint import load_model, load_training

GUARDED = ("damaged: the parser", "damaged, or too large", "cannot be read")
"""How the guard begins its own lines, after the path."""
_NEST = "<deep>"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 2**70, -(2**70), 1e308, 0.5, "", "x" * 5000, "NaN",
    "Infinity", "../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", [], {}, [[]], {"a": {}},
    [None], _NEST,
)  # fmt: skip
FILES = Path(__file__).parent.parent / "data" / "files"


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flipped bits, lengths blown up, pieces cut, moved or made of something else."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        # Headers and footers are where the lengths are.
        edge = min(len(changed), 512)
        near = rng.choice((rng.randrange(edge), len(changed) - 1 - rng.randrange(edge)))
        place = near if rng.random() < 0.7 else rng.randrange(len(changed))
        match rng.choice(("flip", "length", "cut", "random", "repeat", "zero")):
            case "flip":
                changed[place] ^= 1 << rng.randrange(8)
            case "length":
                number = rng.choice((2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40, 0))
                packed = struct.pack(rng.choice("<>") + "Q", number)
                changed[place : place + 8] = packed[: rng.choice((4, 8))]
            case "cut" if len(changed) > 64:
                del changed[place : place + rng.choice((1, 4, 8, len(changed) // 3))]
            case "random":
                changed[place : place + 16] = rng.randbytes(16)
            case "repeat":
                changed[place:place] = changed[place : place + 64]
            case "zero":
                changed[place : place + 64] = bytes(len(changed[place : place + 64]))
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """The value with one or two of its parts made something that they should not be."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(value))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        match rng.choice(("replace", "replace", "remove", "rename", "more")):
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[f"{key}s"] = holder.pop(key)
            case "more" if isinstance(holder[key], list):
                holder[key] = holder[key] * 1000
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD))
    return value


def _places(value: Any) -> Any:
    """(holder, key) of every part of a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def dump(value: Any, **options: Any) -> bytes:
    """As JSON; what is to be nested deeply is nested deeper than any parser likes."""
    text = json.dumps(value, **options).replace(f'"{_NEST}"', "[" * 50_000 + "]" * 50_000)
    return text.encode()


# ---- files of ours, of somebody who knows the format and computes the checksums anew ------------


def hostile_journal(root: Path, rng: random.Random) -> None:
    """Change values in a journal's lines."""
    path = root / corruption.JOURNAL
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    number = rng.randrange(len(records))
    kept = {k: v for k, v in records[number].items() if k not in ("previous", "sha256")}
    changed = mutate_json(kept, rng)
    records[number] = changed if isinstance(changed, dict) else {}
    write_journal(path, records)


def write_journal(path: Path, records: list[dict[str, Any]]) -> None:
    """Lines whose checksums are right, whatever they say."""
    previous, lines = "", []
    for record in records:
        facts = {k: v for k, v in record.items() if k != "sha256"} | {"previous": previous}
        body = dump(facts, separators=(",", ":"))[:-1]
        previous = hashlib.sha256(body).hexdigest()
        lines.append(body + f',"sha256":"{previous}"}}\n'.encode())
    path.write_bytes(b"".join(lines))


def hostile_file(pattern: str) -> Callable[[Path, random.Random], None]:
    """Change a data or video file, and have the journal tell of it as it is."""

    def change(root: Path, rng: random.Random) -> None:
        path = rng.choice(sorted(root.glob(pattern)))
        content = mutate_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
        name = str(path.relative_to(root))
        journal = root / corruption.JOURNAL
        records = [json.loads(line) for line in journal.read_bytes().splitlines()]
        for record in records:
            for entry in record.get("files", []):
                if entry["path"] == name:
                    entry["bytes"] = len(content)
                    entry["sha256"] = hashlib.sha256(content).hexdigest()
        write_journal(journal, records)

    return change


def hostile_json(name: str) -> Callable[[Path, random.Random], None]:
    """Change values in a JSON file that nothing seals."""

    def change(root: Path, rng: random.Random) -> None:
        (root / "SHA256SUMS").unlink(missing_ok=True)
        path = root / name
        value = mutate_json(json.loads(path.read_text()), rng)
        if name == "model.json" and isinstance(value, dict):
            value.pop("own_sha256", None)
            text = json.dumps(value, sort_keys=True)
            value["own_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_bytes(dump(value))

    return change


def hostile_weights(root: Path, rng: random.Random) -> None:
    """Change model.safetensors, and have model.json tell of it as it is."""
    (root / "SHA256SUMS").unlink(missing_ok=True)
    content = mutate_bytes((root / "model.safetensors").read_bytes(), rng)
    (root / "model.safetensors").write_bytes(content)
    meta = json.loads((root / "model.json").read_text())
    del meta["own_sha256"]
    meta["sha256"] = hashlib.sha256(content).hexdigest()
    text = json.dumps(meta, sort_keys=True)
    meta["own_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (root / "model.json").write_text(json.dumps(meta))


def hostile_checkpoint(root: Path, rng: random.Random) -> None:
    for path in root.glob("checkpoint*"):
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))


def hostile_source(root: Path, rng: random.Random) -> None:
    """Change a file of somebody else's dataset."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.stat().st_size]
    path = rng.choice(files)
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_bytes(dump(mutate_json(json.loads(content), rng)))
    elif path.suffix == ".jsonl" and rng.random() < 0.7:
        lines = content.splitlines()
        number = rng.randrange(len(lines))
        lines[number] = dump(mutate_json(json.loads(lines[number]), rng))
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(mutate_bytes(content, rng))


# ---- how they are read; these run in a child ---------------------------------------------------


def read_dataset(root: Path) -> str:
    """All that a user may ask of a dataset."""
    dataset = Dataset(root)
    dataset.episode_table()
    dataset.load_columns(list(v3.columns(dataset)))
    for number, episode in enumerate(dataset.iter_episodes()):
        for camera in dataset.cameras:
            _ = episode.images[camera.name]
            dataset.images(number, camera.name)
    return "read"


def append_to_dataset(root: Path) -> str:
    with DatasetWriter(root, oracle.CAMERAS) as writer:
        writer.save_episode(oracle.episode(0, oracle.CAMERAS))
    return "read"


def check_dataset(root: Path) -> str:
    for problem in verify(root):
        if "\n" in problem.what:
            raise AssertionError(f"not one line: {problem.what!r}")
    repair(root)
    return "read"


def read_artifact(root: Path) -> str:
    artifact = Artifact.open(root)
    artifact.result()
    artifact.metrics()
    artifact.truncate_metrics(0)
    read_bill(root)
    return "read"


def read_model(root: Path) -> str:
    model = load_model(root)
    model.num_parameters()
    return "read"


def read_checkpoint(root: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        load_training(root / "checkpoint.safetensors")
    return "read"


def import_source(root: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import_dataset(root, root.with_name("imported"), robot="robot", control_hz=10.0)
    return "read"


Kind = tuple[Callable[[Path], None], Callable[[Path, random.Random], None], str, bool]
"""(make the folder, change it, function that reads it, whether that is in the user's process)."""


def kinds() -> dict[str, Kind]:
    """What is tried, by name."""
    dataset, model = corruption.make_dataset, corruption.make_model
    found: dict[str, Kind] = {
        "journal, read": (dataset, hostile_journal, "read_dataset", True),
        "journal, appended to": (dataset, hostile_journal, "append_to_dataset", True),
        "journal, verified": (dataset, hostile_journal, "check_dataset", False),
        "parquet": (dataset, hostile_file("data/*/*.parquet"), "read_dataset", False),
        "parquet, verified": (dataset, hostile_file("data/*/*.parquet"), "check_dataset", False),
        "mp4": (dataset, hostile_file("videos/*/*/*.mp4"), "read_dataset", False),
        "config.json": (model, hostile_json("config.json"), "read_artifact", True),
        "ledger.json": (model, hostile_json("ledger.json"), "read_artifact", True),
        "result.json": (model, hostile_json("result.json"), "read_artifact", True),
        "model.json": (model, hostile_json("model.json"), "read_model", True),
        "model.safetensors": (model, hostile_weights, "read_model", True),
        "checkpoint.safetensors": (model, hostile_checkpoint, "read_checkpoint", True),
    }
    for source in sources():
        name = f"import of {'-'.join(source.relative_to(FILES).parts)}"
        found[name] = (_copy_of(source), hostile_source, "import_source", False)
    return found


def sources() -> list[Path]:
    """Datasets that the real libraries wrote: what an importer recognises."""
    modules = [importlib.import_module(f"headstart.data.importers.{name}") for name in FORMATS]
    paths = [p for p in sorted(FILES.rglob("*")) if p.is_dir() or p.suffix in (".hdf5", ".npz")]
    return [path for path in paths if any(module.matches(path) for module in modules)]


def _copy_of(source: Path) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, root)
        else:
            root.mkdir(parents=True)
            shutil.copy(source, root)

    return make


def campaign(out: Path, number: int, seed: int, only: str = "") -> dict[str, Any]:
    """Read ``number`` hostile files, as many of each kind.

    Returns:
        Of each kind what became of them; ``failures``: what the user should not have seen;
        ``unclear``: lines that the guard had to find words for.
    """
    rng = random.Random(seed)
    chosen = {name: kind for name, kind in kinds().items() if only in name}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    failures, unclear = [], []
    with Guard(timeout_s=20.0, memory_bytes=2**30) as guard:
        for name, (make, *_) in chosen.items():
            make(out / name)
        for k in range(number):
            name = list(chosen)[k % len(chosen)]
            _, change, read, in_process = chosen[name]
            root = out / "hostile"
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(root.with_name("imported"), ignore_errors=True)
            shutil.copytree(out / name, root)
            change(root, rng)
            try:
                outcome = guard.call(f"hostile:{read}", {"root": _inner(root)})
            except (ValueError, OSError) as error:
                line = str(error)
                outcome = "one line"
                if any(words in line for words in GUARDED):
                    outcome = "the guard's line"
                    (failures if in_process else unclear).append(f"{k}: {name}: {line}")
                if "\n" in line or len(line) > 1000:
                    failures.append(f"{k}: {name}: not one clear line: {line[:1200]!r}")
            outcomes[name][outcome] += 1
    counted = {name: dict(counter) for name, counter in outcomes.items()}
    return {"files": number, "outcomes": counted, "failures": failures, "unclear": unclear}


def _inner(root: Path) -> Path:
    """The one file in the folder, where the source is a file; else the folder."""
    inside = list(root.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_file() else root
