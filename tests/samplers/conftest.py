import numpy as np
import pytest

from mvflow.core import namespace


@pytest.fixture(scope="session")
def normal_target():
    """Makes the `value_and_grad` of N(loc, diag scale^2), up to a constant, in closed form."""

    def make(loc=0.0, scale=1.0):
        def value_and_grad(z):
            standardised = (z - loc) / scale
            return -0.5 * (standardised * standardised).sum(-1), -standardised / scale

        return value_and_grad

    return make


@pytest.fixture(scope="session")
def banana():
    """log density -(z0^2 + 4 (z1 - z0^2)^2) / 2 and its gradient, on any array library."""

    def value_and_grad(z):
        xp = namespace(z)
        z0, z1 = z[..., 0], z[..., 1]
        bend = z1 - z0 * z0
        grad = xp.stack([-z0 + 8 * bend * z0, -4 * bend], axis=-1)
        return -0.5 * (z0 * z0 + 4 * bend * bend), grad

    return value_and_grad


@pytest.fixture(scope="session")
def z_scores():
    """How many standard errors the mean over chains is off, chains being independent.

    `values` are (draws, chains, ...): averaged over the draws of a chain first, so that
    autocorrelation does not make the error look smaller than it is.
    """

    def scores(values, expected):
        per_chain = values.mean(axis=0)
        error = per_chain.std(axis=0, ddof=1) / np.sqrt(len(per_chain))
        return np.abs(per_chain.mean(axis=0) - expected) / error

    return scores
