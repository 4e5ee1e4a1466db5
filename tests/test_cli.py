import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.cli import DATA_VERBS, VERBS, main
from headstart.data.store import DatasetWriter
from headstart.types import Channel, Episode, Task


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretran"], "unknown verb 'pretran'; did you mean pretrain?"),
        (
            ["run", "--recipe", "lapto", "--out", "x"],
            "unknown recipe 'lapto'; did you mean laptop?",
        ),
        (["run", "--recipee", "laptop", "--out", "x"], "unknown option '--recipee'"),
        (["collect", "--split", "metaworld/door-unlok", "--out", "x"], "metaworld/door-unlock"),
        (["collect", "--split", "metawrld/mt50", "--out", "x"], "did you mean metaworld/mt50"),
        (
            ["collect", "--env-steps", "many", "--out", "x"],
            "'many' is not a whole number",
        ),
        (["pretrain", "--data", "nowhere", "--out", "x"], "there is no dataset in nowhere"),
        (["pretrain", "--out", "x"], "--data"),
        (["collect", "--num-envs", "0", "--out", "x"], "num_envs is 0; use at least 1"),
        (["collect", "--perturbed", "2", "--out", "x"], "perturbed is 2.0; use 0 to 1"),
        (["reinforce", "--stop-at-success", "90", "--out", "x"], "use 0 to 1"),
        (["collect", "--num-envs", "100000", "--out", "x"], "need about 2500000 MB of memory"),
        (["reinforce", "--ppo.max-kl", "nan", "--out", "x"], "max_kl is nan; use more than 0"),
        (
            [
                "reinforce",
                "--algorithm",
                "off_policy",
                "--off-policy.capacity",
                "1000000000000",
                "--out",
                "x",
            ],
            "1000000000000 transitions (capacity) need about",
        ),
        (
            [
                "reinforce",
                "--algorithm",
                "off_policy",
                "--off-policy.target-entropy",
                "nan",
                "--out",
                "x",
            ],
            "target_entropy is nan; use a finite number",
        ),
        (["collect", "--env-steps", "5", "--out", "x"], "5 environment steps are too few"),
        (["collect", "--seed", "400", "--out", "x"], "seed 400 is out of range; use 0 to 399"),
        (["collect", "--purpose", "evaluation", "--out", "x"], "--purpose"),
        (["evaluate", "--model", "nowhere", "--out", "x"], "nowhere/model.json: no such file"),
        (
            ["pretrain", "--updates", "0", "--data", "y", "--out", "x"],
            "updates is 0; use",
        ),
        (["pretrain", "--device", "tpu", "--data", "y", "--out", "x"], "no device 'tpu' here"),
        (["pretrain", "--model.n-head", "7", "--data", "y", "--out", "x"], "n_head 7"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["tasks", "dor-lock"], "no task has 'dor-lock' in its name; did you mean door-lock"),
        (["data", "inf"], "unknown verb 'data inf'; did you mean info?"),
        (["data", "info", "nowhere"], "nowhere/meta/journal.jsonl: no such file"),
        (["data", "info"], "headstart data info:"),
        (["data", "merge", "a", "--out", "x"], "name two or more datasets"),
        (["data", "merge", "a", "b", "--uot", "x"], "unknown option '--uot'; did you mean --out?"),
        (["data", "split", "nowhere", "--out", "x", "--shares", "1"], "nowhere/meta/journal.jsonl"),
        (["data", "filter", "nowhere", "--out", "x", "--min-steps", "few"], "'few' is not a whole"),
        (["data", "view", "nowhere"], "nowhere/meta/journal.jsonl: no such file"),
        (["data", "view", "nowhere", "--out", "."], "headstart data view: . is a folder; name a"),
        (["data", "view", "nowhere", "--out", "x.json"], "x.json: what is written is a page; name"),
        (["data", "import", "nowhere", "x"], "nowhere"),
        (["data", "import", "a", "x", "--control-hz", "-5"], "--control-hz -5: it is how many"),
        (
            ["foo"],
            "known: run, collect, pretrain, evaluate, score, finetune, reinforce, report",
        ),
        (["foo"], "data, tasks"),
        (["collect"], "headstart collect: missing: --out PATH Folder to write to.\n"),
        (["collect", "x", "--out", "x"], "headstart collect: nothing takes x\n"),
        (["collect", "--purpose", "x", "--out", "x"], "Expected one of ('data', 'prompt').\n"),
        (["collect", "--split", "mt50", "--out", "x"], "did you mean metaworld/mt50?"),
        (["collect", "--perturbed", "half", "--out", "x"], "--perturbed: 'half' is not a number"),
        (["pretrain", "--data", "y", "--seed", "-1", "--out", "x"], "seed is -1; use 0 to"),
        (["pretrain", "--data", "y=30%", "--out", "x"], "a share is a part of 1: y=0.3"),
        (["pretrain", "--loader.told", "0.9", "--data", "y", "--out", "x"], "told 0.9 and shown"),
        (
            ["pretrain", "--learner.learning-rate", "-1", "--data", "y", "--out", "x"],
            "use at",
        ),
        (["run", "--seed", "400", "--out", "x"], "seed 400 is out of range; use 0 to 399"),
        (["run", "--device", "tpu", "--out", "x"], "no device 'tpu' here"),
        (
            ["evaluate", "--model", "y", "--seen", "", "--heldout", "", "--out", "x"],
            "no task",
        ),
        (["finetune", "--model", "m", "--demonstrations", "d", "--data", "y", "--out", "x"], "d/"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert not any(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_a_file_is_no_dataset(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "demo.hdf5"
    file.touch()
    code, _, error = run(capsys, "data", "info", str(file))
    assert code == 2
    assert error == (
        f"headstart data info: {file} is a file, and a dataset is a folder; to make one of another"
        f" format: headstart data import {file} NEW\n"
    )


def test_a_system_error_is_a_line_without_a_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "file").touch()
    code, _, error = run(capsys, "collect", "--out", str(tmp_path / "file/x"))
    assert code == 2
    assert error.startswith(f"headstart: {tmp_path}/file") and error.endswith("Not a directory\n")
    assert "Errno" not in error


@pytest.mark.parametrize("name", ["config.json", "recipe.json"])
def test_a_mistake_found_late_takes_its_folder_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    def stage(_config: object, out: Path, _resume: bool) -> None:
        (out / "deeper").mkdir(parents=True)
        (out / "deeper" / name).touch()
        raise ValueError("too late")

    monkeypatch.setattr("headstart.stages.collect.collect", stage)
    assert main(["collect", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_a_mistake_takes_nothing_that_was_done_or_there_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def stage(_config: object, out: Path, _resume: bool) -> None:
        out.mkdir(exist_ok=True)
        (out / "ledger.json").touch()
        raise ValueError("too late")

    monkeypatch.setattr("headstart.stages.collect.collect", stage)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").touch()
    for name, left in (("new", {"ledger.json"}), ("old", {"config.json", "ledger.json"})):
        assert main(["collect", "--out", str(tmp_path / name)]) == 2
        assert {path.name for path in (tmp_path / name).iterdir()} == left


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "function", "resumes"),
    [
        (["collect", "--out", "x"], "headstart.stages.collect.collect", True),
        (["data", "import", "a", "x"], "headstart.data.commands.import_dataset", True),
        (["data", "merge", "a", "b", "--out", "x"], "headstart.data.commands.merge", False),
        (["report", "x"], "headstart.stages.report.report", False),
    ],
)
def test_only_what_can_be_resumed_is_said_to_be(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    function: str,
    resumes: bool,
):
    monkeypatch.setattr(function, interrupted)
    code, _, error = run(capsys, *arguments)
    assert code == 130
    assert error.startswith("headstart: interrupted")
    assert ("--resume" in error) == resumes


def test_help_names_what_goes_where_and_no_empty_default(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["data", "import", "--help"])
    out = capsys.readouterr().out
    assert "headstart data import [-h] SRC DST" in out
    assert "(default: )" not in out and "(default: '')" not in out


def test_help_lists_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in VERBS:
        assert verb in out
        if verb not in ("tasks", "data"):
            with pytest.raises(SystemExit) as stop:
                main([verb, "--help"])
            assert stop.value.code == 0
            assert verb in capsys.readouterr().out


def test_data_lists_its_verbs_and_each_has_help(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "data", "--help")
    assert code == 0
    for verb, (*_, summary) in DATA_VERBS.items():
        assert verb in out and summary in out
        with pytest.raises(SystemExit) as stop:
            main(["data", verb, "--help"])
        assert stop.value.code == 0
        assert f"headstart data {verb}" in capsys.readouterr().out


def test_data_verbs_work_one_after_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    channels = (Channel("x", "observation"), Channel("dx", "action"))
    episodes = [
        Episode(
            task_id="suite/reach",
            instruction="reach",
            obs=np.full((3, 1), seed, np.float32),
            action=np.zeros((3, 1), np.float32),
            reward=np.zeros(3, np.float32),
            success=np.array([False, False, seed < 3]),
            final_obs=np.zeros(1, np.float32),
            terminated=False,
            truncated=True,
            seed=seed,
            behavior="expert",
        )
        for seed in range(4)
    ]
    with DatasetWriter("a", Task("suite", "reach", "reach", channels, 3, 10.0)) as writer:
        writer.save_episodes(episodes)
    code, out, _ = run(capsys, "data", "info", "a")
    assert code == 0 and "4, 3 with success" in out
    code, out, _ = run(capsys, "data", "info", "a", "--json")
    assert code == 0 and json.loads(out)["env_steps"] == 12
    code, out, _ = run(capsys, "data", "split", "a", "--out", "s", "--shares", "0.5", "0.5")
    assert (code, out) == (0, "s/train: 2 episodes, 6 steps\ns/heldout: 2 episodes, 6 steps\n")
    code, out, _ = run(capsys, "data", "merge", "s/train", "s/heldout", "--out", "m")
    assert (code, out) == (0, "m: 4 episodes, 12 steps\n")
    code, out, _ = run(capsys, "data", "filter", "m", "--out", "f", "--failure")
    assert (code, out) == (0, "f: 1 episodes, 3 steps\n")
    code, out, _ = run(capsys, "data", "compact", "m")
    assert code == 0 and out.startswith("m: ")
    code, out, _ = run(capsys, "data", "view", "m", "--out", "page.html", "--episodes", "3")
    assert (code, out) == (0, "page.html: 3 of 4 episodes\n")
    assert run(capsys, "data", "verify", "m") == (0, "m: no problem found\n", "")
    data = next(Path("m/data").rglob("*.parquet"))
    data.write_bytes(data.read_bytes()[:-1])
    code, out, _ = run(capsys, "data", "verify", "m")
    assert code == 2 and out.startswith(f"{data}: ")
    code, out, _ = run(capsys, "data", "repair", "m")
    assert code == 0 and "0 episodes kept" in out
    assert out.startswith(f"{data}: damaged: ") and "moved to m/.dropped: episode 3" in out


def test_tasks_are_listed_with_their_instructions(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "tasks", "drawer")
    assert code == 0
    assert "metaworld/drawer-open" in out and "open the drawer" in out
    assert "metaworld/reach-wall" not in out


def test_a_stage_prints_its_card_and_resumed_without_one_only_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    collect = ["collect", "--split", "metaworld/reach", "--num-envs", "1", "--env-steps", "0"]
    code, out, _ = run(capsys, *collect, "--out", str(data))
    assert code == 0 and out.startswith("- 2 episodes, ") and out.endswith(f"\n{data}\n")
    (data / "README.md").unlink()
    assert run(capsys, *collect, "--out", str(data), "--resume")[:2] == (0, f"{data}\n")


def test_help_does_not_wait_for_torch():
    code = "import sys, headstart.cli as c; c.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_wait_as_the_user_says_and_else_spin_little(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: dict,
    kept: str | None,
):
    monkeypatch.setattr("os.environ", given)
    main(["--help"])
    assert given.get("GOMP_SPINCOUNT") == kept
