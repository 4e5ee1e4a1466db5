import torch

from headstart.algorithms.replay import Replay


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_the_oldest_rows_go_first():
    replay = Replay(3, 1)
    replay.add(rows(1, 2))
    assert len(replay) == 2
    replay.add(rows(3, 4))
    assert (len(replay), sorted(replay.tensors()["rows"][:, 0].tolist())) == (3, [2, 3, 4])


def test_of_more_than_it_holds_the_last_are_kept_each_in_a_place_of_its_own():
    replay = Replay(3, 1)
    replay.add(rows(0))
    replay.add(rows(1, 2, 3, 4, 5, 6, 7))
    assert sorted(replay.tensors()["rows"][:, 0].tolist()) == [5, 6, 7]
    replay.add(rows(8))
    assert sorted(replay.tensors()["rows"][:, 0].tolist()) == [6, 7, 8]


def test_it_goes_on_from_its_tensors():
    replay, other = Replay(3, 1), Replay(3, 1)
    replay.add(rows(1, 2, 3, 4))
    other.load_tensors(replay.tensors())
    for r in (replay, other):
        r.add(rows(5))
    assert torch.equal(replay.tensors()["rows"], other.tensors()["rows"])
