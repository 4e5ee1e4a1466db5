"""Fixtures that more than one room's tests use."""

from types import ModuleType

import pytest

import tiny_suite
from headstart.suites import registry


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite of tests/tiny_suite.py, known to the registry as ``tiny``."""
    monkeypatch.setitem(registry.SUITES, "tiny", tiny_suite)
    return tiny_suite
