"""An HDF5 file made to lead out of itself, or to lie about its size, is refused."""

import h5py
import numpy as np
import pytest

from headstart.data.importers import hdf5


@pytest.fixture
def path(tmp_path):
    """A file with one of everything that must not be followed or believed."""
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["secret"] = np.arange(4)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["group/good"] = np.arange(6).reshape(3, 2)
        file["group/packed"] = np.zeros(3)
        file["external"] = h5py.ExternalLink("other.hdf5", "secret")
        file["soft"] = h5py.SoftLink("/group/good")
        layout = h5py.VirtualLayout((4,), "i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "secret", (4,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        file.create_dataset("huge", (2**40,), "f8", chunks=(1024,), compression="gzip")
        file.create_dataset("words", data=["left", "right"], dtype=h5py.string_dtype())
        file.create_dataset("none", (0, 3), "f4")
    return tmp_path / "a.hdf5"


def test_rows_are_read_whole_or_the_last_one(path):
    with hdf5.open_file(path) as file:
        group = hdf5.get_group(file, "group")
        assert hdf5.read(group, "good").tolist() == [[0, 1], [2, 3], [4, 5]]
        assert hdf5.read(group, "good", last_row=True).tolist() == [4, 5]
        assert hdf5.read_blobs(file, "words") == [b"left", b"right"]
        assert hdf5.read(file, "none").shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("external", "a link to elsewhere"),
        ("soft", "a link to elsewhere"),
        ("virtual", "in another file"),
        ("raw", "in another file"),
        ("huge", "says 8796093022208 bytes, the file has 0"),
        ("words", "expected numbers"),
        ("missing", "not there"),
        ("group/good", "not there"),
        ("..", "not there"),
    ],
)
def test_what_is_not_plainly_in_the_file_is_refused(path, name, message):
    with hdf5.open_file(path) as file, pytest.raises(ValueError, match=message) as caught:
        hdf5.read(file, name)
    assert str(caught.value).startswith(f"{path}: /{name}: ")


def test_a_link_is_no_group(path):
    with h5py.File(path, "a") as file:
        file["away"] = h5py.ExternalLink("other.hdf5", "/")
    with hdf5.open_file(path) as file, pytest.raises(ValueError, match="a link to elsewhere"):
        hdf5.get_group(file, "away")


def test_a_broken_or_missing_file_is_one_clear_line(path, tmp_path):
    with pytest.raises(ValueError, match="no such file"), hdf5.open_file(tmp_path / "none.hdf5"):
        pass
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="damaged") as caught, hdf5.open_file(path) as file:
        hdf5.read(hdf5.get_group(file, "group"), "good")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
