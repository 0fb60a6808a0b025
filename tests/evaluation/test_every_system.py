"""What is measured of one system is measured of all: calibration, gaps, likelihoods."""

import math

import numpy as np
import pytest

from mvflow.core import registry
from mvflow.estimators import estimator_class
from mvflow.evaluation import check_calibration, evaluate


@pytest.fixture(scope="module", params=registry("systems").names())
def model(request, fitted):
    return fitted(estimator_class(request.param), 3)


def test_the_posterior_of_every_subset_is_diagnosed(model):
    found = check_calibration(model, rows=24, draws=9)
    names = ["m0", "m1", "m2", "m0+m1", "m0+m2", "m1+m2", "m0+m1+m2"]
    assert list(found.subsets) == names
    for subset in found.subsets.values():
        assert 0 <= subset.p_value <= 1
        assert subset.sampler.verdict in ("good", "look closer", "do not trust")
        assert len(subset.mean_rank) == model.latent_dim


def test_inference_gaps_and_likelihoods_have_errors(model, small):
    """The gap is log p(X) less the bound, both of the posterior that the model draws from."""
    x, _ = small.data(3, rows=30, seed=5)
    found = evaluate(model, model.as_source(x), None)
    gaps = found.gaps
    assert gaps is not None
    numbers = [gaps.gap, gaps.elbo, *gaps.divergences.values(), *found.log_likelihood.values()]
    assert all(math.isfinite(v.mean) and v.standard_error > 0 for v in numbers)
    assert gaps.gap.mean == pytest.approx(found.log_likelihood["joint"].mean - gaps.elbo.mean)
    bound = model.evidence_lower_bound({n: v[:6] for n, v in x.items()}, n=2000)
    z, rows = bound.z, {n: v[:6] for n, v in x.items()}
    made = sum(model.predictive(z, rows).log_prob.values())
    prior = np.stack([model.prior_log_prob(part, "standard") for part in z])
    expected = (made + prior - bound.log_prob).mean(0)
    np.testing.assert_allclose(bound.values, expected, rtol=1e-3, atol=1e-3)
