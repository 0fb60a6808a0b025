"""What is taken for available is what is there, of all limits the lowest."""

import subprocess
import sys

import pytest

from mvflow.core import DataError, memory
from mvflow.core.memory import available_memory, check_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1000 kB free, and a container with 400 kB of which 100 kB are taken."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "memory.current").write_text("102400\n")
    (tmp_path / "memory.max").write_text("409600\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return tmp_path


def test_the_lowest_of_all_limits_counts(machine):
    assert available_memory() == 300 * 1024
    (machine / "memory.stat").write_text("anon 1\nactive_file 20480\ninactive_file 40960\n")
    assert available_memory() == 360 * 1024  # files that are kept make room
    (machine / "memory.max").write_text("max\n")
    assert available_memory() == 1000 * 1024
    (machine / "memory.max").write_text("1024\n")
    assert available_memory() == 0


def test_what_does_not_fit_is_refused_with_its_name(machine, monkeypatch):
    monkeypatch.setattr(memory, "_SMALL", 0)
    check_memory(300 * 1024, "array 'x'")
    with pytest.raises(DataError, match=r"^array 'x' takes 1,024 MiB of memory, and 0 MiB are av"):
        check_memory(1 << 30, "array 'x'")


def test_a_limit_of_the_process_counts():
    pytest.importorskip("resource", reason="limits of a process are of Unix")
    code = (
        "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"  # each takes much of the limit
        "import resource; from mvflow.core.memory import available_memory as free\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))\n"
        "first = free(); x = bytearray(1 << 28); print(first, first - free())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, taken = map(int, done.stdout.split())
    assert 0 < first < 1 << 30
    assert (1 << 28) <= taken < (1 << 28) + (1 << 24)  # and what the interpreter took beside it
