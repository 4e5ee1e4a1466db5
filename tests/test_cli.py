import subprocess
import sys
from pathlib import Path

import pytest

from headstart.cli import VERBS, main


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
        (["collect", "--env-steps", "many", "--out", "x"], "invalid literal for int"),
        (["pretrain", "--data", "nowhere", "--out", "x"], "nowhere/meta/info.json: no such file"),
        (["pretrain", "--out", "x"], "--data"),
        (["collect", "--num-envs", "0", "--out", "x"], "0 environments can do nothing"),
        (["collect", "--num-envs", "100000", "--out", "x"], "need about 2500000 MB of memory"),
        (["collect", "--env-steps", "5", "--out", "x"], "5 environment steps are too few"),
        (["collect", "--seed", "400", "--out", "x"], "seed 400 is out of range; use 0 to 399"),
        (["collect", "--purpose", "evaluation", "--out", "x"], "--purpose"),
        (["evaluate", "--model", "nowhere", "--out", "x"], "nowhere/model.json: no such file"),
        (["pretrain", "--updates", "0", "--data", "y", "--out", "x"], "0 updates train nothing"),
        (["pretrain", "--device", "tpu", "--data", "y", "--out", "x"], "no device 'tpu' here"),
        (["pretrain", "--model.n-head", "7", "--data", "y", "--out", "x"], "n_head 7"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["tasks", "dor-lock"], "did you mean metaworld/door-lock"),
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


def test_help_lists_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in VERBS:
        assert verb in out
        if verb != "tasks":
            with pytest.raises(SystemExit) as stop:
                main([verb, "--help"])
            assert stop.value.code == 0
            assert verb in capsys.readouterr().out


def test_tasks_are_listed_with_their_instructions(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "tasks", "drawer")
    assert code == 0
    assert "metaworld/drawer-open" in out and "open the drawer" in out
    assert "metaworld/reach-wall" not in out


def test_help_does_not_wait_for_torch():
    code = "import sys, headstart.cli as c; c.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
