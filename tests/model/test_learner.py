import torch

import sequences
from headstart.data.loader import LoaderConfig
from headstart.model.learner import Learner, LearnerConfig, forward_flops

SHOWN = LoaderConfig(num_prompts=8, num_windows=4, told=0.3, shown=0.5, random_frames=0.5)


def test_next_token_loss_of_a_tiny_task_falls_by_half():
    loader = sequences.loader(SHOWN)
    learner = Learner(sequences.model(), LearnerConfig(warmup_updates=5), updates=150)
    losses = [learner.step([loader.batch(k)], k).action.item() for k in range(150)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_going_on_from_saved_tensors_is_the_straight_run():
    loader = sequences.loader(SHOWN)
    straight = Learner(sequences.model(), LearnerConfig(), updates=6)
    for update in range(3):
        straight.step([loader.batch(update)], update)
    saved = {name: tensor.clone() for name, tensor in straight.tensors().items()}
    resumed = Learner(sequences.model(seed=9), LearnerConfig(), updates=6)
    resumed.load_tensors(saved)
    for update in range(3, 6):
        straight.step([loader.batch(update)], update)
        resumed.step([loader.batch(update)], update)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


def test_forward_operations_of_a_batch_counted_by_hand():
    loader = sequences.loader(LoaderConfig(num_prompts=2, num_windows=4, told=0.0, shown=1.0))
    # T = 5 + 4 * 3 tokens of width 16 in 2 sequences; a layer has 12 * 16^2 weights, and there
    # are 2; attention 4 T D a token and layer; heads (3 + 7) * 33 * 16 on 12 tokens; embedding
    # 2 * 10 channels * 16 on all.
    tokens = 17
    per_sequence = tokens * (2 * 2 * 12 * 256 + 4 * tokens * 16 * 2)
    per_sequence += 2 * 10 * 33 * 16 * 12 + 2 * 20 * 16 * tokens
    assert forward_flops(sequences.model(), loader.batch(0)) == 2 * per_sequence
