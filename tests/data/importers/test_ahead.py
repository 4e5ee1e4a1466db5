import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headstart.data.importers import ahead
from headstart.data.importers.ahead import read_ahead
from headstart.data.importers.base import Dropped, Source
from headstart.types import Channel, Clip, Episode

CHANNELS = (Channel("arm/state/x", "observation"), Channel("arm/action/dx", "action"))
WHERE = Path("demos.fake")
NUM = 23


def make_episode(number: int) -> Episode:
    rng = np.random.default_rng(number)
    steps = number % 4 + 1
    return Episode(
        task_id="arm/reach",
        instruction="reach “it”",
        obs=rng.standard_normal((steps, 1)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=np.full(steps, np.nan, np.float32),
        success=rng.random(steps) < 0.5,  # of odd length: what follows it must stay aligned
        final_obs=rng.standard_normal(1).astype(np.float32),
        terminated=number % 2 == 0,
        truncated=number % 2 == 1,
        seed=number,
        behavior="human",
        action_expert=rng.standard_normal((steps, 1)).astype(np.float32) if number % 3 else None,
        images={
            "top": rng.integers(0, 255, (steps, 3, 5, 3), np.uint8),
            "wrist": Clip(Path("wrist.mp4"), number / 10),
        },
    )


class FakeSource(Source):
    """Number 5 was dropped by the source, 7 is not finite; 11 does what ``at_eleven`` says."""

    seekable = True

    def at_eleven(self) -> None: ...

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        for number in range(start, NUM):
            if number == 11:
                self.at_eleven()
            episode = make_episode(number)
            if number == 7:
                episode.action[0] = np.inf
            self.note(f"something odd in {number // 4}")
            yield Dropped("it is broken") if number == 5 else episode


@pytest.fixture(params=[True, False], ids=["seekable", "in-order"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    monkeypatch.setattr(ahead, "BLOCK_EPISODES", 3)
    monkeypatch.setattr(ahead, "_MESSAGE_BYTES", 200)  # an episode or two
    monkeypatch.setattr(FakeSource, "seekable", request.param)
    return FakeSource("Fake", CHANNELS, 10.0, num_episodes=NUM)


@pytest.mark.parametrize("start", [0, 4, NUM])
def test_episodes_arrive_whole_and_in_order(source, start):
    found = list(read_ahead(source, start, WHERE))
    assert len(found) == NUM - start
    for number, item in enumerate(found, start):
        if number in (5, 7):
            reason = "it is broken" if number == 5 else "an action is not finite"
            assert item == Dropped(reason)
            continue
        expected = make_episode(number)
        assert isinstance(item, Episode)
        assert item.images["wrist"] == expected.images["wrist"]
        arrays = [(a.images["top"], a.obs, a.success, a.action_expert) for a in (item, expected)]
        for array, wanted in zip(*arrays, strict=True):
            np.testing.assert_array_equal(array, wanted, strict=True)
            assert array is None or array.flags.aligned
        plain = ("task_id", "instruction", "terminated", "truncated", "seed", "behavior")
        assert all(getattr(item, name) == getattr(expected, name) for name in plain)


def test_notes_are_taken_over_in_order(source):
    list(read_ahead(source, 0, WHERE))
    assert source.notes == [f"something odd in {i}" for i in range(6)]


def test_a_parser_that_crashes_is_a_damaged_source(source, monkeypatch):
    monkeypatch.setattr(FakeSource, "at_eleven", lambda _: os.kill(os.getpid(), signal.SIGSEGV))
    with pytest.raises(ValueError, match=r"^demos\.fake: damaged: the parser crashed \(signal 11"):
        list(read_ahead(source, 0, WHERE))


def test_an_error_of_the_source_keeps_its_words(source, monkeypatch):
    def fails(_: FakeSource) -> None:
        raise ValueError("demos.fake: episode 11: damaged")

    monkeypatch.setattr(FakeSource, "at_eleven", fails)
    with pytest.raises(ValueError, match=r"^demos\.fake: episode 11: damaged$"):
        list(read_ahead(source, 0, WHERE))


def test_no_process_outlives_its_reader(source, monkeypatch):
    pids: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: pids.append(pid := fork()) or pid)
    episodes = read_ahead(source, 0, WHERE)
    next(episodes)
    episodes.close()
    assert len(pids) == (2 if source.seekable else 1)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
