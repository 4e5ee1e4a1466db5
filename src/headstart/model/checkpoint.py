"""A model on disk: model.safetensors and model.json, verified on load. No pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from headstart.artifact import read_json, write_bytes, write_json
from headstart.config import from_json, to_json
from headstart.model.channels import ChannelStatistics
from headstart.model.transformer import ModelConfig, Transformer

FORMAT_VERSION = 1


def save_model(root: Path, model: Transformer) -> None:
    """Write the weights, then model.json, which makes them count.

    A process that dies in between leaves weights that model.json's checksum refuses.
    """
    content = save({name: t.cpu().contiguous() for name, t in model.state_dict().items()})
    write_bytes(root / "model.safetensors", content)
    write_json(
        root / "model.json",
        {
            "format_version": FORMAT_VERSION,
            "sha256": hashlib.sha256(content).hexdigest(),
            "config": asdict(model.config),
            "channels": [asdict(channel) for channel in model.channels],
            "vocabulary": list(model.vocabulary),
            "parameters": model.num_parameters(),
        },
    )


def load_model(root: Path, device: str = "cpu") -> Transformer:
    """The model saved in ``root``.

    Raises:
        ValueError: no model there, of another version, or damaged.
    """
    meta = read_json(root / "model.json")
    missing = {"format_version", "sha256", "config", "channels", "vocabulary"} - set(meta)
    if missing:
        raise ValueError(f"{root / 'model.json'}: lacks {', '.join(sorted(missing))}")
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{root / 'model.json'}: format version {meta.get('format_version')};"
            f" {FORMAT_VERSION} can be read"
        )
    tensors = read_tensors(root / "model.safetensors", meta["sha256"])
    channels = [from_json(ChannelStatistics, channel) for channel in meta["channels"]]
    model = Transformer(from_json(ModelConfig, meta["config"]), channels, meta["vocabulary"])
    model.load_state_dict(tensors)
    return model.to(device).eval()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose checksum is known.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


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

    Args:
        progress: a dataclass or JSON values.
    """
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(contiguous)
    metadata = {"progress": json.dumps(to_json(progress)), "sha256": digest}
    write_bytes(path, save(contiguous, metadata))


def load_training(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """What ``save_training`` wrote: tensors and the progress as JSON values; None if not there.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    if _digest(tensors) != metadata["sha256"]:
        raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
    return tensors, json.loads(metadata["progress"])


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
