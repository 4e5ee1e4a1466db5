"""The meter and the bills: what an artifact cost, and everything that it was made from.

A quantity that nobody knows is None, and None added to anything is None: unknown, never zero.
"""

from __future__ import annotations

import hashlib
import resource
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from headstart.artifact import (
    SEAL,
    manifest,
    read_sealed_json,
    resealing,
    seal,
    write_json,
)
from headstart.config import absent, from_json, to_json
from headstart.energy import Gauge


@dataclass(frozen=True)
class Cost:
    """What something cost, in every currency.

    Example: ``Cost({"expert": 20_000}, demonstrations=100, core_s=12.5, wall_s=7.0)``.
    """

    env_steps_by_origin: Mapping[str, int | None] | None = field(default_factory=dict)
    """Simulator steps by who acted: expert, perturbed-expert, policy, reinforce, evaluate."""
    demonstrations: int | None = 0
    """Episodes given by an expert or a person."""
    core_s: float | None = 0.0
    """CPU core-seconds."""
    gpu_s: float | None = 0.0
    """Seconds that GPUs were held."""
    flops: float | None = 0.0
    """Floating-point operations of training, analytic."""
    wall_s: float | None = 0.0
    energy_j: float | None = absent(None, default=0.0)
    """Drawn by the whole machine's processors and the GPUs held, whoever used them meanwhile."""

    @classmethod
    def unknown(cls) -> Cost:
        return cls(None, None, None, None, None, None, None)

    def amounts(self, currencies: Iterable[str]) -> dict[str, float | None]:
        """What it is in each of these, e.g. ``env_steps``."""
        return {currency: getattr(self, currency) for currency in currencies}

    @property
    def env_steps(self) -> int | None:
        """Simulator steps of all origins."""
        if self.env_steps_by_origin is None:
            return None
        steps = list(self.env_steps_by_origin.values())
        return None if None in steps else sum(s for s in steps if s is not None)

    def __add__(self, other: Cost) -> Cost:
        a, b = self.env_steps_by_origin, other.env_steps_by_origin
        origins = None
        if a is not None and b is not None:
            origins = {k: _add(a.get(k, 0), b.get(k, 0)) for k in dict.fromkeys([*a, *b])}
        return Cost(
            origins,
            _add(self.demonstrations, other.demonstrations),
            _add(self.core_s, other.core_s),
            _add(self.gpu_s, other.gpu_s),
            _add(self.flops, other.flops),
            _add(self.wall_s, other.wall_s),
            _add(self.energy_j, other.energy_j),
        )

    def to_json(self) -> dict[str, Any]:
        return to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        return from_json(cls, values)


class Meter:
    """Measures what happens inside a ``with`` block. ``cost()`` may be read at any time.

    Seconds of cores are this process's and its children's; joules are the whole machine's, and
    unknown where it has no counters that may be read.

    Args:
        start: what was spent before, e.g. up to the checkpoint that a run resumes from.
        num_gpus: GPUs held while the meter runs; held is paid for, busy or not.
    """

    def __init__(self, start: Cost | None = None, num_gpus: int = 0) -> None:
        self._counted = start or Cost()
        self._num_gpus = num_gpus
        self._began: tuple[float, float] | None = None  # wall, CPU
        self._gauge: Gauge | None = None

    def __enter__(self) -> Self:
        assert self._began is None, "the meter runs already"
        self._began, self._gauge = _clocks(), Gauge(self._num_gpus)
        return self

    def __exit__(self, *_: object) -> None:
        self._counted = self.cost()
        self._began = self._gauge = None

    def count_env_steps(self, origin: str, n: int) -> None:
        self._count(Cost({origin: n}))

    def count_demonstrations(self, n: int) -> None:
        self._count(Cost(demonstrations=n))

    def count_flops(self, n: float | None) -> None:
        self._count(Cost(flops=n))

    def cost(self) -> Cost:
        """What was spent so far."""
        if self._began is None or self._gauge is None:
            return self._counted
        wall, core = (now - then for now, then in zip(_clocks(), self._began, strict=True))
        gpu, energy = wall * self._num_gpus, self._gauge.joules()
        return self._counted + Cost(core_s=core, gpu_s=gpu, wall_s=wall, energy_j=energy)

    def _count(self, cost: Cost) -> None:
        self._counted += cost
        if self._gauge is not None:
            self._gauge.poll()


