import contextlib
import hashlib
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from headstart.artifact import Artifact, read_json, seal, write_card
from headstart.data import files, journal
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.verify import Problem, repair, verify
from headstart.stages.collect import CollectConfig
from recordings import (
    EPISODES,
    FILMED,
    FRAMES,
    JOURNAL,
    ROWS,
    TASK,
    bits,
    film,
    make_episode,
    rewrite,
    same,
    save,
    shades,
)

SECOND = "data/chunk-000/file-001.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished artifact that is a dataset with cameras, of three saves."""
    root = tmp_path_factory.mktemp("finished") / "run"
    artifact = Artifact.create(root, "collect", CollectConfig())
    artifact.log({"step": 1, "loss": 0.5})
    save(root, [film(0, 3), film(1, 4)], [film(2, 2)], [film(3, 3)], schema=FILMED)
    write_card(root, "Recordings", ["of nothing"])
    artifact.write_result({"episodes": 4})
    seal(root)
    return root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def content_files(root):
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != ".writer.lock")


def flip(content, rng):
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)


def cut(content, rng):
    del content[rng.integers(len(content)) :]


def zero(content, rng):
    first = int(rng.integers(len(content))) // 512 * 512
    page = content[first : first + 512]
    content[first : first + 512] = bytes(len(page))


def test_a_whole_artifact_has_no_problem(run):
    assert verify(run) == []


@pytest.mark.parametrize("damage", [flip, cut, zero])
def test_every_damage_to_every_file_is_found(run, damage):
    rng = np.random.default_rng(0)
    for path in content_files(run):
        before = path.read_bytes()
        for _ in range(6):
            content = bytearray(before)
            damage(content, rng)
            path.write_bytes(content)
            assert verify(run) or content == before, path
        path.write_bytes(before)
    assert verify(run) == []


def test_every_missing_file_is_found(run):
    for path in content_files(run):
        content = path.read_bytes()
        path.unlink()
        assert verify(run), path
        path.write_bytes(content)


def test_every_extra_file_is_found(run):
    for folder in sorted({path.parent for path in content_files(run)}):
        extra = folder / "extra.bin"
        extra.write_bytes(b"")
        assert [p.path for p in verify(run)] == [extra]
        extra.unlink()


def test_files_that_were_swapped_are_found(run):
    paths = [p for p in content_files(run) if p.suffix in (".parquet", ".json", ".mp4")]
    for one, two in pairwise(paths):
        a, b = one.read_bytes(), two.read_bytes()
        one.write_bytes(b)
        two.write_bytes(a)
        assert {one, two} <= {p.path for p in verify(run)} or a == b
        one.write_bytes(a)
        two.write_bytes(b)


def test_a_journal_that_was_cut_between_lines_is_found(run):
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        rewrite(run / JOURNAL, b"".join(lines[:kept]))
        assert verify(run), kept


def test_a_problem_says_where_and_what(tmp_path):
    save(tmp_path, EPISODES)
    content = bytearray((tmp_path / FRAMES).read_bytes())
    content[100] ^= 1
    rewrite(tmp_path / FRAMES, content)
    expected = Problem(tmp_path / FRAMES, "damaged: its checksum is not the one recorded")
    assert verify(tmp_path) == [expected]
    (tmp_path / FRAMES).unlink()
    assert verify(tmp_path) == [Problem(tmp_path / FRAMES, "missing")]


def test_a_dataset_that_is_being_written_has_no_problem(tmp_path):
    with DatasetWriter(tmp_path, TASK) as writer:
        writer.save_episodes(EPISODES)
        assert verify(tmp_path) == []


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no dataset and no other artifact there"):
        verify(tmp_path)
    with pytest.raises(ValueError, match="no dataset there"):
        repair(tmp_path)


def test_repairing_what_is_whole_changes_nothing(run):
    before = {path: path.read_bytes() for path in content_files(run)}
    repaired = repair(run)
    assert (repaired.kept_episodes, repaired.dropped) == (4, [])
    assert {path: path.read_bytes() for path in content_files(run)} == before


