"""Nothing that is read can run code: no module of ours reaches a reader that does."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("mvflow", "datasets/mvflow_datasets", "cli/mvflow_cli")
    for path in (ROOT / folder).rglob("*.py")
)
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "read_pickle", "read_hdf", "HDFStore", "read_zarr", "torch.jit.load"}
SAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def offences(text):
    """Lines of a module that import a reader of code, or leave another one open to it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            bare = isinstance(node, ast.ImportFrom) and module in ("torch", "numpy")
            loads = bare and "load" in {alias.name for alias in node.names}
            if loads or MODULES & {str(name).split(".")[0] for name in names}:
                yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in SAFE:
            name, value = SAFE[called]
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if given.get(name) is not value:
                yield ast.unparse(node)
        elif called in CALLS or called.split(".")[-1] in CALLS - {"eval"}:  # not module.eval()
            yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reader_that_runs_code_is_used(path):
    assert not list(offences(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import yaml.loader",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "pd.read_pickle(path)",
        "pd.read_hdf(path)",
        "anndata.read_zarr(path)",
        "from torch import load",
        "torch.jit.load(path)",
    ],
)
def test_such_readers_are_seen(text):
    assert len(list(offences(text))) == 1
    assert not list(offences("network.eval()\nnp.load(p, allow_pickle=False)\nimport json"))