class RunMeter(Meter):
    """Measures a run of a stage, on top of what earlier tries at it have spent, and keeps its bill.

    When the block ends, finished, failed or stopped, the bill is saved: what is spent is spent.
    Save it as well before anything is kept, so that whatever is kept has been paid for.

    Args:
        root: the run's artifact.
        before: what this try has spent already.
    """

    def __init__(
        self,
        root: Path,
        stage: str,
        ancestors: tuple[Bill, ...] = (),
        num_gpus: int = 0,
        before: Cost | None = None,
    ) -> None:
        super().__init__(spent_so_far(root) + (before or Cost()), num_gpus)
        known = read_bill(root).identity
        self._run = known if known.startswith(_UNFINISHED) else f"{_UNFINISHED}{uuid.uuid4().hex}"
        self._root, self._stage, self._ancestors = root, stage, ancestors

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.save_bill()

    def save_bill(self) -> None:
        name, cost = self._root.name, self.cost()
        bill = Bill(self._run, self._stage, name, cost, self._ancestors, begun_as=self._run)
        write_bill(self._root, bill)


_UNFINISHED = "unfinished-"
_UNKNOWN = "unknown-"

FINETUNED_MODEL = "finetuned-model"
"""Stage in the bill of one of the models that fine-tuning makes; finetune's own bill holds it."""


@dataclass(frozen=True)
class Bill:
    """An artifact's own cost and its ancestors' bills."""

    identity: str
    """``artifact.manifest`` of the artifact."""
    stage: str
    name: str
    cost: Cost
    ancestors: tuple[Bill, ...] = ()
    begun_as: str = absent("", default="")
    """The identity of a run's bill while it goes on: what is made of it then knows it by that."""

    @property
    def run(self) -> str:
        """The same for all bills of one run and of its copies."""
        return self.begun_as or self.identity


def write_bill(root: Path | str, bill: Bill) -> None:
    """Write ledger.json, whole or not at all."""
    write_json(Path(root) / "ledger.json", bill)


def write_unfinished_bill(root: Path | str, stage: str, cost: Cost) -> None:
    """Write the bill of what no ``RunMeter`` meters, before it is complete; ``settle`` ends it."""
    root = Path(root)
    write_bill(root, Bill(f"{_UNFINISHED}{_place(root)}", stage, root.name, cost))


def spent_so_far(root: Path | str) -> Cost:
    """What earlier tries at the run in ``root`` have spent; nothing where they have kept nothing.

    Whatever a try keeps is on its bill before it is kept: where that is gone it is unknown.
    """
    traces = ("ledger.json", "progress.jsonl", "checkpoint.safetensors")
    return read_bill(root).cost if any((Path(root) / t).exists() for t in traces) else Cost()


def settle(root: Path | str) -> None:
    """Finish a complete artifact: give its bill its identity, and seal it, unless that is done.

    The last thing done to an artifact, after its card and its result. One that is sealed is left
    as it is: to seal it again would vouch for whatever has happened to it since.
    """
    bill = read_bill(root)
    if bill.identity.startswith(_UNFINISHED):
        finish(root, bill)
    elif not (Path(root) / SEAL).exists():
        seal(root)


def finish(root: Path | str, bill: Bill) -> None:
    """Write a complete artifact's bill, which gets the artifact's identity, and seal it."""
    write_bill(root, replace(bill, identity=manifest(root)))
    seal(root)


def reopen(root: Path | str) -> None:
    """Something is added to an artifact that may be complete, and nobody meters what it costs.

    Then its bill is unknown from now on. That of a run which still goes on, or a damaged one, which
    whoever reads it refuses, stays what it is.
    """
    root = Path(root)
    try:
        bill = read_bill(root)
    except ValueError:
        return
    if bill.identity.startswith((_UNFINISHED, _UNKNOWN)):
        return
    unknown = replace(bill, identity=f"{_UNKNOWN}{_place(root)}", cost=Cost.unknown())
    with resealing(root, "ledger.json"):
        write_bill(root, unknown)


