import numpy as np
import pytest

from headstart.model.channels import columns, measure
from headstart.types import Channel

OBS = (Channel("a", "observation", "m"), Channel("b", "observation"))
ACTIONS = (Channel("u", "action"),)


def test_statistics_leave_out_what_is_missing_and_changes_between_episodes():
    obs = np.array([[0.0, 5.0], [2.0, np.nan], [10.0, 5.0], [14.0, 5.0]], np.float32)
    action = np.array([[-1.0], [3.0], [1.0], [1.0]], np.float32)
    last = np.array([False, True, False, True])
    a, b, u = measure(OBS, ACTIONS, obs, action, last)
    assert (a.mean, a.deviation) == (6.5, pytest.approx(np.std([0, 2, 10, 14])))
    assert a.change_deviation == 1.0  # changes 2 and 4, deviation 1
    assert (b.mean, b.deviation) == (5.0, pytest.approx(0.02))  # the floor
    assert (u.mean, u.deviation) == (1.0, 2.0)  # the range -1 to 3 becomes -1 to 1


def test_a_channel_that_is_never_there_has_harmless_statistics():
    obs = np.array([[0.0, np.nan], [1.0, np.nan]], np.float32)
    _, b, _ = measure(OBS, ACTIONS, obs, np.zeros((2, 1), np.float32), np.array([False, True]))
    assert (b.mean, b.deviation, b.change_deviation) == (0.0, 1.0, 1.0)


def test_an_unknown_channel_is_named_with_the_nearest():
    obs = np.zeros((2, 2), np.float32)
    known = measure(OBS, ACTIONS, obs, np.zeros((2, 1), np.float32), np.array([False, True]))
    assert columns(known, ["u", "a"]) == [2, 0]
    with pytest.raises(ValueError, match="no channel 'bb'; did you mean b"):
        columns(known, ["bb"])
