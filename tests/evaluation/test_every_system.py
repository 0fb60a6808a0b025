"""What is measured of one system is measured of all: calibration, gaps, likelihoods."""

import math

import numpy as np
import pytest

from mvflow.config import Classifiers
from mvflow.core import ArraySource, registry
from mvflow.estimators import estimator_class
from mvflow.evaluation import ModalityClassifiers, check_calibration, evaluate
from mvflow.tuning import best_prior, score_priors


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


@pytest.fixture(scope="module")
def judged(small):
    """Labelled rows, and classifiers of them."""
    x, labels = small.data(3, rows=60, seed=5)
    specs = small.estimator(estimator_class("jnf"), 3).modalities
    rows = ArraySource(x, specs, labels=labels)
    return rows, ModalityClassifiers.train(rows, rows, Classifiers(kind="mlp", epochs=20))


@pytest.mark.slow
def test_targets_agree_as_often_as_counted_and_precision_is_a_share(model, judged):
    rows, classifiers = judged
    enough = model.config.evaluation.model_copy(update={"product_rows": 30})
    found = evaluate(model.with_settings(evaluation=enough.model_dump()), rows, classifiers)
    many = found.coherence.one_to_many
    assert many.together.keys() == many.apart.keys() == {"m0", "m1", "m2"}
    for name in many.together:
        for share in (many.together[name], many.apart[name]):
            assert 0 <= share.mean * many.rows == pytest.approx(round(share.mean * many.rows))
    (space,) = found.frechet.values()
    assert space.manifold_rows == 30
    for measure in (space.precision, space.recall):
        shares = [*measure.joint.values(), *measure.conditional.values()]
        assert len(shares) == 3 + 9  # of the prior, and of each modality given each subset
        assert all(0 <= 30 * v.mean == pytest.approx(round(30 * v.mean)) for v in shares)


@pytest.mark.slow
def test_the_best_prior_of_every_system_is_that_with_the_highest_held_out_density(model, small):
    x, _ = small.data(3, rows=80, seed=6)
    kinds = registry("priors").names()
    scores = score_priors(model, model.as_source(x), kinds)
    densities = {s.kind: s.log_density.mean for s in scores}
    assert list(densities) == kinds
    assert np.isfinite(list(densities.values())).all()
    assert best_prior(scores) == max(densities, key=densities.get)
