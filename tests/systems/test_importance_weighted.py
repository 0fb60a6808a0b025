"""JNF's importance-weighted first stage, where log p(X) and every divergence are known."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from mvflow import JNF
from mvflow.core import ConfigError, Modality, Observed
from mvflow.functional import importance_log_likelihood
from mvflow.nn import seeded
from mvflow.systems.importance_weighted import importance_weighted_losses

SHIFT, WIDER = np.array([0.5, -0.4]), np.array([0.4, 0.2])


def observed(x, times=1):
    return Observed({n: torch.from_numpy(np.repeat(v, times, 0)) for n, v in x.items()})


def shifted(known):
    """The joint VAE with q(z|X) beside the truth and wider, and its divergence from the truth."""
    joint = known.system().joint
    joint.weights = dict.fromkeys(joint.weights, 1.0)
    _, scale = known.posterior(known.sample(1))
    (merge,) = joint.merge
    wide = 7 * np.arctanh((np.log(scale) + WIDER) / 7) - 7 * np.arctanh(np.log(scale) / 7)
    merge.bias.data += torch.from_numpy(np.concatenate([SHIFT, wide]))
    return joint, (0.5 * (np.exp(2 * WIDER) - 1 + (SHIFT / scale) ** 2) - WIDER).sum()


def bounds(joint, x, samples, times):
    """The bound in each of `times` copies of a row."""
    found = []
    with torch.no_grad(), seeded(0, "bound"):
        for _ in range(times):
            row = observed(x)
            loss = importance_weighted_losses(joint, joint.posterior(row), row, 1.0, samples)
            found.append(-float(loss.total))
    return np.array(found)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_it_is_the_evidence_in_every_draw_when_q_is_exact(linear_gaussian, samples):
    known = linear_gaussian(3, 2)
    joint, x = known.system().joint, known.sample(1)
    joint.weights = dict.fromkeys(joint.weights, 1.0)
    np.testing.assert_allclose(
        bounds(joint, x, samples, 5), np.repeat(known.log_evidence(x), 5), rtol=1e-11
    )


def test_it_rises_with_k_from_the_elbo_to_the_evidence(linear_gaussian):
    known = linear_gaussian(2, 2)
    (joint, gap), x = shifted(known), known.sample(1)
    evidence = known.log_evidence(x)[0]
    found = [bounds(joint, x, k, 400) for k in (1, 3, 10, 100)]
    means = np.array([f.mean() for f in found])
    errors = np.array([f.std(ddof=1) / 20 for f in found])
    assert abs(means[0] - (evidence - gap)) < 4 * errors[0]
    assert (np.diff(means) > -3 * np.hypot(errors[1:], errors[:-1])).all()
    assert (means < evidence + 4 * errors).all()
    assert evidence - means[-1] < 0.1 * gap


@pytest.mark.parametrize("beta", [0.7, 1.0])
def test_the_loss_is_that_of_numpy_on_the_same_draws(linear_gaussian, beta):
    known = linear_gaussian(2, 2)
    (joint, _), x = shifted(known), known.sample(4)
    joint.weights = {"m0": 0.5, "m1": 3.0}
    loc, scale = known.posterior(x)
    loc, scale = loc + SHIFT, scale * np.exp(WIDER)
    q, rows = joint.posterior(observed(x)), observed(x)
    with seeded(0, "bound"):
        found = importance_weighted_losses(joint, q, rows, beta, 3).total
    with seeded(0, "bound"):
        z = q.rsample(torch.Size([3])).numpy()
    log_weights = beta * (norm.logpdf(z) - norm.logpdf(z, loc, scale)).sum(-1)
    for n, weight in joint.weights.items():
        mean = z @ known.a[n].T + known.b[n]
        log_weights += weight * norm.logpdf(x[n], mean, known.scale[n]).sum(-1)
    bound = logsumexp(log_weights, 0) - np.log(3)
    np.testing.assert_allclose(float(found), -bound.mean(), rtol=1e-9)


def test_the_encoder_s_gradient_is_that_of_the_bound(linear_gaussian):
    """Doubly reparametrised, against autograd through draws and density: equal in the mean."""
    known = linear_gaussian(2, 2)
    joint, _ = shifted(known)
    joint.requires_grad_(True)
    x, (merge,) = observed(known.sample(1), 6000), joint.merge

    def plain():
        q = joint.posterior(x)
        z = q.rsample(torch.Size([5]))
        fit = sum(joint.decoders.log_prob(z, x).values())
        prior = -0.5 * z.square().sum(-1) - np.log(2 * np.pi)
        return -importance_log_likelihood(fit + prior - q.log_prob(z)).mean()

    found = []
    for loss in (
        plain,
        lambda: importance_weighted_losses(joint, joint.posterior(x), x, 1.0, 5).total,
    ):
        with seeded(0, "gradient"):
            found.append(torch.autograd.grad(loss(), merge.bias)[0].numpy())
    np.testing.assert_allclose(found[1], found[0], atol=0.05)  # 6,000 rows: errors about 0.01


def test_one_draw_is_the_elbo_to_the_bit_and_several_train(small):
    data, _ = small.data(2)
    joint = {"epochs": 2, "batch_size": 32, "merge": [8]}
    one, same, more = (
        small.estimator(JNF, 2, joint=joint | extra).fit(data, seed=0, stages=["joint"])
        for extra in ({}, {"samples": 1}, {"samples": 3})
    )
    assert one.records_["joint"].key == same.records_["joint"].key != more.records_["joint"].key
    for a, b, c in zip(*(m.system_.joint.parameters() for m in (one, same, more)), strict=True):
        assert torch.equal(a, b)
        assert c.isfinite().all()


@pytest.mark.bad_input
def test_what_cannot_be_is_refused():
    specs = [Modality("a", (2,)), Modality("b", (2,))]
    with pytest.raises(ConfigError, match="leave joint.samples at 1"):
        JNF(specs, 2, joint={"samples": 2, "independence": 1.0})
