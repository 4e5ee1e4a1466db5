"""Data, demonstrations and a pre-trained model of the smallest size that the stages take."""

from collections.abc import Callable
from pathlib import Path

from headstart.data.loader import LoaderConfig
from headstart.model.transformer import ModelConfig
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.pretrain import PretrainConfig, pretrain

SEEN, HELD_OUT = "metaworld/reach", "metaworld/handle-press"
SIZE = ModelConfig(n_layer=1, n_head=2, n_embd=16, demonstration_steps=8)
LOADER = LoaderConfig(num_prompts=2, num_windows=2)


def write(root: Path) -> Path:
    """``data``, ``demonstrations`` and ``model`` under ``root``."""
    collect(CollectConfig(split=SEEN, env_steps=600, num_envs=2), root / "data")
    shown = CollectConfig(split=HELD_OUT, purpose="prompt", env_steps=0, perturbed=0.0, num_envs=2)
    collect(shown, root / "demonstrations")
    settings = PretrainConfig(
        data=root / "data", updates=2, model=SIZE, loader=LOADER, tracker="none"
    )
    pretrain(settings, root / "model")
    return root


def failing_after(
    step: Callable, calls: int, error: type[BaseException] = RuntimeError
) -> Callable:
    """A function or method that does as ``step`` so many times, and from then on raises."""
    left = iter(range(calls))

    def failing(*args: object) -> object:
        if next(left, None) is None:
            raise error("the simulator died")
        return step(*args)

    return failing
