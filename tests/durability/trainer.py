"""Runs that are killed: a child process works on a stage until it dies, again and again.

As in recorder.py, children are forked from one process that has everything imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.artifact import CLOCKS
from headstart.ledger import read_bill

STAGES = ("collect", "pretrain", "finetune", "reinforce")
MEASURED = (*CLOCKS, "charts/core_s")
"""What is measured in seconds, or tells of tries that were stopped, is another every time."""


SAYS_SO = "going on from the checkpoint before it"


@dataclass(frozen=True)
class Run:
    """What a child is to do, and when to die."""

    out: str
    stage: str
    prepared: str
    signal: int = 0
    step: int | None = None
    """Die in this step, counted from where the child began."""
    after_s: float | None = None


class Trainer:
    """Runs stages, one child after another."""

    def __init__(self, prepared: Path) -> None:
        self.prepared = prepared
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"},
        )

    def run(self, out: Path, stage: str, **death: Any) -> tuple[int, float]:
        """(exit code, seconds it took) of a child; resumes what is there."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = Run(str(out), stage, str(self.prepared), **death)
        print(json.dumps(asdict(job)), file=self._process.stdin, flush=True)
        reply = json.loads(self._process.stdout.readline())
        return reply["code"], reply["seconds"]

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def campaign(
    trainer: Trainer, out: Path, stage: str, runs: int, deaths: int, seed: int
) -> dict[str, Any]:
    """Kill ``runs`` runs of a stage ``deaths`` times each, by SIGKILL and SIGTERM, at random steps
    and at random instants, and compare with one that nobody has touched."""
    rng = random.Random(seed)
    straight = out / f"{stage}-straight"
    code, seconds = trainer.run(straight, stage)
    assert code == 0, f"{stage} fails by itself"
    expected, states = outcome(straight), states_of(straight)
    failures, killed = [], 0
    for k in range(runs):
        root = out / f"{stage}-{k}"
        for number in range(deaths):
            death: dict[str, Any] = {"signal": rng.choice((signal.SIGKILL, signal.SIGTERM))}
            if number % 2 == 0:
                death["step"] = rng.randrange(1, 6)
            else:
                death["after_s"] = rng.uniform(0.0, seconds)
            code, _ = trainer.run(root, stage, **death)
            if code not in (0, 130, -signal.SIGKILL, -signal.SIGTERM):
                failures.append(f"run {k}: {death} ended with {code}")
            killed += code != 0
        code, _ = trainer.run(root, stage)
        if code:
            failures.append(f"run {k}: cannot be resumed")
            continue
        found = outcome(root)
        failures += [f"run {k}: {name} differs" for name in expected if
                     found.get(name) != expected[name]]  # fmt: skip
        failures += [f"run {k}: {s} is no state of the other" for s in states_of(root) - states]
        failures += [f"run {k}: {what} kept but not billed" for what in unpaid(root, straight)]
    return {"stage": stage, "runs": runs, "deaths": killed, "failures": failures}


