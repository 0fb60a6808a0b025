"""Peak memory of importing and training a large sparse table; prints Markdown.

    python -m benchmarks.sparse                  # 100,000 rows of 20,000 columns, 1 % filled
    python -m benchmarks.sparse --quick

The table is written as `.h5ad` beside a dense one of 20 columns that depend on it, imported by
`mvflow data import`, and the first stage of the recipe `auto` is trained for a hundred steps by
`mvflow train`: each in a process of its own, whose peak is the largest resident set that the
system has counted for it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import Report, add_options, parsed, script_parser
from mvflow_cli.main import run

ROWS, COLUMNS, FILLED, STEPS = 100_000, 20_000, 0.01, 100
QUICK = {"rows": 2_000, "columns": 500, "steps": 10}
LIMIT = 4 * 2**30


def main() -> None:
    arguments = _arguments()
    report = Report(__doc__.splitlines()[0].removesuffix("; prints Markdown."), arguments, "scipy")
    with tempfile.TemporaryDirectory() as folder:
        rows = [_measured(step, Path(folder), arguments) for step in (_write, _import, _train)]
    dense = 4 * arguments.rows * arguments.columns
    note = (
        f"{arguments.rows:,} x {arguments.columns:,}, {FILLED:.0%} filled: dense it would take "
        f"{dense / 2**30:.1f} GiB. {arguments.steps} steps."
    )
    report.add("memory", note, rows)


def _write(folder: Path, arguments: argparse.Namespace) -> None:
    """Counts from a few programs of genes, and proteins that the programs make."""
    rng = np.random.default_rng(arguments.seed)
    rows, columns = arguments.rows, arguments.columns
    programs = rng.gamma(1, 1, (rows, 8))
    per_row = round(FILLED * columns)
    centres = rng.integers(columns, size=8)
    of = np.stack([rng.choice(8, per_row, p=p / p.sum()) for p in programs])
    genes = (centres[of] + np.abs(rng.normal(0, columns / 20, of.shape)).astype(int)) % columns
    values = 1 + rng.poisson(3, of.shape)
    starts = np.arange(0, rows * per_row + 1, per_row)
    matrix = sparse.csr_matrix(
        (values.reshape(-1).astype(np.float32), genes.reshape(-1), starts), (rows, columns)
    )
    proteins = programs @ rng.normal(size=(8, 20)) + rng.normal(size=(rows, 20))
    index = pd.Index([f"c{i}" for i in range(rows)])
    anndata.AnnData(matrix, obs=pd.DataFrame(index=index)).write_h5ad(folder / "rna.h5ad")
    np.save(folder / "protein.npy", proteins.astype(np.float32))


def _import(folder: Path, arguments: argparse.Namespace) -> None:
    _command(
        *("data", "import", folder / "s.h5", "--modality", f"rna={folder}/rna.h5ad"),
        *("--modality", f"protein={folder}/protein.npy"),
    )


def _train(folder: Path, arguments: argparse.Namespace) -> None:
    settings = ("joint.epochs=1", f"joint.steps_per_epoch={arguments.steps}")
    words = [word for setting in settings for word in ("--set", setting)]
    _command("new", folder / "run", "--store", folder / "s.h5", *words)
    _command("train", folder / "run", "--stage", "joint", "--threads", arguments.threads)


def _command(*words: object) -> None:
    if code := run([str(word) for word in words]):
        sys.exit(code)


def _measured(
    step: Callable[[Path, argparse.Namespace], None], folder: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    """Run a step in a process of its own; its time and the peak of its memory."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_reported, args=(step, folder, arguments, sender))
    process.start()
    sender.close()
    try:
        peak = receiver.recv()
    except EOFError:
        sys.exit(f"benchmarks.sparse: {step.__name__} failed")
    process.join()
    name = {"_write": "write .h5ad", "_import": "import", "_train": "train"}[step.__name__]
    return {
        "step": name,
        "peak, GiB": round(peak / 2**30, 2),
        "under 4 GiB": peak < LIMIT,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _reported(
    step: Callable[[Path, argparse.Namespace], None],
    folder: Path,
    arguments: argparse.Namespace,
    sender: Connection,
) -> None:
    step(folder, arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    sender.send(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _arguments() -> argparse.Namespace:
    parser = script_parser("sparse", __doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    add_options(parser, device=False)
    return parsed(parser, "sparse", QUICK)


if __name__ == "__main__":
    main()