@pytest.mark.parametrize("name", ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", ROWS])
def test_derived_files_are_repaired_to_what_they_were(run, name):
    before = (run / name).read_bytes()
    (run / name).write_bytes(b"?")
    assert repair(run).kept_episodes == 4
    assert (run / name).read_bytes() == before
    assert verify(run) == []


@pytest.mark.parametrize(("steps", "lost"), [(1, [2]), (5, [2, 3])])
def test_a_damaged_page_costs_its_row_group_and_the_others_are_numbered_anew(tmp_path, steps, lost):
    with DatasetWriter(tmp_path, TASK, row_group_steps=steps) as writer:
        writer.save_episodes(EPISODES)
        writer.save_episodes([make_episode(7)])
    before = (tmp_path / FRAMES).read_bytes()
    content = bytearray(before)
    value = EPISODES[2].obs[1].tobytes()
    content[before.index(value)] ^= 1
    rewrite(tmp_path / FRAMES, content)
    repaired = repair(tmp_path)
    assert repaired.kept_episodes == 6 - len(lost)
    assert [line[:11] for line in repaired.dropped] == [f"episode {i} (" for i in lost]
    kept = [episode for i, episode in enumerate(EPISODES) if i not in lost]
    assert same(Dataset(tmp_path).episodes(), [*kept, make_episode(7)])
    assert verify(tmp_path) == []
    assert (tmp_path / ".dropped" / FRAMES).read_bytes() == bytes(content)


def test_a_lost_data_file_costs_its_episodes(tmp_path):
    save(tmp_path, EPISODES[:2], EPISODES[2:4], EPISODES[4:])
    (tmp_path / SECOND).unlink()
    repaired = repair(tmp_path)
    assert (repaired.kept_episodes, len(repaired.dropped)) == (3, 2)
    assert same(Dataset(tmp_path).episodes(), [*EPISODES[:2], EPISODES[4]])
    save(tmp_path, EPISODES[2:3])  # and recording goes on
    assert Dataset(tmp_path).num_episodes == 4


def test_a_damaged_video_costs_the_episodes_that_it_shows(run):
    content = bytearray((run / VIDEO).read_bytes())
    content[-1] ^= 1
    (run / VIDEO).write_bytes(content)
    repaired = repair(run)
    assert (repaired.kept_episodes, len(repaired.dropped)) == (2, 2)
    dataset = Dataset(run)
    assert [bits(e) for e in dataset.episodes()] == [bits(film(2, 2)), bits(film(3, 3))]
    assert shades(dataset.images(0, "top")) == [20, 40]
    np.testing.assert_array_equal(dataset.images(1, "wrist"), film(3, 3).images["wrist"])
    assert verify(run) == []


@pytest.mark.parametrize("line", range(5))
def test_a_damaged_line_of_the_journal_costs_nothing(run, line):
    """What it said is in meta/episodes and in info.json too."""
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b":", b";", 1)
    (run / JOURNAL).write_bytes(b"".join(lines))
    assert repair(run).kept_episodes == 4
    dataset = Dataset(run)
    expected = [film(0, 3), film(1, 4), film(2, 2), film(3, 3)]
    assert [bits(e) for e in dataset.episodes()] == [bits(e) for e in expected]
    assert shades(dataset.images(1, "top")) == [10, 30, 50, 70]
    assert verify(run) == []


def test_a_stray_file_is_set_aside(tmp_path):
    save(tmp_path, EPISODES)
    (tmp_path / "meta/stray").write_text("?")
    (tmp_path / SECOND).write_text("?")
    repaired = repair(tmp_path)
    assert repaired.kept_episodes == 5
    assert repaired.dropped == [f"{SECOND}: no save tells of it", "meta/stray: no save tells of it"]
    assert (tmp_path / ".dropped/meta/stray").read_text() == "?"
    assert verify(tmp_path) == []