def torn_checkpoint(
    trainer: Trainer, out: Path, seed: int, stages: tuple[str, ...] = ("pretrain", "reinforce")
) -> dict[str, Any]:
    """A run is killed, its newest checkpoint is damaged, and the run is resumed."""
    rng = random.Random(seed)
    failures = []
    for stage in stages:
        trainer.run(out / f"{stage}-whole", stage)
        for what in ("cut", "flip"):
            root = out / f"{stage}-{what}"
            trainer.run(root, stage, signal=signal.SIGKILL, step=8)
            path = root / "checkpoint.safetensors"
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content))] ^= 1
            path.write_bytes(content if what == "flip" else content[: len(content) // 2])
            code, _ = trainer.run(root, stage)
            same = code == 0 and outcome(root) == outcome(out / f"{stage}-whole")
            same = same and SAYS_SO in root.with_name(f"{root.name}.log").read_text()
            failures += (
                [] if same else [f"{stage}, {what}: exit code {code}, another outcome, or no word"]
            )
    return {"damaged": 2 * len(stages), "failures": failures}


def outcome(root: Path) -> dict[str, Any]:
    """All that a run leaves that is not measured in seconds."""
    found: dict[str, Any] = {"result": _without_seconds(_read(root / "result.json"))}
    for path in sorted(root.rglob("model.safetensors")):
        found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(root.rglob("data/*/*.parquet")):
        found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    metrics = root / "metrics.jsonl"
    if metrics.exists():
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        found["metrics"] = [_without_seconds(line) for line in lines]
    return found


def unpaid(root: Path, straight: Path) -> list[str]:
    """What a run that was killed has in its bill less of than one that did the same work once."""
    spent, least = read_bill(root).cost, read_bill(straight).cost
    quantities = ("env_steps", "demonstrations", "flops")
    return [q for q in quantities if (getattr(spent, q) or 0) < getattr(least, q)]


def states_of(root: Path) -> set[str]:
    """A line of each checkpoint that was written: progress and a hash of all tensors."""
    path = root.with_name(f"{root.name}.states")
    return set(path.read_text().splitlines()) if path.exists() else set()


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if k not in MEASURED}
    return [_without_seconds(v) for v in value] if isinstance(value, list) else value


# ---- in the trainer's own process --------------------------------------------------------------


def work(job: Run) -> None:
    """Run a stage; die where the job says."""
    import tiny_suite
    from headstart import cli
    from headstart.algorithms import ppo
    from headstart.model import learner
    from headstart.rollout import Interaction
    from headstart.stages import collect, finetune, pretrain, reinforce

    signal.signal(signal.SIGTERM, cli._interrupt)
    out, prepared = Path(job.out), Path(job.prepared)
    steps = 0

    def counting(step: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if job.step is not None and steps > job.step:
                os.kill(os.getpid(), job.signal)
            return step(*arguments, **options)

        return counted

    def noting(save: Any) -> Any:
        def noted(path: Path, tensors: dict[str, Any], progress: Any) -> None:
            digest = hashlib.sha256()
            for name in sorted(tensors):
                digest.update(name.encode() + tensors[name].numpy().tobytes())
            cost = progress.cost
            line = f"{cost.env_steps} {cost.flops} {digest.hexdigest()}\n"
            with open(out.with_name(f"{out.name}.states"), "a") as file:
                file.write(line)
            save(path, tensors, progress)

        return noted

    changed: Any = collect
    changed.ScriptedExpert = lambda _task: tiny_suite.ToGoal()
    Interaction.step = counting(Interaction.step) if job.stage == "collect" else Interaction.step
    learner.Learner.step = counting(learner.Learner.step)
    ppo.PPO.update = counting(ppo.PPO.update)
    for changed in (pretrain, reinforce):
        changed.save_training = noting(changed.save_training)
    configs = {
        "collect": lambda: collect.CollectConfig(
            split="tiny/all", env_steps=600, num_envs=3, max_episode_steps=20
        ),
        "pretrain": lambda: _pretrain_config(prepared),
        "finetune": lambda: finetune.FinetuneConfig(
            model=prepared / "model", demonstrations=prepared / "data", data=prepared / "data",
            split="tiny/all", counts=(1, 2), updates=3, scratch_updates=4, episodes=3,
            max_episode_steps=10, loader=_loader(shown=1.0, told=0.0),
        ),
        "reinforce": lambda: reinforce.ReinforceConfig(
            task="tiny/reach", env_steps=480, stop_at_success=1.0, eval_every_steps=80,
            eval_episodes=4, max_episode_steps=10, tracker="none",
            ppo=ppo.PPOConfig(
                num_envs=4, num_steps=10, hidden_size=8, update_epochs=2, num_minibatches=2
            ),
        ),
    }  # fmt: skip
    stages = {s.__name__.rpartition(".")[2]: s for s in (collect, finetune, pretrain, reinforce)}
    function = getattr(stages[job.stage], job.stage)
    function(configs[job.stage](), out, resume=True)


def _pretrain_config(prepared: Path) -> Any:
    from headstart.model.transformer import ModelConfig
    from headstart.stages.pretrain import PretrainConfig

    return PretrainConfig(
        data=(str(prepared / "data"),), updates=14,
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16, demonstration_steps=4, max_words=6),
        loader=_loader(), log_every=1, checkpoint_every=2, tracker="none",
    )  # fmt: skip


def _loader(**changes: Any) -> Any:
    from headstart.data.loader import LoaderConfig

    return LoaderConfig(num_prompts=4, num_windows=2, **changes)


def prepare(root: Path) -> None:
    """The data and the model that the stages begin with."""
    import tiny_suite
    from headstart.data.store import DatasetWriter
    from headstart.rollout import Interaction, run_episodes
    from headstart.stages.pretrain import pretrain

    with DatasetWriter(root / "data", tiny_suite.TASKS["reach"]) as writer:
        for number, task in enumerate(tiny_suite.TASKS.values()):
            env = tiny_suite.make(task, range(10 * number, 10 * number + 5))
            interaction = Interaction(env, tiny_suite.ToGoal())
            writer.save_episodes([e for _, e in run_episodes(interaction, 40, 3)])
    pretrain(_pretrain_config(root), root / "model")


def serve() -> None:
    """Fork a child for each line of standard input, and say how it ended."""
    import torch

    import tiny_suite
    from headstart import cli  # noqa: F401  what the children need is imported once
    from headstart.stages import collect, finetune, pretrain, reinforce  # noqa: F401
    from headstart.suites import registry

    changed: Any = registry.SUITES
    changed["tiny"] = tiny_suite
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = Run(**json.loads(line))
        began = time.perf_counter()
        if not Path(job.prepared).exists():
            _in_child(lambda job=job: prepare(Path(job.prepared)), f"{job.prepared}.log")
            began = time.perf_counter()
        code = _in_child(lambda job=job: work(job), f"{job.out}.log", job.after_s, job.signal)
        print(json.dumps({"code": code, "seconds": time.perf_counter() - began}), flush=True)


def _in_child(work: Any, log: str, after_s: float | None = None, number: int = 0) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
            work()
            sys.stdout.flush()
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            if code == 1:
                import traceback

                traceback.print_exc()
            os._exit(code)
    if after_s is not None:
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline and os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ) is None:  # fmt: skip
            time.sleep(min(0.01, after_s))
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    serve()
