"""The smoke recipe from end to end, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.ledger import read_bill, total

ARMS = {
    "seen": ("told", "shown_once"),
    "heldout": (
        "told", "shown_once", "told_and_shown", "retrieval", "open_loop", "wrong_prompt",
        "no_prompt", "demos_1", "demos_5", "scratch_demos_1", "scratch_demos_5",
    ),
}  # fmt: skip


def headstart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headstart.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "smoke"
    done = headstart("run", "--recipe", "smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_report_holds_every_arm_and_price(run: Path):
    report = json.loads((run / "report.json").read_text())
    for group, names in ARMS.items():
        for name in names:
            arm = report[group][name]
            assert 0.0 <= arm["interval"][0] <= arm["mean"] <= arm["interval"][1] <= 1.0, name
            assert arm["episodes"] > 0 and arm["seeds"] and arm["tasks"]
    assert {"arm", "task", "currency", "threshold", "marginal", "full", "amortised", "interval",
            "censored"} <= set(report["price"][0])  # fmt: skip
    assert {"env_steps", "core_s"} <= set(report["break_even_tasks"])
    for key in ("wall_s", "protocol", "machine", "versions", "seeds"):
        assert report[key], key


def test_the_page_needs_nothing_but_itself(run: Path):
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_reported_rates_are_those_of_the_raw_rows(run: Path):
    report = json.loads((run / "report.json").read_text())
    rows = json.loads((run / "evaluate/result.json").read_text())["rows"]
    shown = [r for r in rows if r["arm"] == "seen.shown_once"]
    by_task = {r["task"]: np.mean(r["success"]) for r in shown}
    assert report["seen"]["shown_once"]["mean"] == pytest.approx(np.mean(list(by_task.values())))


def test_no_start_is_shared_between_data_prompts_and_evaluation(run: Path):
    from headstart.data.store import Dataset

    data = set(Dataset(run / "data").episode_table()["seed"].tolist())
    prompts = set(Dataset(run / "demonstrations").episode_table()["seed"].tolist())
    rows = json.loads((run / "evaluate/result.json").read_text())["rows"]
    rows += json.loads((run / "finetune/result.json").read_text())["rows"]
    exam = {seed for row in rows for seed in row["episode_seeds"]}
    assert not (data & prompts or data & exam or prompts & exam)


def test_bills_add_up_through_their_ancestors(run: Path):
    data, trained = read_bill(run / "data"), read_bill(run / "pretrain")
    assert trained.ancestors == (data,)
    assert (data.cost.env_steps or 0) <= 6_000
    both = total([trained])
    assert both.env_steps == data.cost.env_steps
    assert both.core_s == pytest.approx((data.cost.core_s or 0) + (trained.cost.core_s or 0))


def test_a_complete_run_is_not_overwritten_but_can_be_resumed(run: Path):
    again = headstart("run", "--recipe", "smoke", "--out", run)
    assert again.returncode == 2
    assert "already holds a run" in again.stderr and len(again.stderr.splitlines()) == 1
    before = (run / "pretrain/model.safetensors").stat().st_mtime_ns
    assert headstart("run", "--recipe", "smoke", "--out", run, "--resume").returncode == 0
    assert (run / "pretrain/model.safetensors").stat().st_mtime_ns == before
    other = headstart("run", "--recipe", "smoke", "--seed", "1", "--out", run, "--resume")
    assert other.returncode == 2 and "seed: 0 -> 1" in other.stderr


def test_the_api_acts_with_the_trained_model(run: Path):
    import headstart as api

    task = api.get_task("metaworld/handle-press")
    demonstration = api.Dataset(run / "demonstrations").episodes([0])[0]
    prompt = api.Prompt(demonstration=demonstration)
    decision = api.load_policy(run / "pretrain", task, prompt).act(demonstration.obs[:1])
    assert decision.action.shape == (1, 4) and np.abs(decision.action).max() <= 1.0
