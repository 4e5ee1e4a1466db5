"""Configuration: one frozen dataclass per stage, written to JSON and read back with checks."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

C = TypeVar("C")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A tail for an error message: the nearest of the known names."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {listed(known)}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, the first of them where they are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def free(default: Any) -> Any:
    """A field that may differ between a run and its resumption, e.g. a device or a tracker.

    Example: ``tracker: str = free("tensorboard")``.
    """
    return field(default=default, metadata={"free": True})


def absent(value: Any, default: Any) -> Any:
    """A field that JSON written before there was such a field is read with, e.g. as unknown.

    Example: ``energy_j: float | None = absent(None, default=0.0)``.
    """
    return field(default=default, metadata={"absent": value})


def check_ranges(config: Any, **ranges: tuple[float, float]) -> None:
    """Refuse numbers that make no sense, in a config's ``__post_init__``.

    Example: ``check_ranges(self, updates=(1, math.inf), told=(0, 1))``. Both ends are allowed,
    infinity and NaN never are.

    Raises:
        ValueError: a field is out of its range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not (low <= value <= high and math.isfinite(value)):
            right = f"at least {low}" if high == math.inf else f"{low} to {high}"
            right = right if math.isfinite(low) else "a finite number"
            raise ValueError(f"{name} is {value}; use {right}")


def to_json(config: Any) -> Any:
    """The config as JSON values: dataclasses to dicts, tuples to lists, paths to strings.

    NumPy numbers and arrays become numbers and lists. JSON has no infinity and no NaN; they
    become the strings "Infinity", "-Infinity" and "NaN", as in protocol buffers' JSON mapping.
    """
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, dict):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_json(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, (np.generic, np.ndarray)):
        return to_json(config.tolist())
    if isinstance(config, float) and not math.isfinite(config):
        return "NaN" if math.isnan(config) else "Infinity" if config > 0 else "-Infinity"
    return config


def from_json(cls: type[C], values: dict[str, Any], where: str = "") -> C:
    """The dataclass ``cls`` from what ``to_json`` gave.

    Args:
        where: what the values are of, for messages; the class's name by default.

    Raises:
        ValueError: an unknown key (with the nearest known ones), a missing one or a wrong type.
    """
    where = where or cls.__name__
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object, got {_short(values)}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown key '{key}'{did_you_mean(key, list(known))}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: '{name}' is missing")
    older = {n: f.metadata["absent"] for n, f in known.items() if "absent" in f.metadata}
    read = {k: _read(hints[k], v, f"{where}.{k}") for k, v in values.items()}
    return cls(**older | read)


def differences(before: Any, now: Any) -> list[str]:
    """Lines such as ``optimizer.lr: 0.1 -> 0.2``, one per field that differs.

    Args:
        before, now: configs or what ``to_json`` gives; fields made with ``free`` are left out.
    """
    old, new = _flatten(to_json(before)), _flatten(to_json(now))
    skipped = _free_names(before) | _free_names(now)
    names = [
        name
        for name in dict.fromkeys([*old, *new])
        if not any(name == s or name.startswith(f"{s}.") for s in skipped)
    ]
    shown = {n: (_show(old, n), _show(new, n)) for n in names if _show(old, n) != _show(new, n)}
    return [f"{name}: {a} -> {b}" for name, (a, b) in shown.items()]


def _show(flat: dict[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "(absent)"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _free_names(config: Any, prefix: str = "") -> set[str]:
    if not is_dataclass(config):
        return set()
    names = {f"{prefix}{f.name}" for f in fields(config) if f.metadata.get("free")}
    for f in fields(config):
        names |= _free_names(getattr(config, f.name), f"{prefix}{f.name}.")
    return names


def _read(hint: Any, value: Any, where: str) -> Any:
    """The JSON value as the annotated type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _read_union(args, value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError(
            f"{where}: '{value}' is not a choice{did_you_mean(str(value), [str(a) for a in args])}"
        )
    if is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return _read_tuple(args, value, where)
    if origin is list and isinstance(value, list):
        return [_read(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _read_scalar(hint, value, where)


def _read_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    problem = ""
    for arg in args:
        try:
            return _read(arg, value, where)
        except ValueError as error:
            problem = problem or str(error)
    raise ValueError(problem)


def _read_tuple(args: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ValueError(f"{where}: expected {len(args)} values, got {len(value)}")
    return tuple(
        _read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and (is_number or value in ("NaN", "Infinity", "-Infinity")):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, str, bool, type(None)) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint))
    raise ValueError(f"{where}: expected {expected}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