def read_bill(root: Path | str) -> Bill:
    """The bill of the artifact in ``root``; without one, a bill whose cost is unknown.

    Raises:
        ValueError: ledger.json is damaged, or has some 200 generations of ancestors.
    """
    root = Path(root)
    path = root / "ledger.json"
    if not path.exists():
        return Bill(f"{_UNKNOWN}{_place(root)}", "unknown", root.name, Cost.unknown())
    try:
        return from_json(Bill, read_sealed_json(root, path.name), where=str(path))
    except RecursionError:
        raise ValueError(f"{path}: ancestors of ancestors, nested too deeply to be read") from None


def ancestry(bills: Sequence[Bill]) -> dict[str, Bill]:
    """These bills and all their ancestors' by identity, each once however it is shared.

    What two bills of the same artifact tell differently, as where one was edited, is unknown. Of
    a run that has gone on since something was made of it, the later bill holds the earlier one; of
    copies of a run that both went on, which have what came before in common, the dearer one counts.
    """
    found: dict[str, Bill] = {}
    left = list(reversed(bills))
    while left:
        bill = left.pop()
        known = found.setdefault(bill.identity, bill)
        if known.cost != bill.cost:
            cost = _dearer if bill.identity.startswith(_UNFINISHED) else _agreed
            found[bill.identity] = replace(known, cost=cost(known.cost, bill.cost))
        if known is bill or known.ancestors != bill.ancestors:
            left.extend(reversed(bill.ancestors))
    return _one_a_run(found.values())


def _one_a_run(bills: Iterable[Bill]) -> dict[str, Bill]:
    """By identity: that of a finished bill where a run has one."""
    runs: dict[str, Bill] = {}
    for bill in bills:
        known = runs.setdefault(bill.run, bill)
        if known is not bill:
            kept = bill if known.identity.startswith(_UNFINISHED) else known
            runs[bill.run] = replace(kept, cost=_dearer(known.cost, bill.cost))
    return {bill.identity: bill for bill in runs.values()}


def total(bills: Sequence[Bill]) -> Cost:
    """The full cost of these artifacts and all their ancestors, each counted once.

    The upstream cost of an artifact is ``total(bill.ancestors)``.
    """
    return sum((bill.cost for bill in ancestry(bills).values()), Cost())


def share_of(cost: Cost, env_steps: int, demonstrations: int) -> Cost:
    """The part of a collection's cost that some of its episodes were, by their simulator steps."""
    steps, shares = {"demonstration": env_steps}, [None] * 5
    if cost.env_steps:
        fraction = env_steps / cost.env_steps
        measured = (cost.core_s, cost.gpu_s, cost.flops, cost.wall_s, cost.energy_j)
        shares = [None if quantity is None else quantity * fraction for quantity in measured]
    return Cost(steps, demonstrations, *shares)


def _dearer(a: Cost, b: Cost) -> Cost:
    """The more of each quantity, which is the later of two bills of a run, as that only grows."""
    origins, told = None, (a.env_steps_by_origin, b.env_steps_by_origin)
    if told[0] is not None and told[1] is not None:
        names = dict.fromkeys([*told[0], *told[1]])
        origins = {name: _more(told[0].get(name, 0), told[1].get(name, 0)) for name in names}
    pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(Cost)[1:]}
    return Cost(origins, **{name: _more(*pair) for name, pair in pairs.items()})


def _agreed(a: Cost, b: Cost) -> Cost:
    told = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Cost)]
    return Cost(**{name: of_a if of_a == of_b else None for name, of_a, of_b in told})


def _more(a: Any, b: Any) -> Any:
    return None if a is None or b is None else max(a, b)


def _add(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def _place(root: Path) -> str:
    """Stands for the identity of what has none: where it lies."""
    return hashlib.sha256(str(root.resolve()).encode()).hexdigest()


def _clocks() -> tuple[float, float]:
    """Seconds of wall-clock, and of CPU: this process's threads and its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime
