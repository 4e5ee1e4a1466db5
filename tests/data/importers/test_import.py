import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from headstart.artifact import Artifact
from headstart.data import importers
from headstart.data.importers import import_dataset
from headstart.data.importers.base import Dropped, Source, feature_channels, slug
from headstart.data.store import Dataset
from headstart.data.verify import verify
from headstart.ledger import read_bill
from headstart.types import Camera, Channel, Episode

CHANNELS = (Channel("arm/state/x", "observation"), Channel("arm/action/dx", "action"))


def make_episode(number: int, steps: int) -> Episode:
    rng = np.random.default_rng(number)
    return Episode(
        task_id="arm/reach",
        instruction="reach",
        obs=rng.standard_normal((steps, 1)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=np.full(steps, np.nan, np.float32),
        success=np.zeros(steps, bool),
        final_obs=np.full(1, np.nan, np.float32),
        terminated=False,
        truncated=True,
        seed=-1,
        behavior="unknown",
    )


class FakeSource(Source):
    """Ten episodes: number 3 was dropped by the source, 5 is not finite, 7 has no steps."""

    stop_at = 99

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        for number in range(start, 10):
            if number == self.stop_at:
                os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does in every process
            episode = make_episode(number, 0 if number == 7 else number + 1)
            if number == 5:
                episode.action[2] = np.inf
            if number == 6:
                self.note("something odd")
            yield Dropped("it is broken") if number == 3 else episode


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    """What is opened in the format of files that end in .fake, of which there is one."""
    found = FakeSource("Fake v1", CHANNELS, 12.5, num_episodes=10)

    def open_source(path: Path, robot: str) -> FakeSource:
        found.notes = ["as it is opened"]
        return found

    module = ModuleType("fake")
    module.__dict__.update(matches=lambda path: path.suffix == ".fake", open_source=open_source)
    monkeypatch.setitem(sys.modules, "headstart.data.importers.fake", module)
    monkeypatch.setattr(importers, "FORMATS", {"fake": "Fake (a file .fake)"})
    monkeypatch.setattr(importers, "BATCH_BYTES", 60)  # of 12 a step: 2 or 3 episodes
    (tmp_path / "a.fake").touch()
    return found


def content(root: Path) -> dict[str, bytes]:
    files = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(files)}


def test_every_episode_is_stored_or_dropped_for_a_reason(source, tmp_path, capsys):
    result = import_dataset(tmp_path / "a.fake", tmp_path / "out")
    assert result == {
        "format": "Fake v1",
        "episodes": 7,
        "steps": 1 + 2 + 3 + 5 + 7 + 9 + 10,
        "source_episodes": 10,
        "dropped": {"an action is not finite": 1, "it is broken": 1, "no steps": 1},
        "cameras": [],
        "notes": ["as it is opened", "something odd"],
    }
    assert capsys.readouterr().out.splitlines() == [
        "Fake v1: 10 episodes = 7 stored (37 steps) + 1 dropped: an action is not finite;"
        " 1 dropped: it is broken; 1 dropped: no steps",
        "note: as it is opened",
        "note: something odd",
    ]
    dataset = Dataset(tmp_path / "out")
    assert (dataset.channels, dataset.control_hz, dataset.num_steps) == (CHANNELS, 12.5, 37)
    kept = [make_episode(n, n + 1) for n in (0, 1, 2, 4, 6, 8, 9)]
    for found, saved in zip(dataset.episodes(), kept, strict=True):
        assert found.obs.tobytes() == saved.obs.tobytes()
        assert found.action.tobytes() == saved.action.tobytes()
        assert np.isnan(found.reward).all() and np.isnan(found.final_obs).all()


