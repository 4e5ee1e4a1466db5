"""Models and training states on disk, verified on load in every byte. No pickle.

::

    model.safetensors              a model's weights
    model.json                     what else makes the model, and both files' checksums
    checkpoint.safetensors         what training goes on from, and how far it has come
    checkpoint-before.safetensors  the same, one checkpoint earlier
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from headstart.artifact import read_json, replacing, result_if_any, write_bytes, write_json
from headstart.config import absent, from_json, to_json
from headstart.model.actor_critic import WIDTHS, ActorCritic
from headstart.model.channels import ChannelStatistics
from headstart.model.soft_actor_critic import SoftActorCritic
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.types import Task

FORMAT_VERSION = 1
SmallModel = ActorCritic | SoftActorCritic
SMALL_MODELS: dict[str, type[SmallModel]] = {
    "actor-critic": ActorCritic,
    "soft-actor-critic": SoftActorCritic,
}
"""Models of one task, no sequence models, by what model.json calls them."""


def save_model(root: Path, model: Transformer) -> None:
    """Write the weights, then model.json, which makes them count.

    A process that dies in between leaves weights that model.json's checksum refuses.
    """
    meta = {
        "config": asdict(model.config),
        "channels": [asdict(channel) for channel in model.channels],
        "vocabulary": list(model.vocabulary),
        "parameters": model.num_parameters(),
        "trained_on": sorted(model.trained_on),
    }
    _save(root, model, meta)


def _save(root: Path, model: nn.Module, about: dict[str, Any]) -> None:
    content = save({name: t.cpu().contiguous() for name, t in model.state_dict().items()})
    write_bytes(root / "model.safetensors", content)
    sha256 = hashlib.sha256(content).hexdigest()
    meta = {"format_version": FORMAT_VERSION, "sha256": sha256} | about
    write_json(root / "model.json", meta | {"own_sha256": _json_sha256(meta)})


def load_model(root: Path, device: str = "cpu") -> Transformer:
    """The model saved in ``root``.

    Raises:
        ValueError: no model there, of another version, or damaged.
    """
    path = root / "model.json"
    if is_small_policy(root):
        raise ValueError(
            f"{path}: a small policy of {_read_meta(path, SmallPolicyMeta).task}, which cannot be"
            " told, shown or trained further: name the model that it was learned from, or use"
            " headstart.load_policy"
        )
    meta = _read_meta(path, ModelMeta)
    tensors = read_tensors(root / "model.safetensors", meta.sha256)
    parts = (meta.config, meta.channels, meta.vocabulary)
    too_deep = meta.config.n_layer > len(tensors)  # it would take for ever to list the layers
    _check_shapes(root, tensors, nn.Module if too_deep else lambda: Transformer(*parts))
    model = build_transformer(*parts, seed=0)
    model.load_state_dict(tensors)
    model.trained_on = _trained_on(root) if meta.trained_on is None else frozenset(meta.trained_on)
    return model.to(device).eval()


def _check_shapes(root: Path, tensors: dict[str, Tensor], build: Callable[[], nn.Module]) -> None:
    """Refuse weights that are not of the module that model.json describes.

    It is built without memory: model.json could ask for any amount.
    """
    try:
        with torch.device("meta"):
            described = build().state_dict()
    except (RuntimeError, ArithmeticError, TypeError) as error:
        problem = str(error).partition("\n")[0]
        raise ValueError(f"{root / 'model.json'}: describes no model: {problem}") from None
    for name in sorted({*tensors, *described}):
        found, wanted = (tuple(t[name].shape) if name in t else None for t in (tensors, described))
        if found != wanted:
            raise ValueError(
                f"{root / 'model.safetensors'}: '{name}' has shape {found}, and model.json"
                f" describes {wanted}"
            )


def save_small_policy(root: Path, model: SmallModel, task: Task) -> None:
    """Write weights and normalisation, then model.json, as ``save_model``."""
    (kind,) = (name for name, of_kind in SMALL_MODELS.items() if isinstance(model, of_kind))
    about = {"kind": kind, "task": task.id, "sizes": model.sizes, "channels": _names(task)}
    _save(root, model, about)


def is_small_policy(root: Path) -> bool:
    """Whether ``save_small_policy`` wrote what is there."""
    path = root / "model.json"
    meta = read_json(path) if path.exists() else None
    return isinstance(meta, dict) and meta.get("kind") in [*SMALL_MODELS]


def load_small_policy(root: Path, task: Task) -> SmallModel:
    """What ``save_small_policy`` wrote in ``root``.

    Raises:
        ValueError: it is damaged, of another task, or of a body with other channels.
    """
    path = root / "model.json"
    meta = _read_meta(path, SmallPolicyMeta)
    if meta.task != task.id:
        raise ValueError(f"{path}: learned {meta.task} and can do that alone, not {task.id}")
    if list(meta.channels) != _names(task):
        raise ValueError(f"{path}: learned {meta.task} with other channels than it has here")
    num_obs, num_actions = len(task.obs_channels), len(task.action_channels)
    for name, (least, most) in {
        "obs_size": (num_obs, num_obs),
        "action_size": (num_actions, num_actions),
        "frame_stack": (1, 16),
        "hidden_size": WIDTHS,
    }.items():
        if not least <= meta.sizes.get(name, 0) <= most:
            raise ValueError(f"{path}: describes no model: {name} is not {least} to {most}")
    tensors = read_tensors(root / "model.safetensors", meta.sha256)

    def build() -> SmallModel:
        return SMALL_MODELS[meta.kind](**meta.sizes, generator=torch.Generator("cpu"))

    _check_shapes(root, tensors, build)
    model = build()
    model.load_state_dict(tensors)
    return model


def _names(task: Task) -> list[str]:
    return [channel.name for channel in (*task.obs_channels, *task.action_channels)]


@dataclass(frozen=True)
class ModelMeta:
    """What model.json holds."""

    format_version: int
    sha256: str
    """Of model.safetensors."""
    config: ModelConfig
    channels: tuple[ChannelStatistics, ...]
    vocabulary: tuple[str, ...]
    parameters: int
    own_sha256: str
    """Of the other values."""
    trained_on: tuple[str, ...] | None = absent(None, default=None)


@dataclass(frozen=True)
class SmallPolicyMeta:
    """What model.json holds of a small policy."""

    format_version: int
    sha256: str
    """Of model.safetensors."""
    kind: str
    task: str
    sizes: dict[str, int]
    """What the module is made with."""
    channels: tuple[str, ...]
    """Names of what it observes, then of what it does."""
    own_sha256: str
    """Of the other values."""


Meta = TypeVar("Meta", ModelMeta, SmallPolicyMeta)


def _trained_on(root: Path) -> frozenset[str]:
    """Of a model from before it told so itself: by its stage's result, if it has one."""
    result = result_if_any(root)
    return frozenset([*result.get("tasks", ()), *filter(None, [result.get("task")])])


