"""Simulated cells are what the benchmark says of them."""

import numpy as np

from benchmarks.simulated_cells import TYPES, simulate_cells


def test_batches_differ_in_library_and_genes_but_not_in_types():
    cells = simulate_cells(6000, seed=1)
    is_b, share = cells.batch == "B", np.bincount(cells.kind) / 6000
    # four standard errors of shares of 6,000 and of 3,000 cells
    np.testing.assert_allclose(share, TYPES, atol=4 * np.sqrt(0.25 / 6000))
    of_b = np.bincount(cells.kind[is_b]) / is_b.sum()
    np.testing.assert_allclose(of_b, share, atol=4 * np.sqrt(0.25 / 3000))
    library = cells.rna.sum(1)
    ratio = np.log(library[is_b]).mean() - np.log(library[~is_b]).mean()
    np.testing.assert_allclose(ratio, np.log(2 / 3), atol=0.06)  # deviation .4 of logs
    shares = cells.rna / library[:, None]
    change = np.log(shares[is_b].mean(0) / shares[~is_b].mean(0))
    assert 0.35 < change.std() < 0.65  # an effect of deviation .5 on each gene


def test_counts_vary_more_than_poisson_and_repeat_with_the_seed():
    cells, again = simulate_cells(2000, seed=2), simulate_cells(2000, seed=2)
    for x, y in ((cells.rna, again.rna), (cells.protein, again.protein)):
        np.testing.assert_array_equal(x, y)
        assert x.min() >= 0
        assert (x.var(0) > x.mean(0)).mean() > 0.95
    assert (simulate_cells(2000, seed=3).rna != cells.rna).any()
