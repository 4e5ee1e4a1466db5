import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from headstart.artifact import (
    Artifact,
    check_seal,
    manifest,
    read_json,
    replacing,
    seal,
    write_bytes,
    write_card,
    write_json,
)
from headstart.config import free


@dataclass(frozen=True)
class Config:
    num_updates: int = 10
    lr: float = 0.1
    device: str = free("cpu")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_json_is_read_back_with_numpy_values_and_infinity_made_plain(tmp_path):
    write_json(tmp_path / "a.json", {"x": np.float32(0.5), "n": np.int64(3), "inf": float("inf")})
    assert read_json(tmp_path / "a.json") == {"x": 0.5, "n": 3, "inf": "Infinity"}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_before_the_rename_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_old_file_is_whole_until_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cut short after 0 characters"),
        (b'{"a": 1, "b', "cut short after 11 characters"),
        (b'{"a": [1, 2', "cut short after 11 characters"),
        (b"{'a': 1}", "not JSON: Expecting property name enclosed in double quotes at line 1, c"),
        (b"\xff\xfe\x00", "not JSON: not UTF-8 text"),
    ],
)
def test_a_bad_json_file_is_one_clear_line(tmp_path, content, problem):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(error.value)


def test_a_missing_json_file_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: no such file$"):
        read_json(tmp_path / "a.json")


def test_a_new_run_records_its_config_versions_and_machine(tmp_path):
    Artifact.create(tmp_path / "run", "pretrain", Config())
    header = read_json(tmp_path / "run" / "config.json")
    assert header["stage"] == "pretrain"
    assert header["format_version"] == 1
    assert header["config"] == {"num_updates": 10, "lr": 0.1, "device": "cpu"}
    assert set(header["versions"]) == {"python", "headstart", "numpy", "torch", "envpool"}
    assert header["versions"]["numpy"] == np.__version__
    assert header["machine"]["cores"] == os.cpu_count()
    assert header["machine"]["cpu"]


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    Artifact.create(tmp_path, "pretrain", Config())
    with pytest.raises(ValueError, match=r"already holds a run; choose another folder, or resume"):
        Artifact.create(tmp_path, "pretrain", Config())
    assert Artifact.create(tmp_path, "pretrain", Config(device="cuda"), resume=True).config == {
        "num_updates": 10,
        "lr": 0.1,
        "device": "cpu",
    }