def _read_meta(path: Path, kind: type[Meta]) -> Meta:
    if not path.exists():
        raise ValueError(f"{path}: no such file; there is no model in {path.parent}")
    values = read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}; {FORMAT_VERSION} can be read")
    try:
        meta = from_json(kind, values, where=str(path))
    except (ValueError, ArithmeticError) as error:  # the latter where heads are of no width
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    others = {name: value for name, value in values.items() if name != "own_sha256"}
    if _json_sha256(others) != meta.own_sha256:
        raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
    return meta


def _json_sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(to_json(values), sort_keys=True).encode()).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose checksum is known.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
    return _parse(path, content)


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """A module's state as named tensors."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Put back what ``module_tensors`` gave."""
    start = f"{prefix}."
    module.load_state_dict(
        {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            index, _, key = name.removeprefix(f"{prefix}.").partition(".")
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_training(path: Path, tensors: dict[str, Tensor], progress: Any) -> None:
    """Write all that training goes on from, and how far it has come, as one file.

    The checkpoint before this one is kept beside it, until ``remove_training``.

    Args:
        progress: a dataclass or JSON values.
    """
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"progress": json.dumps(to_json(progress)), "sha256": _UNKNOWN}
    content = save(contiguous, metadata)
    # The checksum is of the whole file as it is with zeros in the checksum's place.
    digest = hashlib.sha256(content).hexdigest()
    content = content.replace(_in_header(_UNKNOWN), _in_header(digest), 1)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if path.exists():
            os.replace(path, _before(path))


def load_training(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """What ``save_training`` wrote: tensors and the progress as JSON values; None if not there.

    If the newest checkpoint is damaged, it is replaced by the one before, which a printed line
    says.

    Raises:
        ValueError: the file is damaged, and there is no whole one before it.
    """
    before = _before(path)
    if not path.exists():
        return _read_training(before) if before.exists() else None
    try:
        return _read_training(path)
    except ValueError as error:
        if not before.exists():
            raise
        try:
            found = _read_training(before)
        except ValueError:
            raise ValueError(f"{error}; so is {before.name}; start again in a new folder") from None
        print(f"{error}; going on from the checkpoint before it", flush=True)
        os.replace(before, path)
        return found


def remove_training(path: Path) -> None:
    """Remove what ``save_training`` wrote, once training is over."""
    path.unlink(missing_ok=True)
    _before(path).unlink(missing_ok=True)


_UNKNOWN = "0" * 64


def _in_header(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _before(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-before")


def _read_training(path: Path) -> tuple[dict[str, Tensor], Any]:
    content = path.read_bytes()
    # A safetensors file: the header's length (8 bytes), the header (JSON), the tensors.
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    recorded = re.search(rb'"sha256":"([0-9a-f]{64})"', header)
    if recorded is None:
        raise ValueError(f"{path}: damaged: it has no checksum")
    digest = recorded[1].decode()
    blank = content.replace(_in_header(digest), _in_header(_UNKNOWN), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
    return _parse(path, content), json.loads(json.loads(header)["__metadata__"]["progress"])


def _parse(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
