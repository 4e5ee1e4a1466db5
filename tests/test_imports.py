"""Data flows one way, so imports do."""

import ast
from pathlib import Path

import headstart

ROOT = Path(headstart.__file__).parent
LEVEL = {
    "types": 0, "config": 0, "artifact": 0, "tracking": 0, "ledger": 0, "stats": 0, "seeds": 0,
    "energy": 0, "prices": 0, "task_sets": 0, "page": 0, "interrupt": 0,
    "suites": 1, "behaviors": 1, "data": 1, "objectives": 1, "arms": 1,
    "model": 2, "rollout": 3, "algorithms": 4, "report_page": 5, "stages": 5, "recipes": 6,
    "cli": 7,
}  # fmt: skip
NUMPY_ONLY = ("suites", "behaviors", "data", "types", "config", "artifact", "energy", "ledger",
              "stats", "prices", "task_sets", "arms", "tracking", "seeds", "page",
              "interrupt")  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules that a file imports, when it is imported or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def files() -> list[tuple[str, Path]]:
    paths = [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]
    return [(path.relative_to(ROOT).with_suffix("").parts[0], path) for path in paths]


def test_no_room_imports_from_a_later_one():
    for name, path in files():
        for module in imports(path):
            if module.startswith("headstart.") and room(module) in LEVEL:
                assert LEVEL[room(module)] <= LEVEL[name], f"{path} imports {module}"


def test_no_stage_imports_a_stage():
    for name, path in files():
        if name == "stages":
            assert not [m for m in imports(path) if m.startswith("headstart.stages")], path


def test_rooms_before_the_model_never_import_torch():
    for name, path in files():
        if name in NUMPY_ONLY:
            assert not [m for m in imports(path) if m.split(".")[0] == "torch"], path


def test_nothing_imports_pickle_or_uses_a_global_generator():
    for _, path in files():
        assert not [m for m in imports(path) if m.split(".")[0] in ("pickle", "dill", "joblib")]
        assert "np.random.seed" not in path.read_text(), path


def test_files_stay_small():
    for _, path in files():
        assert len(path.read_text().splitlines()) <= 500, path
