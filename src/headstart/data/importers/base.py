"""What every importer shares: the shape of a source, and how its streams get their names."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from headstart.types import Camera, Channel, Episode, Role, Streams

MAX_DIMENSIONS = 256
"""Scalars of a feature that become channels; a larger one is no state but a picture or a map."""

_MAX_SLUG = 80


@dataclass(frozen=True)
class Dropped:
    """Stands for an episode of the source that cannot be kept.

    Reasons are counted, so they name no episode: ``Dropped("no steps")``.
    """

    reason: str


@dataclass
class Source(Streams, ABC):
    """A dataset in a format of somebody else's, opened for reading. It has a dataset's schema.

    Example: ``Source("LeRobot v2.1", channels, control_hz=30.0, num_episodes=50)``.
    """

    name: str
    """The format."""
    channels: tuple[Channel, ...]
    """Observations and goals in the order of ``obs``'s columns, actions in that of ``action``'s."""
    control_hz: float
    """0.0: the source does not say."""
    num_episodes: int
    """As many as ``episodes`` yields, dropped ones included."""
    cameras: tuple[Camera, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What was dropped or changed, one line each; complete once all episodes were read."""
    seekable: ClassVar[bool] = False
    """Whether ``episodes`` starts anywhere as quickly as at 0."""

    def note(self, line: str) -> None:
        """Say it once, however often it happens."""
        if line not in self.notes:
            self.notes.append(line)

    @abstractmethod
    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        """One item for each of the source's episodes from number ``start`` on, always in the same
        order, with no more than a file of it in memory.

        Raises:
            ValueError: the source is damaged.
        """


def slug(text: str, otherwise: str = "") -> str:
    """Lower-case letters and digits (of any script) joined by hyphens: ``Pick up!`` -> ``pick-up``.

    What would be too long for a name is cut, and ends in a hash that keeps it unique.
    """
    found = re.sub(r"[\W_]+", "-", text.lower()).strip("-")
    if len(found) > _MAX_SLUG:
        found = f"{found[:_MAX_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return found or otherwise


def feature_channels(
    robot: str, feature: str, shape: Sequence[int], role: Role, names: Sequence[str] | None = None
) -> tuple[Channel, ...]:
    """The channels ``robot/feature/dimension`` of one feature, flattened row by row.

    Args:
        feature: the source's name; it loses a leading ``observation.``
        names: of the dimensions, where the source has one for each; else they are numbered, those
            of a matrix ``row/column``.
    """
    stem = feature.removeprefix("observation.").strip().replace(" ", "_")
    if names is None or len(names) != int(np.prod(shape)):
        places = itertools.product(*(range(n) for n in shape))
        names = ["/".join(map(str, place)) or "0" for place in places]
    clean = [re.sub(r"\s+", "_", str(name).strip()) for name in names]
    if len(set(clean)) != len(clean) or "" in clean:  # two of one name, so their numbers as well
        clean = [f"{name}/{i}" if name else str(i) for i, name in enumerate(clean)]
    return tuple(Channel(f"{robot}/{stem}/{name}", role) for name in clean)


def role_of(feature: str) -> Role:
    """``action...`` is an action, ``...goal...`` a goal, anything else an observation."""
    if feature.startswith("action"):
        return "action"
    return "goal" if "goal" in feature.lower() else "observation"


def unknown_reward(num_steps: int) -> np.ndarray:
    """(T,) float32 of NaN."""
    return np.full(num_steps, np.nan, np.float32)


def unusable(episode: Episode) -> str | None:
    """Why a dataset cannot keep the episode; None if it can."""
    if episode.num_steps == 0:
        return "no steps"
    missing = np.isnan(episode.obs).all(axis=0)  # a channel it has not
    if not (np.isfinite(episode.obs) | missing).all():
        return "an observation is not finite"
    if not np.isfinite(episode.action).all():
        return "an action is not finite"
    return None


def decode_picture(content: bytes, where: str) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG or JPEG file's content, as Pillow decodes it.

    Raises:
        ValueError: it is neither, or damaged; ``where`` begins the message.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: not a PNG or JPEG picture: {error}") from None
