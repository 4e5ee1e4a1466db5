import json

import numpy as np
import pytest

from headstart.data import journal
from headstart.data.journal import JournalWriter
from recordings import CHANNELS, rewrite

HEADER = journal.header_of(CHANNELS, (), 10.0)


def write(path, *records) -> journal.Journal:
    writer = JournalWriter.create(path, HEADER)
    for record in records:
        writer.count(writer.append(record))
    writer.close()
    return writer.journal


def test_lines_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    written = write(path, {"save": 0, "text": "Ä\n"}, {"closed": 1})
    found = journal.read(path)
    assert found.header["channels"] == HEADER["channels"]
    assert [r.get("text") for r in found.records] == ["Ä\n", None]
    assert found.saves == found.records[:1]
    assert found.closed == found.records[1]
    assert (found.num_bytes, found.last_sha256) == (written.num_bytes, written.last_sha256)
    assert not found.torn
    assert [json.loads(line)["previous"] for line in path.read_text().splitlines()] == [
        "",
        found.header["sha256"],
        found.records[0]["sha256"],
    ]


def test_a_line_that_was_changed_or_removed_is_found(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, {"save": 0}, {"save": 1}, {"save": 2})
    lines = path.read_bytes().splitlines(keepends=True)
    rewrite(path, lines[0] + lines[1].replace(b'"save":0', b'"save":7') + lines[2])
    with pytest.raises(journal.DamagedError, match="damaged: line 2 is not what was written"):
        journal.read(path)
    rewrite(path, lines[0] + lines[2])
    with pytest.raises(journal.DamagedError, match="damaged: lines are missing before line 2"):
        journal.read(path)
    rewrite(path, lines[0] + lines[2] + lines[1])
    with pytest.raises(journal.DamagedError, match="lines are missing before line 2"):
        journal.read(path)
    rewrite(path, lines[1])
    with pytest.raises(journal.DamagedError, match="lines are missing before line 1"):
        journal.read(path)


@pytest.mark.parametrize("value", [b"[" * 50_000 + b"]" * 50_000, b"9" * 5000, b"?", b"\xff"])
def test_a_line_with_the_right_hash_that_is_no_json_of_ours_is_damaged(tmp_path, value):
    path = tmp_path / "journal.jsonl"
    write(path)
    body = b'{"save":' + value
    rewrite(path, path.read_bytes() + body + journal._tail(body) + b"\n")
    with pytest.raises(journal.DamagedError, match="damaged: line 2 is not what was written"):
        journal.read(path)


@pytest.mark.parametrize("rest", [b"", b'{"save":1', b"\0\0\0\0", b"\0\0\0\0\n"])
def test_a_last_line_without_an_end_does_not_count(tmp_path, rest):
    path = tmp_path / "journal.jsonl"
    whole = write(path, {"save": 0})
    rewrite(path, path.read_bytes() + rest)
    found = journal.read(path)
    assert len(found.records) == 1
    assert found.torn == bool(rest)
    writer = JournalWriter(found)  # goes on where the whole lines end
    writer.count(writer.append({"save": 1}))
    writer.close()
    assert len(journal.read(path).records) == 2
    assert whole.num_bytes < journal.read(path).num_bytes


def test_a_line_may_be_taken_back(tmp_path):
    path = tmp_path / "journal.jsonl"
    found = write(path, {"save": 0}, {"closed": 1})
    writer = JournalWriter(found)
    found.drop_last()
    writer.take_back()
    writer.count(writer.append({"save": 1}))
    writer.close()
    assert [r["save"] for r in journal.read(path).records] == [0, 1]


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    JournalWriter.create(path, {"format_version": 3}).close()
    with pytest.raises(ValueError, match=r"journal\.jsonl: format version 3; 2 can be read"):
        journal.read(path)


def test_floats_keep_their_bits_as_text():
    odd = np.array([[0x80000000, 0x00000001], [0x7FC00001, 0xFFC12345]], np.uint32)
    floats = odd.view(np.float32)
    texts = [journal.encode_floats(floats[:1]), journal.encode_floats(floats[1:])]
    assert journal.decode_floats(texts).tobytes() == floats.tobytes()
    assert journal.decode_floats([]).shape == (0,)
