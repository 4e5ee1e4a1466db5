"""The verbs of ``headstart data``: call what does it, and print what it found.

Each takes its config and returns the exit code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from headstart.config import to_json
from headstart.data import summary, tools
from headstart.data.compact import compact as pack
from headstart.data.guard import guarded


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Settings of looking into a dataset."""

    root: tyro.conf.Positional[Path]
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """A folder, and nothing to set."""

    root: tyro.conf.Positional[Path]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings of importing. The format is detected."""

    src: tyro.conf.Positional[Path]
    """The dataset's folder or file."""
    dst: tyro.conf.Positional[Path]
    """Folder to write to."""
    robot: str = ""
    """First part of the channels' names; by default what the source calls its robot."""
    control_hz: float = 0.0
    """Control rate, where the source does not say."""
    resume: bool = False
    """Go on with the import there."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of exporting to Minari."""

    src: tyro.conf.Positional[Path]
    """A dataset."""
    dst: tyro.conf.Positional[Path]
    """Folder to write to."""
    dataset_id: str = ""
    """Minari's name of it, namespace/name-v0; by default made of DST's."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Settings of viewing a dataset, of any format that can be imported."""

    root: tyro.conf.Positional[Path]
    port: int = 0
    """Port on this machine to serve at; 0 takes a free one."""
    out: Path | None = None
    """Write one file that needs nothing else, and serve nothing."""
    episodes: int = 24
    """Episodes that go into the file, chosen evenly."""


def info(config: InfoConfig) -> int:
    facts = summary.information(config.root)
    if config.json:
        print(json.dumps(to_json(facts), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        print("\n".join(summary.describe(facts)))
    return 0


def verify(config: FolderConfig) -> int:
    problems = guarded("headstart.data.verify:verify", {"root": config.root})
    for problem in problems:
        print(f"{problem['path']}: {problem['what']}")
    if not problems:
        print(f"{config.root}: no problem found")
    return 2 if problems else 0


def repair(config: FolderConfig) -> int:
    repaired = guarded("headstart.data.verify:repair", {"root": config.root})
    for dropped in repaired["dropped"]:
        print(f"moved to {config.root / '.dropped'}: {dropped}")
    print(f"{config.root}: {repaired['kept_episodes']:,} episodes kept")
    return 0


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
