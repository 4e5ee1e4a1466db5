"""Statistics of a dataset that grow with it: each save is merged in, and nothing is read again.

Moments are merged by the parallel algorithm of Chan, Golub and LeVeque (1979). Quantiles are those
of a bounded sample of the steps, spread evenly over the dataset; those of pictures are exact, from
a histogram of their 256 values. Values that are missing (not finite) are left out.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAME = "meta/statistics.npz"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_STEPS = 4096
"""The sample's bound. A dataset that is no longer has exact quantiles."""
SAMPLED_PICTURES = 8
"""Pictures of each camera that an episode, or a clip's file, adds to the histograms."""
_ROW_VALUES = 1024  # side by side when they are added up
_BLOCK_VALUES = 2**15  # which fit into the processor's cache
_MOST_BYTES = 2**28
_ALL_KEYS = 2**64 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing spreads evenly


class Statistics:
    """Count, mean, variance, extremes and quantiles of each dimension of each column.

    Args:
        widths: column's name -> its number of dimensions, in order.
        cameras: names of the cameras.
    """

    def __init__(self, widths: Mapping[str, int], cameras: Sequence[str]) -> None:
        self._widths = dict(widths)
        num = sum(widths.values())
        self._arrays: dict[str, np.ndarray] = {
            "rows": np.zeros((len(widths),), np.int64),  # with any value
            "count": np.zeros(num, np.int64),
            "mean": np.zeros(num),
            "m2": np.zeros(num),  # sum of squared deviations from the mean
            "min": np.full(num, np.inf),
            "max": np.full(num, -np.inf),
            "sample": np.zeros((0, num), np.float32),
            "sample_key": np.zeros(0, np.uint64),
            "histograms": np.zeros((len(cameras), 3, 256), np.int64),
            "pictures": np.zeros(len(cameras), np.int64),
        }
        self._cameras = tuple(cameras)

    @classmethod
    def of(
        cls,
        columns: Mapping[str, np.ndarray],
        first_step: int,
        pictures: Mapping[str, Any],
        below: int = _ALL_KEYS,
    ) -> Statistics:
        """The statistics of one save.

        Args:
            columns: name -> (N,) or (N, D).
            first_step: the number of the first step in the dataset.
            pictures: camera -> what ``histogram`` gave.
            below: ``sample_bound`` of what this is to be merged into.
        """
        widths = {name: 1 if c.ndim == 1 else c.shape[1] for name, c in columns.items()}
        new = cls(widths, tuple(pictures))
        a, stop = new._arrays, 0
        flat = [column.reshape(len(column), -1) for column in columns.values()]
        for i, column in enumerate(flat):
            start, stop = stop, stop + column.shape[1]
            a["rows"][i], moments = _moments(column)
            for name, values in moments.items():
                a[name][start:stop] = values
        keys = np.arange(first_step, first_step + len(flat[0])).astype(np.uint64) * _GOLDEN
        kept = np.flatnonzero(keys < below)
        if len(kept) > SAMPLED_STEPS:
            kept = kept[np.argpartition(keys[kept], SAMPLED_STEPS)[:SAMPLED_STEPS]]
        a["sample_key"] = keys[kept]
        a["sample"] = np.concatenate(
            [column[kept] for column in flat], axis=1, dtype=np.float32, casting="unsafe"
        )
        for i, counts in enumerate(pictures.values()):
            a["histograms"][i] = counts["values"]
            a["pictures"][i] = counts["pictures"]
        return new

    @property
    def sample_bound(self) -> int:
        """Steps are sampled if their keys are lower than this."""
        keys = self._arrays["sample_key"]
        return int(keys.max()) if len(keys) >= SAMPLED_STEPS else _ALL_KEYS

    def merge(self, other: Statistics) -> None:
        """Take in the statistics of further steps."""
        a, b = self._arrays, other._arrays
        count = a["count"] + b["count"]
        share = b["count"] / np.maximum(count, 1)
        delta = b["mean"] - a["mean"]
        a["m2"] = a["m2"] + b["m2"] + delta**2 * a["count"] * share
        a["mean"] = a["mean"] + delta * share
        a["min"], a["max"] = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
        a["count"] = count
        for name in ("rows", "histograms", "pictures"):
            a[name] = a[name] + b[name]
        # The steps of the lowest keys are kept: an even sample, whatever was merged when.
        a["sample"] = np.concatenate([a["sample"], b["sample"]])
        a["sample_key"] = np.concatenate([a["sample_key"], b["sample_key"]])
        if len(a["sample_key"]) > 2 * SAMPLED_STEPS:
            self._thin()

    def _thin(self) -> None:
        a = self._arrays
        kept = np.argsort(a["sample_key"], kind="stable")[:SAMPLED_STEPS]
        a["sample"], a["sample_key"] = a["sample"][kept], a["sample_key"][kept]

    def encode(self) -> bytes:
        """As the content of a file."""
        self._thin()
        stream = io.BytesIO()
        np.savez_compressed(stream, **self._arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    def decode(self, content: bytes) -> bool:
        """Become what was encoded; False if the content is not of statistics of such a dataset."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                if sum(member.file_size for member in members.infolist()) > _MOST_BYTES:
                    return False
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in self._arrays}
        except (ValueError, OSError, LookupError, EOFError, zipfile.BadZipFile, zlib.error):
            return False
        for name, array in self._arrays.items():
            rows = len(found["sample_key"]) if name.startswith("sample") else len(array)
            if found[name].dtype != array.dtype or found[name].shape != (rows, *array.shape[1:]):
                return False
        self._arrays = found
        return True

    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot's statistics of each column that has a known value, as in meta/stats.json.

        A single dimension of D that is missing throughout counts as zeros. Pictures are scaled to
        [0, 1]; their count is of pictures.
        """
        self._thin()
        a, found, stop = self._arrays, {}, 0
        known = a["count"] > 0
        std = np.sqrt(a["m2"] / np.maximum(a["count"], 1))
        sample = np.where(np.isfinite(a["sample"]), a["sample"], np.nan).astype(np.float64)
        for i, (name, width) in enumerate(self._widths.items()):
            start, stop = stop, stop + width
            if not known[start:stop].any():
                continue
            values = {key: a[key][start:stop] for key in ("min", "max", "mean")}
            values["std"] = std[start:stop]
            values = {key: np.where(known[start:stop], v, 0.0) for key, v in values.items()}
            levels = _quantiles(sample[:, start:stop], values)
            counts = {"count": [int(a["rows"][i])]}
            found[name] = {k: v.tolist() for k, v in (values | levels).items()} | counts
        return found

    def pictures(self) -> dict[str, dict[str, Any]]:
        """The same for each camera that a picture of is known."""
        a = self._arrays
        return {
            camera: _histogram_stats(a["histograms"][i]) | {"count": [int(a["pictures"][i])]}
            for i, camera in enumerate(self._cameras)
            if a["pictures"][i]
        }


def histogram(pictures: np.ndarray) -> dict[str, Any]:
    """How often each value occurs in pictures (N, H, W, 3) uint8, and how many pictures.

    Only every fourth row and column of a large picture is looked at.
    """
    stride = 4 if min(pictures.shape[1:3]) >= 128 else 1
    seen = pictures[:, ::stride, ::stride]
    counts = [np.bincount(seen[..., c].ravel(), minlength=256).tolist() for c in range(3)]
    return {"values": counts, "pictures": len(pictures)}


def sampled(num: int) -> np.ndarray:
    """Numbers of the pictures that represent ``num`` of them, evenly spaced."""
    return np.unique(np.linspace(0, num - 1, min(num, SAMPLED_PICTURES)).round().astype(np.int64))


def _moments(values: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
    """Of the columns of (N, D): rows with a known value, and count, mean, m2, min, max (D,)."""
    finite = np.isfinite(values)
    whole = bool(finite.all())
    if not whole and not finite.any():
        return 0, {}
    num = values.shape[1]
    shift = values[0] if whole else np.where(finite, values, 0)[finite.argmax(0), np.arange(num)]
    fold = max(1, _ROW_VALUES // num)
    step = fold * max(1, _BLOCK_VALUES // (fold * num))
    total, squares = np.zeros((2, num))
    low, high = np.full(num, np.inf), np.full(num, -np.inf)
    for first in range(0, len(values), step):
        block = values[first : first + step]
        # Rows side by side: the processor is slow at adding up short ones.
        width = num * fold if len(block) % fold == 0 else num
        centred = block.astype(np.float64)
        centred -= shift
        lowest = highest = block
        if not whole:
            known = finite[first : first + step]
            centred[~known] = 0.0
            lowest, highest = np.where(known, block, np.inf), np.where(known, block, -np.inf)
        centred = centred.reshape(-1, width)
        total += centred.sum(0).reshape(-1, num).sum(0)
        centred *= centred
        squares += centred.sum(0).reshape(-1, num).sum(0)
        low = np.minimum(low, lowest.reshape(-1, width).min(0).reshape(-1, num).min(0))
        high = np.maximum(high, highest.reshape(-1, width).max(0).reshape(-1, num).max(0))
    count = np.full(num, len(values)) if whole else finite.sum(0)
    mean = total / np.maximum(count, 1)
    return len(values) if whole else int(finite.any(1).sum()), {
        "count": count,
        "mean": np.where(count, mean + shift, 0.0),
        "m2": np.maximum(squares - total * mean, 0.0),
        "min": low,
        "max": high,
    }


def _quantiles(sample: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the columns of a sample (N, D), where the sample has no value the mean."""
    empty = np.isnan(sample).all(0)
    sample = np.where(empty, values["mean"], sample)
    levels = np.nanquantile(sample, list(QUANTILES.values()), axis=0)
    return dict(zip(QUANTILES, levels, strict=True))


def _histogram_stats(counts: np.ndarray) -> dict[str, Any]:
    """Of three colours from their histograms (3, 256), as lists [[[r]], [[g]], [[b]]]."""
    levels, total = np.arange(256) / 255.0, counts.sum(1)
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0))
    seen, cumulated = counts > 0, counts.cumsum(1)
    stats = {
        "min": levels[seen.argmax(1)],
        "max": levels[255 - seen[:, ::-1].argmax(1)],
        "mean": mean,
        "std": std,
    }
    for name, share in QUANTILES.items():
        stats[name] = levels[(cumulated >= share * total[:, None]).argmax(1)]
    return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()}
