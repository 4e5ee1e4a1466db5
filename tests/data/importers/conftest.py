"""Datasets that the real libraries wrote, and what is in them."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FILES = Path(__file__).parents[1] / "files"


@pytest.fixture(scope="session")
def lerobot_content() -> ModuleType:
    """What files/make_lerobot.py put into the lerobot-* folders."""
    spec = importlib.util.spec_from_file_location("make_lerobot", FILES / "make_lerobot.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lerobot_copy(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the folders that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FILES / name, tmp_path / name))

    return copy


@pytest.fixture
def edit_info() -> Callable[..., None]:
    """Change meta/info.json; a value of None removes the key."""

    def edit(root: Path, **changes) -> None:
        path = root / "meta/info.json"
        info = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))

    return edit
