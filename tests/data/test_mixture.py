from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.data.mixture import Source, check_channels, in_columns, resolve_shares, union
from headstart.types import Channel, Episode, Task

X = Channel("hand/x", "observation", "m")
Y = Channel("hand/y", "observation", "m")
Z = Channel("hand/z", "observation", "m")


@pytest.mark.parametrize(
    ("text", "path", "share"),
    [
        ("my/data", "my/data", None),
        ("my/data=0.3", "my/data", 0.3),
        ("runs/seed=a", "runs/seed=a", None),
        ("runs/seed=1=0.5", "runs/seed=1", 0.5),
        ("=2", "=2", None),
    ],
)
def test_a_number_after_the_last_equals_sign_is_a_share(text, path, share):
    assert Source.parse(text) == Source(Path(path), share)


@pytest.mark.parametrize("share", ["0", "-0.1", "1.5", "nan", "inf"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Source.parse(f"my/data={share}")


def test_a_share_in_per_cent_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"^my/data=30%: a share is a part of 1: my/data=0\.3$"):
        Source.parse("my/data=30%")


def shares(*given: float | None) -> tuple[float, ...] | None:
    sources = [Source(Path(f"d{k}"), share) for k, share in enumerate(given)]
    return resolve_shares(sources, [1, 2, 3][: len(given)])


def test_sets_without_a_share_split_the_rest_by_their_tasks():
    assert shares(None, None, None) is None
    assert shares(0.5, None, None) == (0.5, pytest.approx(0.2), pytest.approx(0.3))
    assert shares(0.7, 0.2, 0.1) == (0.7, 0.2, 0.1)
    assert shares(1.0) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.7, 0.4), "sum to 1.1; they are parts of 1"),
        ((0.6, None, 0.4), "leave nothing for d1; give it a share"),
        ((0.3, 0.3), "sum to 0.6, not to 1"),
        ((0.3,), "sum to 0.3, not to 1"),
    ],
)
def test_shares_that_are_none_of_the_whole_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        shares(*given)


def test_channels_of_several_bodies_stand_in_order_of_first_appearance():
    assert union([(X, Y), (Z, X)]) == (X, Y, Z)


def body(*channels: Channel) -> Task:
    return Task("t", "a", "", channels, 10, 10.0)


def test_an_episode_goes_into_other_columns_by_name():
    dx, dy = Channel("hand/dx", "action", "cm"), Channel("hand/dy", "action", "cm")
    numbers = np.arange(4, dtype=np.float32).reshape(2, 2)  # two steps of two channels
    known = np.ones(2, np.float32)
    episode = Episode(
        "t/a", "", numbers, 10 + numbers, known, known > 0, 20 + known, True, False, 0, "expert",
        action_expert=30 + numbers,
    )  # fmt: skip
    own, nan = body(X, Y, dx, dy), np.nan
    assert in_columns(episode, own, body(X, Y, dx, dy)) is episode
    found = in_columns(replace(episode, final_obs=numbers[1]), own, body(dy, Y, Z, X))
    np.testing.assert_array_equal(found.obs, np.float32([[1, nan, 0], [3, nan, 2]]))
    np.testing.assert_array_equal(found.final_obs, np.float32([3, nan, 2]))
    np.testing.assert_array_equal(found.action, np.float32([[11], [13]]))
    np.testing.assert_array_equal(found.label, np.float32([[31], [33]]))
    assert found.obs.dtype == found.label.dtype == np.float32
    assert in_columns(replace(episode, action_expert=None), own, body(X)).action_expert is None


def test_one_name_must_mean_one_thing():
    check_channels([(Path("a"), (X, Y)), (Path("b"), (Z, X))])
    with pytest.raises(ValueError, match=r"b: channel 'hand/x' is observation \[cm\], in a it is"):
        check_channels([(Path("a"), (X,)), (Path("b"), (Channel(X.name, X.role, "cm"),))])
    with pytest.raises(ValueError, match=r"channel 'hand/x' is action \[m\]"):
        check_channels([(Path("a"), (X,)), (Path("b"), (Channel(X.name, "action", "m"),))])
