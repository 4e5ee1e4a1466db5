"""Damage of every kind to every file of a dataset and of a model, and what becomes of it."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import torch

from headstart.artifact import Artifact
from headstart.data.guard import Guard
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.verify import repair, verify
from headstart.ledger import Cost, settle, write_unfinished_bill
from headstart.model.channels import ChannelStatistics
from headstart.model.checkpoint import load_model, load_training, save_model, save_training
from headstart.model.transformer import ModelConfig, Transformer, build_transformer

PAGE = 4096  # bytes
PARTS = ("data", "meta", "videos")
JOURNAL = "meta/journal.jsonl"
SAVES = ((0, 1, 2), (3,), (4, 5), (6, 7, 8), (9,))
"""Numbers of the episodes of each save."""


def make_dataset(root: Path, closed: bool = True) -> None:
    """A finished artifact with a dataset in it: vectors, a video camera and an image camera."""
    if not closed:
        make_dataset(root)
        path = root / JOURNAL  # as a recorder leaves it that is killed
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        return
    artifact = Artifact.create(root, "collect", {"split": "oracle"})
    with DatasetWriter(root, oracle.CAMERAS) as writer:
        for numbers in SAVES:
            writer.save_episodes([oracle.episode(i, oracle.CAMERAS) for i in numbers])
    write_unfinished_bill(root, "collect", Cost({"expert": 55}))
    artifact.write_result({"episodes": 10})
    settle(root)


def make_model(root: Path) -> None:
    """A finished artifact with a model in it, and a training state as of an unfinished one."""
    artifact = Artifact.create(root, "pretrain", {"data": "oracle"})
    artifact.log({"step": 1, "train/loss": 0.5})
    save_model(root, tiny_model())
    for update in (1, 2):
        tensors = {"a": torch.arange(2000.0) * update, "b": torch.tensor(update)}
        save_training(root / "checkpoint.safetensors", tensors, {"updates": update})
    write_unfinished_bill(root, "pretrain", Cost(flops=1.5))
    artifact.write_result({"parameters": 7})
    settle(root)


def tiny_model() -> Transformer:
    """The same model every time."""
    statistics = [
        ChannelStatistics(c.name, c.role, c.unit, mean=0.1 * i, deviation=1.5, change_deviation=0.3)
        for i, c in enumerate(oracle.CHANNELS)
    ]
    size = ModelConfig(n_layer=2, n_head=2, n_embd=16, window=3, demonstration_steps=5, max_words=6)
    return build_transformer(size, statistics, ("", "?", "reach", "the", "goal"), seed=0)


def files_of(root: Path) -> list[Path]:
    """All that is content: hidden files are not."""
    found = sorted(p for p in root.rglob("*") if p.is_file())
    return [p for p in found if not any(n.startswith(".") for n in p.relative_to(root).parts)]


def damage(root: Path, rng: random.Random) -> tuple[str, list[Path]]:
    """Do one thing to the files in a folder: (what, which files). Their content has changed."""
    files = [path for path in files_of(root) if path.stat().st_size]
    recorded = (root / JOURNAL, root / "data", root / "videos")
    if not is_closed(root):  # what is derived is written anew when a recording goes on
        files = [path for path in files if any(path.is_relative_to(p) for p in recorded)]
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(kind_of(path.relative_to(root)), []).append(path)
    path = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    content = path.read_bytes()
    what = rng.choice(("flip", "truncate", "zero", "swap", "remove", "junk"))
    changed = bytearray(content)
    match what:
        case "flip":
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case "truncate":
            del changed[rng.randrange(len(content)) :]
        case "zero":
            start = rng.randrange(0, len(content), PAGE)
            changed[start : start + PAGE] = bytes(len(changed[start : start + PAGE]))
        case "junk":
            changed += rng.randbytes(rng.randrange(1, 100))
        case "swap":
            other = rng.choice(files)
            if other.read_bytes() == content:
                return damage(root, rng)
            _rewrite(path, other.read_bytes())
            _rewrite(other, content)
            return what, [path, other]
        case "remove":
            path.unlink()
            return what, [path]
    if bytes(changed) == content:
        return damage(root, rng)
    _rewrite(path, bytes(changed))
    return what, [path]


def is_closed(root: Path) -> bool:
    """Whether a folder is one of a model, or of a dataset whose writer closed it."""
    path = root / JOURNAL
    return not path.exists() or b'{"closed"' in path.read_bytes()


def kind_of(path: Path) -> str:
    return f"{path.parts[0]}/*{path.suffix}" if path.parts[0] in ("data", "videos") else str(path)


def _rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # a new file: the old one may be mapped into memory
    path.write_bytes(content)


def campaign(out: Path, number: int, seed: int) -> dict[str, Any]:
    """Damage, verify, load, repair: ``number`` times, each in a child that may crash.

    Returns:
        Of each kind of file how often it was damaged; ``missed`` that ``verify`` did not find;
        ``wrong`` what was loaded that is not what was saved, or not refused in one line;
        ``lost`` episodes that ``repair`` dropped though nothing had happened to their files.
    """
    rng = random.Random(seed)
    examined: tuple[tuple[str, Callable[[Path], None], str], ...] = (
        ("closed", make_dataset, "examine_dataset"),
        ("open", lambda root: make_dataset(root, closed=False), "examine_dataset"),
        ("model", make_model, "examine_model"),
    )
    for name, make, _ in examined:
        make(out / name)
    kinds: Counter[str] = Counter()
    found: dict[str, Any] = {"missed": [], "wrong": [], "lost": []}
    kept = 0
    with Guard() as guard:
        for k in range(number):
            name, _, examine = examined[min(k % 5, 2)]
            root = out / "damaged"
            shutil.copytree(out / name, root)
            what, paths = damage(root, rng)
            names = [str(path.relative_to(root)) for path in paths]
            kinds[f"{name}: {kind_of(paths[0].relative_to(root))}"] += 1
            try:
                reply: dict[str, Any] = guard.call(
                    f"corruption:{examine}", {"root": root, "damaged": names}
                )
            except ValueError as error:
                reply = {"wrong": [str(error)]}
            for key, problems in found.items():
                problems += [f"{k}: {name}, {what} {names}: {p}" for p in reply.get(key, [])]
            kept += int(reply.get("kept", 0))
            shutil.rmtree(root)
    return {"corruptions": number, "kinds": dict(sorted(kinds.items())), "kept": kept, **found}


def examine_dataset(root: Path, damaged: list) -> dict[str, Any]:
    """Verify, load and repair a dataset in which these files were damaged. Runs in a child."""
    found: dict[str, Any] = {"missed": [], "wrong": [], "lost": []}
    problems = verify(root)
    named = {str(problem.path.relative_to(root)) for problem in problems}
    if not problems or (not is_closed(root) and not named & {*damaged, JOURNAL}):
        found["missed"].append(f"verify finds {named or 'nothing'}")
    found["wrong"] += [f"not one line: {p.what!r}" for p in problems if "\n" in p.what]
    found["wrong"] += _one_line_or(lambda: oracle.problems(root, oracle.CAMERAS))
    # What a save's files are is only known to who wrote them: the first data file is save 0's.
    touched = _saves_touched(root, damaged)
    repaired = repair(root)
    found["kept"] = repaired.kept_episodes
    # A card or a bill that was damaged stays so: there is nothing to write it anew from.
    left = [p for p in verify(root) if p.path.relative_to(root).parts[0] in PARTS]
    found["wrong"] += [f"after repair: {p.path.name}: {p.what}" for p in left]
    found["wrong"] += _one_line_or(lambda: _kept_differences(root))
    expected = [i for k, numbers in enumerate(SAVES) for i in numbers if k not in touched]
    numbers = Dataset(root).episode_table()["seed"].tolist()
    if missing := sorted(set(expected) - set(numbers)):
        found["lost"].append(f"episodes {missing}; kept {numbers}; dropped {repaired.dropped}")
    return found


def _kept_differences(root: Path) -> list[str]:
    dataset = Dataset(root)
    numbers = dataset.episode_table()["seed"].tolist()
    if numbers != sorted(set(numbers)):
        return [f"repaired to episodes {numbers}"]
    return oracle.differences(dataset, oracle.CAMERAS, numbers, dataset.episodes())


def _saves_touched(root: Path, damaged: list[str]) -> set[int]:
    """Saves that may be lost with these files: all, if it is the journal."""
    touched: set[int] = set()
    for name in damaged:
        if name == JOURNAL:
            return set(range(len(SAVES)))
        if name.startswith(("data/", "videos/")):
            touched.add(int(Path(name).stem.partition("-")[2]))
    return touched


def examine_model(root: Path, damaged: list) -> dict[str, Any]:
    """Verify and load a model folder in which these files were damaged. Runs in a child."""
    found: dict[str, Any] = {"missed": [], "wrong": []}
    if not verify(root):
        found["missed"].append("verify finds nothing")
    expected = tiny_model()

    def model() -> list[str]:
        loaded = load_model(root)
        same = (
            loaded.config == expected.config
            and loaded.channels == expected.channels
            and loaded.vocabulary == expected.vocabulary
            and all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(),
                    expected.state_dict().values(), strict=True))
        )  # fmt: skip
        return [] if same else ["another model was loaded"]

    def training() -> list[str]:
        saved = load_training(root / "checkpoint.safetensors")
        newest = "checkpoint.safetensors" not in damaged
        if saved is None:
            return ["no checkpoint"]
        tensors, progress = saved
        update = progress["updates"]
        if not torch.equal(tensors["a"], torch.arange(2000.0) * update):
            return ["another training state was loaded"]
        return [] if update == (2 if newest else 1) else [f"the checkpoint of update {update}"]

    def result() -> list[str]:
        artifact = Artifact.open(root)
        return [] if artifact.result() == {"parameters": 7} else ["another result was read"]

    with contextlib.redirect_stdout(io.StringIO()):  # which says that a checkpoint was damaged
        for load in (model, training, result):
            found["wrong"] += _one_line_or(load)
    return found


def _one_line_or(load: Callable[[], list[str]]) -> list[str]:
    """What is wrong with what was loaded; nothing if it was refused in one clear line."""
    try:
        return load()
    except ValueError as error:
        return [f"not one line: {error!r}"] if "\n" in str(error) else []
