"""Which episodes are demonstrations, and in which columns a task gets them."""

from dataclasses import replace

import numpy as np
import pytest

from headstart.data.demonstrations import Demonstrations, enough_demonstrations
from headstart.types import Camera, Channel, Episode, Task
from recordings import CHANNELS, TASK, make_episode, same, save

ELBOW, GRIP = Channel("elbow", "observation", "rad"), Channel("grip", "action")
SHUFFLED = replace(TASK, channels=(GRIP, ELBOW, *CHANNELS[::-1]))
"""Another body: columns elbow, goal/x, hand/y, hand/x; grip, hand/dx."""


def succeeded(seed: int, **changes) -> Episode:
    """Of suite/push where the seed is even, of suite/reach where it is odd."""
    episode = make_episode(seed)
    return replace(episode, success=np.ones_like(episode.success), **changes)


def shuffled(episode: Episode) -> Episode:
    """The same in the columns of SHUFFLED: an elbow that is 5, a grip that is 6."""

    def wide(values: np.ndarray, first: float) -> np.ndarray:
        return np.insert(values[..., ::-1], 0, first, axis=-1).astype(np.float32)

    label = episode.action_expert
    return replace(
        episode,
        obs=wide(episode.obs, 5.0),
        final_obs=wide(episode.final_obs, 5.0),
        action=wide(episode.action, 6.0),
        action_expert=None if label is None else wide(label, 6.0),
    )


def test_demonstrations_are_unperturbed_successes_the_lowest_seeds_first(tmp_path):
    failed = replace(make_episode(1), success=np.zeros(3, bool))
    perturbed = succeeded(3, behavior="perturbed-expert")
    late, early, middle = succeeded(9), succeeded(5), succeeded(7)
    save(tmp_path, [failed, perturbed, late, early, middle, succeeded(2)])
    known = Demonstrations(tmp_path, most=2)
    assert same(known.of(TASK), [early, middle])
    assert {name: len(some) for name, some in known.of_others(TASK).items()} == {"suite/push": 1}
    assert known.tasks == ["suite/push", "suite/reach"]


def test_demonstrations_come_without_the_pictures_of_their_cameras(tmp_path):
    camera = Camera("wrist", height=16, width=16)
    task = replace(TASK, cameras=(camera,))
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    save(tmp_path, [succeeded(1, images={"wrist": pictures})], schema=task)
    (shown,) = Demonstrations(tmp_path, most=1).of(task)
    assert not shown.images


def test_without_a_dataset_there_is_no_demonstration():
    known = Demonstrations(None, most=2)
    assert (known.of(TASK), known.of_others(TASK), known.tasks) == ([], {}, [])


@pytest.mark.parametrize("labelled", [True, False])
def test_columns_are_found_by_name_whatever_their_order_and_whatever_else_there_is(
    tmp_path, labelled
):
    own = succeeded(1) if labelled else succeeded(1, action_expert=None)
    save(tmp_path, [shuffled(own), shuffled(succeeded(2))], schema=SHUFFLED)
    assert same(Demonstrations(tmp_path, 1).of(TASK), [own])
    assert same(Demonstrations(tmp_path, 1).of_others(TASK)["suite/push"], [succeeded(2)])
    assert same(enough_demonstrations(tmp_path, [TASK], 1)[TASK.id], [own])


def test_each_task_has_its_own_columns(tmp_path):
    save(tmp_path, [succeeded(1), succeeded(2)])
    push = replace(TASK, name="push", channels=(CHANNELS[2], CHANNELS[0], CHANNELS[3]))
    found = enough_demonstrations(tmp_path, [TASK, push], 1)
    np.testing.assert_array_equal(found[TASK.id][0].obs, succeeded(1).obs)
    np.testing.assert_array_equal(found[push.id][0].obs, succeeded(2).obs[:, [2, 0]])
    np.testing.assert_array_equal(found[push.id][0].final_obs, succeeded(2).final_obs[[2, 0]])


def test_an_observation_channel_that_the_dataset_does_not_have_is_missing(tmp_path):
    save(tmp_path, [succeeded(1)])
    (episode,) = Demonstrations(tmp_path, 1).of(replace(TASK, channels=(ELBOW, *CHANNELS)))
    assert np.isnan(episode.obs[:, 0]).all() and np.isnan(episode.final_obs[0])
    np.testing.assert_array_equal(episode.obs[:, 1:], succeeded(1).obs)


def test_an_action_channel_that_a_demonstration_does_not_have_is_refused(tmp_path):
    save(tmp_path / "a", [succeeded(1)])
    gripping = replace(TASK, channels=(*CHANNELS, GRIP))
    for call in (
        lambda: Demonstrations(tmp_path / "a", 1).of(gripping),
        lambda: enough_demonstrations(tmp_path / "a", [gripping], 1),
    ):
        with pytest.raises(ValueError, match=r"a: a .* of suite/reach has no action channel 'grip"):
            call()
    # in a merged dataset the channel is there, and in this episode it is missing
    merged = shuffled(succeeded(1))
    merged.action[:, 0] = np.nan
    save(tmp_path / "b", [merged], schema=SHUFFLED)
    with pytest.raises(ValueError, match=r"b: a .* of suite/reach has no action channel 'grip'$"):
        Demonstrations(tmp_path / "b", 1).of(gripping)


def test_of_other_tasks_those_of_a_body_that_cannot_act_alike_are_left_out(tmp_path):
    turning = shuffled(succeeded(2, task_id="lab/turn"))
    turning.action[:, 1] = np.nan
    save(tmp_path, [turning, shuffled(succeeded(4))], schema=SHUFFLED)
    known = Demonstrations(tmp_path, 1)
    assert list(known.of_others(TASK)) == ["suite/push"]
    gripping = Task("suite", "grip", "", (ELBOW, GRIP), 10, 10.0)
    assert list(known.of_others(gripping)) == ["lab/turn", "suite/push"]


def test_a_channel_that_is_something_else_in_the_dataset_is_refused(tmp_path):
    save(tmp_path, [succeeded(1)])
    inches = Channel("hand/x", "observation", "in")
    with pytest.raises(ValueError, match=r"'hand/x' is observation \[m\], in suite/reach it is "):
        Demonstrations(tmp_path, 1).of(replace(TASK, channels=(inches, *CHANNELS[1:])))


def test_too_few_are_told_with_what_there_is(tmp_path):
    save(tmp_path, [succeeded(2)])
    with pytest.raises(ValueError, match=r"0 .* suite/reach .* 1 needed; .* some of suite/push$"):
        enough_demonstrations(tmp_path, [TASK], 1)
