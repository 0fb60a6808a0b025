"""Inference gaps: bounds, divergences and the likelihood fit together."""

import numpy as np
import pytest
from scipy.stats import norm

from mvflow import JNF, JNFShared
from mvflow.core import ArraySource, UsageError
from mvflow.evaluation import evaluate


@pytest.fixture(scope="module")
def case(fitted, small):
    data, _ = small.data(2, rows=60, seed=9)
    return fitted(JNF, 2), data


def test_the_bound_is_that_of_its_definition(case):
    """From moments of q(z|X), a standard prior and the decoders alone, with draws of NumPy."""
    model, x = case
    loc, scale = model.encode(x)
    z = loc + scale * np.random.default_rng(0).normal(size=(4000, *loc.shape))
    likelihood = sum(model.predictive(z.astype(np.float32), x).log_prob.values())
    terms = likelihood + (norm.logpdf(z) - norm.logpdf(z, loc, scale)).sum(-1)
    bound = model.evidence_lower_bound(x, n=4000, seed=1)
    error = np.sqrt(2 * terms.var(0) / 4000)  # of the difference of two means of 4000 draws
    assert (np.abs(bound.values - terms.mean(0)) < 5 * error + 1e-3).all()
    expected = norm.logpdf(bound.z, loc, scale).sum(-1)
    # z is float32: z - loc has seven digits of z, divided by a scale far smaller than z
    np.testing.assert_allclose(bound.log_prob, expected, atol=0.05, rtol=1e-3)


def test_gaps_are_differences_of_the_same_rows(case):
    model, x = case
    found = evaluate(model, ArraySource(x), None)
    gaps = found.gaps
    joint = found.log_likelihood["joint"].mean
    assert gaps.gap.mean == pytest.approx(joint - gaps.elbo.mean)
    assert gaps.gap.mean > -3 * gaps.gap.standard_error
    assert gaps.divergences.keys() == {*x}
    assert all(of.mean > 0 for of in gaps.divergences.values())
    total = sum(of.mean for of in gaps.divergences.values())
    assert gaps.variation_of_information.mean == pytest.approx(total - gaps.elbo.mean)


def test_of_three_modalities_there_is_no_variation_of_information(fitted, small):
    data, _ = small.data(3, rows=20)
    assert (
        evaluate(fitted(JNFShared, 3), ArraySource(data), None).gaps.variation_of_information
        is None
    )


@pytest.mark.bad_input
def test_a_bound_needs_all_modalities(case):
    model, x = case
    with pytest.raises(UsageError, match="needs all modalities, but m1 is missing"):
        model.evidence_lower_bound({"m0": x["m0"]})
