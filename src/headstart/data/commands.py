"""The verbs of ``headstart data``: call what does it, and print what it found.

Each takes its config and returns the exit code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from headstart.config import check_ranges, to_json
from headstart.data import summary, tools
from headstart.data.compact import compact as pack
from headstart.data.guard import guarded

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Src = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
Dst = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """A folder, and nothing to set."""

    root: Folder
    """A dataset."""

    def __post_init__(self) -> None:
        if self.root.is_file():
            raise ValueError(
                f"{self.root} is a file, and a dataset is a folder; to make one of another format:"
                f" headstart data import {self.root} NEW"
            )


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(FolderConfig):
    """What to verify."""

    root: Folder
    """A dataset, a model, another stage's folder, or a whole run."""


@dataclass(frozen=True, kw_only=True)
class InfoConfig(FolderConfig):
    """Settings of looking into a dataset."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings of importing. The format is detected."""

    src: Src
    """The dataset's folder or file."""
    dst: Dst
    """Folder to write to."""
    robot: str = ""
    """First part of the channels' names; by default what the source calls its robot."""
    control_hz: float = 0.0
    """Control rate, where the source does not say."""
    resume: bool = False
    """Go on with the import there."""

    def __post_init__(self) -> None:
        if self.control_hz and not (self.control_hz > 0 and math.isfinite(self.control_hz)):
            raise ValueError(
                f"--control-hz {self.control_hz:g}: it is how many steps a second has, above 0"
            )


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of exporting to Minari."""

    src: Src
    """A dataset."""
    dst: Dst
    """Folder to write to."""
    dataset_id: str = ""
    """Minari's name of it, namespace/name-v0; by default made of DST's."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Settings of viewing a dataset, of any format that can be imported."""

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Its folder or file."""
    port: int = 0
    """Port on this machine to serve at; 0 takes a free one."""
    out: Path | None = None
    """Write one file that needs nothing else, and serve nothing."""
    episodes: int = 24
    """Episodes that go into the file, chosen evenly."""

    def __post_init__(self) -> None:
        check_ranges(self, port=(0, 65535), episodes=(1, math.inf))
        if self.out is not None and self.out.is_dir():
            raise ValueError(f"{self.out} is a folder; name a file, e.g. {self.out / 'page.html'}")
        if self.out is not None and self.out.suffix != ".html":
            raise ValueError(f"{self.out}: what is written is a page; name it .html")


def info(config: InfoConfig) -> int:
    facts = summary.information(config.root)
    if config.json:
        print(json.dumps(to_json(facts), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        print("\n".join(summary.describe(facts)))
    return 0


def verify(config: VerifyConfig) -> int:
    found = {root: _problems(root) for root in _artifacts(config.root)}
    for root, problems in found.items():
        print("\n".join(problems or [f"{root}: no problem found"]))
    return 2 if any(found.values()) else 0


def repair(config: FolderConfig) -> int:
    root = config.root
    try:
        before = _problems(root)
    except ValueError:  # a repair that was interrupted, or nothing to repair, which it will say
        before = []
    repaired = guarded("headstart.data.verify:repair", {"root": root})
    print("\n".join(before or [f"{root}: no problem found"]))
    for dropped in repaired["dropped"]:
        print(f"moved to {root / '.dropped'}: {dropped}")
    print(f"{root}: {repaired['kept_episodes']:,} episodes kept")
    for problem in _problems(root):
        print(f"not repaired: {problem}")
    return 0


def _artifacts(root: Path) -> list[Path]:
    """The folder itself, or if it is a whole run's or a split's, the artifacts in it."""
    of_stages = {path.parent for path in root.glob("*/config.json")}
    recorded = {path.parent.parent for path in root.glob("*/meta/journal.jsonl")}
    below = sorted(of_stages | recorded)
    is_one = (root / "config.json").exists() or (root / "meta/journal.jsonl").exists()
    return [root] if is_one or not below else below


def _problems(root: Path) -> list[str]:
    """A line each."""
    problems = guarded("headstart.data.verify:verify", {"root": root})
    return [f"{problem['path']}: {problem['what']}" for problem in problems]


def merge(config: tools.MergeConfig) -> int:
    return _wrote(config.out, tools.merge(config))


def split(config: tools.SplitConfig) -> int:
    for name, result in tools.split(config).items():
        _wrote(config.out / name, result)
    return 0


def filter_episodes(config: tools.FilterConfig) -> int:
    return _wrote(config.out, tools.filter_episodes(config))


def compact(config: FolderConfig) -> int:
    packed = pack(config.root)
    (files, fewer), (before, after) = packed["files"], packed["bytes"]
    print(
        f"{config.root}: {files:,} files to {fewer:,},"
        f" {summary.size(before)} to {summary.size(after)}"
    )
    return 0


def import_dataset(config: ImportConfig) -> int:
    guarded("headstart.data.importers:import_dataset", to_json(config))  # which says what it did
    print(config.dst)
    return 0


def export(config: ExportConfig) -> int:
    from headstart.data.exporters.minari import export_minari

    result = export_minari(config.src, config.dst, config.dataset_id)
    print(f"{config.dst}: {result['episodes']:,} episodes, {result['steps']:,} steps")
    for note in result["notes"]:
        print(f"  {note}")
    return 0


def view(config: ViewConfig) -> int:
    from headstart.data import view as page

    if config.out is not None:
        shown, of = page.write_page(config.root, config.out, config.episodes)
        print(f"{config.out}: {shown:,} of {of:,} episodes")
    else:
        page.serve(config.root, config.port)
    return 0


def _wrote(out: Path, result: dict[str, Any]) -> int:
    print(f"{out}: {result['episodes']:,} episodes, {result['env_steps']:,} steps")
    return 0