@pytest.mark.parametrize("call", range(8))
def test_a_repair_that_is_interrupted_is_finished_by_the_next(run, monkeypatch, call):
    (run / SECOND).unlink()
    real, calls = files.move, []

    def interrupt(path, target):
        calls.append(path)
        if len(calls) > call:
            raise KeyboardInterrupt
        real(path, target)

    monkeypatch.setattr(files, "move", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        repair(run)
    assert len(calls) == min(call + 1, 7)
    monkeypatch.undo()
    repair(run)
    dataset = Dataset(run)
    expected = [film(0, 3), film(1, 4), film(3, 3)]
    assert [bits(e) for e in dataset.episodes()] == [bits(e) for e in expected]
    assert verify(run) == []


@pytest.mark.parametrize(
    ("line", "keys", "value"),
    [
        (1, ("files",), "none"),
        (1, ("files", 0, "bytes"), -1),
        (1, ("first_episode",), float("inf")),
        (1, ("episodes", "length"), [-3, 4]),
        (1, ("episodes", "length"), "3, 4"),
        (1, ("episodes", "videos"), {}),
        (1, ("episodes", "videos", "top", "start_s"), ["a", "b"]),
        (2, ("episodes", "final_obs"), [1]),
        (2, ("instructions",), []),
        (2, ("episodes",), None),
        (2, ("files", 0, "path"), {"a": 1}),
        (2, ("save",), [[]]),
        (4, ("files",), 7),
    ],
)
def test_a_journal_of_wrong_types_is_repaired(run, line, keys, value):
    """Its hashes are right, so somebody made it; the episodes are told of in meta/episodes too."""
    confuse(run / JOURNAL, line, keys, value)
    with pytest.raises(ValueError, match=r"journal\.jsonl: [^\n]*$"):
        Dataset(run)
    repaired = repair(run)
    assert all("\n" not in line for line in repaired.dropped)
    dataset, saved = Dataset(run), [film(0, 3), film(1, 4), film(2, 2), film(3, 3)]
    assert repaired.kept_episodes == dataset.num_episodes == 4 - len(repaired.dropped)
    assert all(bits(e) in [bits(s) for s in saved] for e in dataset.episodes())
    assert verify(run) == []


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("channels",), "none"),
        (("channels", 0, "unit"), None),
        (("channels", 0), {"name": "hand/x", "role": "observation"}),
        (("cameras", 0), {"name": "top", "height": 32, "width": 64}),
        (("cameras", 0, "height"), -32),
        (("control_hz",), "20"),
    ],
)
def test_a_header_of_wrong_types_is_one_clear_line(run, keys, value):
    confuse(run / JOURNAL, 0, keys, value)
    for use in (repair, Dataset, lambda root: DatasetWriter(root, FILMED)):
        with pytest.raises(ValueError, match=r"journal\.jsonl: its header makes no sense[^\n]*$"):
            use(run)


def confuse(path, line: int, keys: tuple, value) -> None:
    """Give a part of a journal's line another value, and all lines the hashes that are right."""
    found = journal.read(path)
    records = [found.header, *found.records]
    holder = records[line]
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    lines, previous = [], ""
    for record in records:
        facts = {k: v for k, v in record.items() if k != "sha256"} | {"previous": previous}
        body = json.dumps(facts, separators=(",", ":")).encode()[:-1]
        previous = hashlib.sha256(body).hexdigest()
        lines.append(body + f',"sha256":"{previous}"}}\n'.encode())
    rewrite(path, b"".join(lines))


def test_what_neither_journal_nor_info_describes_cannot_be_repaired(tmp_path):
    save(tmp_path, EPISODES)
    (tmp_path / JOURNAL).unlink()
    (tmp_path / "meta/info.json").unlink()
    with pytest.raises(ValueError, match="there is nothing to repair it by"):
        repair(tmp_path)


def test_a_lost_journal_is_restored(tmp_path):
    save(tmp_path, EPISODES[:2], EPISODES[2:])
    (tmp_path / JOURNAL).unlink()
    assert repair(tmp_path).kept_episodes == 5
    assert same(Dataset(tmp_path).episodes(), EPISODES)
    assert read_json(tmp_path / "meta/info.json")["total_episodes"] == 5