def test_resuming_names_the_fields_that_differ(tmp_path):
    Artifact.create(tmp_path, "pretrain", Config())
    with pytest.raises(ValueError, match=r"another config: num_updates: 10 -> 20, lr: 0.1 -> 0.3$"):
        Artifact.create(tmp_path, "pretrain", Config(num_updates=20, lr=0.3), resume=True)
    with pytest.raises(ValueError, match=r"holds a run of 'pretrain', not of 'evaluate'$"):
        Artifact.create(tmp_path, "evaluate", Config(), resume=True)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"is not empty and holds no run"):
        Artifact.create(tmp_path, "pretrain", Config(), resume=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_run_that_died_before_its_config_was_written_can_begin_again(tmp_path):
    (tmp_path / ".config.json.77.tmp").write_text('{"sta')
    artifact = Artifact.create(tmp_path, "pretrain", Config(), resume=True)
    assert artifact.stage == "pretrain"


def test_another_format_version_is_refused(tmp_path):
    Artifact.create(tmp_path, "pretrain", Config())
    header = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", header | {"format_version": 9})
    with pytest.raises(ValueError, match=r"config\.json: format version 9; this is 1$"):
        Artifact.open(tmp_path)


def test_metrics_are_cut_back_to_a_step_for_resume(tmp_path):
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    for step in (10, 20, 30):
        artifact.log({"step": step, "train/loss": np.float32(1 / step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "tra')  # killed while writing
    artifact.truncate_metrics(20)
    artifact.log({"step": 30, "train/loss": float("nan")})
    assert artifact.metrics() == [
        {"step": 10, "train/loss": pytest.approx(0.1)},
        {"step": 20, "train/loss": pytest.approx(0.05)},
        {"step": 30, "train/loss": "NaN"},
    ]


def test_metrics_leave_out_a_last_line_cut_short_but_not_a_broken_one(tmp_path):
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    assert artifact.metrics() == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert artifact.metrics() == [{"step": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"st\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not JSON lines"):
        artifact.metrics()


def test_a_run_is_complete_once_its_result_is_written(tmp_path):
    artifact = Artifact.create(tmp_path, "evaluate", Config())
    assert not artifact.is_complete
    with pytest.raises(ValueError, match=r"the run is not complete"):
        artifact.result()
    artifact.write_result({"success": 0.5})
    assert artifact.is_complete
    assert Artifact.open(tmp_path).result() == {"success": 0.5}


def test_finished_pieces_of_a_run_are_there_for_the_next_try(tmp_path):
    artifact = Artifact.create(tmp_path / "a", "stage", Config())
    artifact.save_progress({"task": "a", "rows": [1]})
    artifact.save_progress({"task": "b", "rows": [2]})
    path = tmp_path / "a/progress.jsonl"
    path.write_text(path.read_text() + '{"task": "c", "ro')  # a crash in the middle of a line
    again = Artifact.create(tmp_path / "a", "stage", Config(), resume=True)
    assert [piece["task"] for piece in again.progress()] == ["a", "b"]
    again.save_progress({"task": "c", "rows": [3]})
    assert [piece["task"] for piece in again.progress()] == ["a", "b", "c"]
    again.write_result({})
    assert not path.exists()


def test_manifest_leaves_the_clocks_out_of_results(tmp_path):
    def identity(result):
        write_json(tmp_path / "result.json", result)
        return manifest(tmp_path)

    first = identity({"rows": [{"rate": 1.0, "cost": {"core_s": 1.0}}], "wall_s": 5.0})
    assert first == identity({"rows": [{"rate": 1.0, "cost": {"core_s": 2.0}}], "wall_s": 6.0})
    assert first != identity({"rows": [{"rate": 0.5, "cost": {"core_s": 1.0}}], "wall_s": 5.0})


def test_manifest_is_the_hash_of_names_and_hashes(tmp_path):
    write_bytes(tmp_path / "b" / "x.bin", b"one")
    write_bytes(tmp_path / "a.bin", b"two")
    lines = f"a.bin\0{sha256(b'two')}\nb/x.bin\0{sha256(b'one')}\n"
    assert manifest(tmp_path) == sha256(lines.encode())


def test_manifest_leaves_out_bills_logs_versions_and_machine(tmp_path):
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    write_bytes(tmp_path / "model.safetensors", b"weights")
    before = manifest(tmp_path)
    write_json(tmp_path / "ledger.json", {"cost": 1})
    write_card(tmp_path, "A model", ["Small."])
    artifact.log({"step": 1})
    write_bytes(tmp_path / "worker" / "0.log", b"12:00 started")
    write_bytes(tmp_path / ".cache" / "flat.bin", b"cache")
    header = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", header | {"machine": {}, "versions": {}})
    assert manifest(tmp_path) == before


@pytest.mark.parametrize("change", ["content", "name", "config", "result"])
def test_manifest_changes_with_the_content(tmp_path, change):
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    write_bytes(tmp_path / "model.safetensors", b"weights")
    before = manifest(tmp_path)
    if change == "content":
        write_bytes(tmp_path / "model.safetensors", b"weighty")
    elif change == "name":
        (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    elif change == "config":
        header = read_json(tmp_path / "config.json")
        write_json(tmp_path / "config.json", header | {"config": {"lr": 0.2}})
    else:
        artifact.write_result({"success": 1.0})
    assert manifest(tmp_path) != before


def test_card_has_the_title_and_the_lines(tmp_path):
    write_card(tmp_path, "Pushes", ["- 10 episodes", "- 1 task"])
    assert (tmp_path / "README.md").read_text() == "# Pushes\n\n- 10 episodes\n- 1 task\n"


def test_logging_to_tensorboard_loads_neither_torch_nor_tensorflow(tmp_path):
    code = """
import sys
from headstart.artifact import Artifact
from tests_config import Config
artifact = Artifact.create("run", "pretrain", Config(), tracker="tensorboard")
artifact.log({"step": 1, "train/loss": 0.5})
print(sorted({"torch", "tensorflow", "pandas"} & set(sys.modules)))
"""
    config = "from dataclasses import dataclass\n@dataclass\nclass Config:\n    lr: float = 0.1\n"
    (tmp_path / "tests_config.py").write_text(config)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["train/loss"] == 0.5


@pytest.fixture
def sealed(tmp_path) -> Path:
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    write_bytes(tmp_path / "model.safetensors", b"weights")
    artifact.log({"step": 1})
    artifact.write_result({"success": 0.5})
    seal(tmp_path)
    return tmp_path


def test_a_sealed_artifact_has_a_checksum_of_every_file(sealed):
    lines = (sealed / "SHA256SUMS").read_text().splitlines()
    names = ["config.json", "metrics.jsonl", "model.safetensors", "result.json"]
    assert lines == [f"{sha256((sealed / n).read_bytes())}  {n}" for n in names]
    assert check_seal(sealed) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_a_seal_finds_what_has_changed(sealed, name):
    content = bytearray((sealed / name).read_bytes())
    content[3] ^= 1
    (sealed / name).write_bytes(content)
    expected = "config.json" if name == "SHA256SUMS" else name  # whose line is the first
    try:
        assert check_seal(sealed) == [(sealed / expected, "changed")]
    except ValueError as error:
        assert name == "SHA256SUMS" and "SHA256SUMS: damaged: " in str(error)


def test_a_seal_finds_what_is_missing_and_what_is_extra(sealed):
    (sealed / "model.safetensors").rename(sealed / "model2.safetensors")
    for name in (".hidden", "worker.log", "tensorboard/events"):  # no part of the artifact
        write_bytes(sealed / name, b"later")
    assert check_seal(sealed) == [
        (sealed / "model2.safetensors", "extra"),
        (sealed / "model.safetensors", "missing"),
    ]


def test_a_seal_leaves_a_datasets_own_files_to_its_journal(sealed):
    for name in ("meta/journal.jsonl", "data/chunk-000/file-000.parquet", "videos/front/file.mp4"):
        write_bytes(sealed / name, b"more")
    assert check_seal(sealed) == []


@pytest.mark.parametrize("content", [b"", b"ab  config.json\n", b"0" * 64 + b"  config.json"])
def test_a_seal_cut_short_is_refused_or_finds_everything_extra(sealed, content):
    (sealed / "SHA256SUMS").write_bytes(content)
    if content:
        with pytest.raises(ValueError, match=r"SHA256SUMS: damaged: '[^\n]*' is no checksum"):
            check_seal(sealed)
    else:
        assert [what for _, what in check_seal(sealed)] == ["extra"] * 4


def test_what_is_not_sealed_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"SHA256SUMS: no such file; the artifact is not finished"):
        check_seal(tmp_path)


def test_a_changed_result_of_a_sealed_artifact_is_not_read(sealed):
    write_json(sealed / "result.json", {"success": 0.9})
    with pytest.raises(ValueError, match=r"result\.json: damaged: .* in SHA256SUMS$"):
        Artifact.open(sealed).result()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "a number is too long"),
        (b'{"format_version": 1, "stage": 3, "config": {}}', "'stage' is missing, or of a wrong"),
        (b'{"format_version": 1, "stage": "a"}', "'config' is missing, or of a wrong type"),
        (b"[1]", "format version None"),
    ],
)
def test_a_hostile_config_is_one_line(tmp_path, content, problem):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/config\.json: [^\n]*{problem}[^\n]*$"):
        Artifact.open(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"config\.json: no such file$"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("line", ["[1]", "{}", '{"step": "1"}', '{"step": true}'])
def test_metrics_without_a_step_are_one_line(tmp_path, line):
    artifact = Artifact.create(tmp_path, "pretrain", Config())
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl: damaged: a line (has no step|is no record)$"
    ):
        artifact.truncate_metrics(3)


def test_for_a_dataset_its_journal_stands_in_the_manifest(tmp_path):
    write_bytes(tmp_path / "meta/journal.jsonl", b"one")
    write_bytes(tmp_path / "data/file.parquet", b"two")
    assert manifest(tmp_path) == sha256(f"meta/journal.jsonl\0{sha256(b'one')}\n".encode())
