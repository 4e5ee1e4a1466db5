import numpy as np
import pytest

import sequences
from headstart.data.trajectories import Trajectories
from headstart.model.channels import columns, measure
from headstart.types import Channel, Episode

OBS = (Channel("a", "observation", "m"), Channel("b", "observation"))
ACTIONS = (Channel("u", "action"),)


def data(obs: list, action: list, lengths: tuple[int, ...], channels=OBS) -> Trajectories:
    """Rows cut into episodes of these lengths."""
    ends = np.cumsum(lengths)
    episodes = []
    for start, end in zip(ends - lengths, ends, strict=True):
        o, a = (np.array(x, np.float32)[start:end] for x in (obs, action))
        zeros = np.zeros(len(o), np.float32)
        episodes.append(
            Episode("t/x", "go", o, a, zeros, zeros > 0, o[-1], False, True, 0, "expert")
        )
    return Trajectories.from_episodes(episodes, channels, ACTIONS)


def test_statistics_leave_out_what_is_missing_and_changes_between_episodes():
    obs = [[0.0, 5.0], [2.0, np.nan], [10.0, 5.0], [14.0, 5.0]]
    a, b, u = measure([data(obs, [[-1.0], [3.0], [1.0], [1.0]], (2, 2))])
    assert (a.mean, a.deviation) == (6.5, pytest.approx(np.std([0, 2, 10, 14])))
    assert a.change_deviation == 1.0  # changes 2 and 4, deviation 1
    assert (b.mean, b.deviation) == (5.0, pytest.approx(0.02))  # the floor
    assert (u.mean, u.deviation) == (1.0, 2.0)  # the range -1 to 3 becomes -1 to 1


def test_a_channel_that_is_never_there_has_harmless_statistics():
    _, b, u = measure([data([[0.0, np.nan], [1.0, np.nan]], [[np.nan]] * 2, (2,))])
    assert (b.mean, b.deviation, b.change_deviation) == (0.0, 1.0, 1.0)
    assert (u.mean, u.deviation) == (0.0, 1.0)


def test_statistics_of_several_sets_are_those_of_all_their_steps():
    first = data([[0.0, 5.0], [2.0, 5.0]], [[-1.0], [0.0]], (2,))
    second = data([[10.0], [14.0]], [[3.0], [1.0]], (2,), channels=OBS[:1])
    a, b, u = measure([first, second])
    assert [c.name for c in (a, b, u)] == ["a", "b", "u"]
    assert (a.mean, a.deviation) == (6.5, pytest.approx(np.std([0, 2, 10, 14])))
    assert a.change_deviation == pytest.approx(1.0)
    assert (b.mean, u.mean, u.deviation) == (5.0, 1.0, 2.0)


def test_statistics_gathered_in_chunks_are_those_of_the_whole(monkeypatch):
    whole = measure([sequences.trajectories()])
    chunks = Trajectories.chunks
    monkeypatch.setattr(Trajectories, "chunks", lambda self: chunks(self, 9))
    for a, b in zip(whole, measure([sequences.trajectories()]), strict=True):
        assert a.mean == pytest.approx(b.mean, abs=1e-6)
        assert a.deviation == pytest.approx(b.deviation, rel=1e-5)
        assert a.change_deviation == pytest.approx(b.change_deviation, rel=1e-5)


def test_an_unknown_channel_is_named_with_the_nearest():
    known = measure([data([[0.0, 0.0]] * 2, [[0.0]] * 2, (2,))])
    assert columns(known, [ACTIONS[0], OBS[0]]) == [2, 0]
    with pytest.raises(ValueError, match="no channel 'bb'; did you mean b"):
        columns(known, [Channel("bb", "observation")])


def test_a_channel_known_as_something_else_is_refused():
    known = measure([data([[0.0, 0.0]] * 2, [[0.0]] * 2, (2,))])
    with pytest.raises(ValueError, match=r"'a' is observation \[mm\], .* as observation \[m\]"):
        columns(known, [Channel("a", "observation", "mm")])
    with pytest.raises(ValueError, match=r"'u' is goal \[\], the model knows it as action"):
        columns(known, [Channel("u", "goal")])
