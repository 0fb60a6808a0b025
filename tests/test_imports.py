"""What an import pulls in: heavy packages only when they are used."""

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "pandas", "lightning", "lightning_fabric", "triton", "torch._inductor")
LATE = ("scipy.stats", "scipy.special", "scipy.cluster", "arviz_stats")  # half a second and more


def loaded(code):
    words = [sys.executable, "-c", f"{code}\nimport sys; print('loaded', *sys.modules)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("code", ["import mvflow", "import mvflow; mvflow.JNF"])
def test_the_library_pulls_in_no_compiler_and_no_pictures(code):
    found = set(loaded(code))
    assert not found.intersection((*HEAVY, *LATE))


def test_help_answers_without_torch():
    code = (
        "import sys; sys.argv = ['mvflow', '--help']\n"
        "from mvflow_cli.main import main\ntry: main()\nexcept SystemExit: pass"
    )
    found = loaded(code)
    assert "mvflow_cli.main" in found
    assert not {"numpy", "torch", "h5py", "scipy", *HEAVY}.intersection(found)
