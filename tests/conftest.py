"""Fixtures that more than one room's tests use."""

import signal
from types import ModuleType

import pytest

import tiny_suite
from headstart.suites import registry


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """What a shell runs in the background begins with Ctrl-C ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite of tests/tiny_suite.py, known to the registry as ``tiny``."""
    monkeypatch.setitem(registry.SUITES, "tiny", tiny_suite)
    return tiny_suite
