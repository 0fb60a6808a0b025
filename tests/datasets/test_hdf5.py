"""HDF5 files are whole or not there, and a full disk does not end the process."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from mvflow_datasets.hdf5 import create_hdf5

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from mvflow.core import DataError
from mvflow_datasets.hdf5 import create_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with create_hdf5(Path(sys.argv[1])) as file:
        for i in range(20):
            file.create_dataset(f"group{i}/x", data=np.zeros(5000), **eval(sys.argv[3]))
except DataError as error:
    print(error)
"""


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.h5"
    for values in (np.arange(10**6), np.arange(3)):
        with create_hdf5(path) as file:
            file["x"] = values
            file.attrs["note"] = "ä" * 10**5
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"][...], values)
            assert file.attrs["note"] == "ä" * 10**5
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 1000, 50_000, 700_000])
@pytest.mark.parametrize("options", ["{}", "{'chunks': (100,), 'compression': 'gzip'}"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, room, options):
    """HDF5 ends the process with SIGSEGV if it hears of a write that fails as it closes."""
    pytest.importorskip("resource", reason="limits of a process are of Unix")
    path = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(room), options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if not (fits := "gzip" in options and room > 500_000):
        assert done.stdout == f"cannot write {path}: file too large\n"
    assert list(tmp_path.iterdir()) == ([path] if fits else [])


def test_an_error_of_the_caller_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), create_hdf5(path) as file:
        file["x"] = [1 / 0]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