def test_the_result_is_an_artifact_of_unknown_cost(source, tmp_path):
    import_dataset(tmp_path / "a.fake", tmp_path / "out")
    artifact = Artifact.open(tmp_path / "out")
    assert (artifact.stage, artifact.is_complete) == ("import", True)
    cost = read_bill(tmp_path / "out").cost
    assert (cost.demonstrations, cost.env_steps, cost.core_s) == (7, None, None)
    assert "7 stored" in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/.import.json").exists()
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("stop_at", [0, 3, 5, 9])
def test_a_stopped_import_goes_on_to_the_same_bytes(stop_at, source, tmp_path):
    import_dataset(tmp_path / "a.fake", tmp_path / "whole/out")
    source.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")
    if stop_at < 9:
        source.stop_at = stop_at + 1
        with pytest.raises(KeyboardInterrupt):
            import_dataset(tmp_path / "a.fake", tmp_path / "out", resume=True)
    source.stop_at = 99
    import_dataset(tmp_path / "a.fake", tmp_path / "out", resume=True)
    expected, found = content(tmp_path / "whole/out"), content(tmp_path / "out")
    assert found == expected


@pytest.mark.parametrize("batch", [0, 2])
def test_a_batch_saved_just_before_the_end_is_not_saved_twice(batch, source, tmp_path, monkeypatch):
    import_dataset(tmp_path / "a.fake", tmp_path / "whole/out")
    write_json, calls = importers.write_json, []

    def dies(path, value):
        calls.append(path)
        if len(calls) == batch + 1:
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(importers, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")
    result = import_dataset(tmp_path / "a.fake", tmp_path / "out", resume=True)
    assert result["episodes"] == 7
    assert content(tmp_path / "out") == content(tmp_path / "whole/out")


def test_a_finished_import_is_not_done_again(source, tmp_path):
    first = import_dataset(tmp_path / "a.fake", tmp_path / "out")
    source.stop_at = 0
    assert import_dataset(tmp_path / "a.fake", tmp_path / "out", resume=True) == first
    with pytest.raises(ValueError, match="already holds a run"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run; choose another folder"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")
    assert content(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_resuming_with_another_source_is_refused(source, tmp_path):
    (tmp_path / "b.fake").touch()
    import_dataset(tmp_path / "a.fake", tmp_path / "out")
    with pytest.raises(ValueError, match="another config"):
        import_dataset(tmp_path / "b.fake", tmp_path / "out", resume=True)


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError) as error:
        import_dataset(tmp_path, tmp_path / "out")
    message = str(error.value)
    for name in ("LeRobot", "Minari", "robomimic", "OGBench"):
        assert name in message
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        import_dataset(tmp_path / "nowhere", tmp_path / "out")


def test_a_rate_is_needed_and_may_be_given(source, tmp_path):
    source.control_hz = 0.0
    with pytest.raises(ValueError, match="how many steps a second"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")
    import_dataset(tmp_path / "a.fake", tmp_path / "out", control_hz=25.0)
    assert Dataset(tmp_path / "out").control_hz == 25.0


def test_pictures_keep_their_rate(source, tmp_path):
    source.cameras = (Camera("top", 4, 4),)
    with pytest.raises(ValueError, match=r"12\.5 a second, so control_hz cannot be 25"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out", control_hz=25.0)


def test_a_source_of_which_nothing_can_be_kept_is_an_error(source, tmp_path, monkeypatch):
    source.num_episodes = 0
    with pytest.raises(ValueError, match="a Fake v1 dataset without episodes"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")
    source.num_episodes = 2
    monkeypatch.setattr(source, "episodes", lambda start=0: iter([Dropped("odd")] * (2 - start)))
    with pytest.raises(ValueError, match="no episode can be kept: 2 dropped: odd"):
        import_dataset(tmp_path / "a.fake", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pick up the cube!", "pick-up-the-cube"),
        ("  SO-101 ", "so-101"),
        ("open_the__drawer", "open-the-drawer"),
        ("拿起 杯子", "拿起-杯子"),
        ("...", ""),
    ],
)
def test_slugs_are_lower_case_words(text, expected):
    assert slug(text) == expected


def test_long_texts_keep_apart():
    assert slug("a " * 100) != slug("a " * 101)
    assert len(slug("a " * 1000)) < 100


def test_unnamed_dimensions_are_numbered():
    def names(shape, given=None):
        return [c.name for c in feature_channels("r", "observation.x", shape, "observation", given)]

    assert names((1,)) == ["r/x/0"]
    assert names(()) == ["r/x/0"]
    assert names((2,), ["only one"]) == ["r/x/0", "r/x/1"]
    assert names((2, 2)) == ["r/x/0/0", "r/x/0/1", "r/x/1/0", "r/x/1/1"]
