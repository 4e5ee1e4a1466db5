"""Headstart: pre-train one sequence model on robot data, and read what each point of skill cost.

The names below are the whole Python API. They load their modules when first used, so that
``import headstart`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.data.importers import import_dataset
    from headstart.data.store import Dataset, DatasetWriter
    from headstart.model.policy import Policy, Prompt, load_policy
    from headstart.recipes import run
    from headstart.stages.collect import collect
    from headstart.stages.evaluate import evaluate
    from headstart.stages.finetune import finetune
    from headstart.stages.pretrain import pretrain
    from headstart.stages.reinforce import reinforce
    from headstart.stages.report import report
    from headstart.stages.score import score
    from headstart.suites.registry import get_task

_WHERE = {
    "run": "headstart.recipes",
    "collect": "headstart.stages.collect",
    "pretrain": "headstart.stages.pretrain",
    "evaluate": "headstart.stages.evaluate",
    "finetune": "headstart.stages.finetune",
    "reinforce": "headstart.stages.reinforce",
    "report": "headstart.stages.report",
    "score": "headstart.stages.score",
    "import_dataset": "headstart.data.importers",
    "load_policy": "headstart.model.policy",
    "Policy": "headstart.model.policy",
    "Prompt": "headstart.model.policy",
    "Dataset": "headstart.data.store",
    "DatasetWriter": "headstart.data.store",
    "get_task": "headstart.suites.registry",
}

__all__ = [
    "Dataset",
    "DatasetWriter",
    "Policy",
    "Prompt",
    "collect",
    "evaluate",
    "finetune",
    "get_task",
    "import_dataset",
    "load_policy",
    "pretrain",
    "reinforce",
    "report",
    "run",
    "score",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'headstart' has no attribute '{name}'")
