"""Inference gaps: bounds, divergences and the likelihood fit together."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mvflow import JNF, JNFShared
from mvflow.config import EvaluationSettings
from mvflow.core import ArraySource, Column, UsageError
from mvflow.evaluation import check_calibration, evaluate
from mvflow.evaluation.gaps import _partners
from mvflow.evaluation.rows import EvaluationRows


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


def test_what_latents_tell_of_a_row_is_the_divergence_in_closed_form(case):
    """Of normal posteriors and a standard prior, for an evaluation and a diagnosis alike."""
    model, x = case
    loc, scale = model.encode(x)
    exact = (0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum(-1, dtype=float)  # KL of each row
    found = evaluate(model, ArraySource(x), None).gaps
    # the log ratio has variance (s^2 - 1)^2 / 2 + (s m)^2 in each dimension
    spread = ((scale**2 - 1) ** 2 / 2 + (scale * loc) ** 2).sum(-1, dtype=float)
    rows = min(len(exact), model.config.evaluation.importance_rows)
    few = 2 * exact.std() if rows < len(exact) else 0.0  # five errors of a mean of six rows
    error = 5 * np.sqrt(spread.max() / (rows * 100)) + few
    assert found.from_prior.mean == pytest.approx(exact.mean(), abs=error)
    assert not found.is_collapsed
    told = check_calibration(model, ArraySource(x), rows=len(exact), draws=9).from_prior
    error = 5 * np.sqrt(spread.max() / (len(exact) * 20))
    assert told == pytest.approx(exact.mean(), abs=error)


def test_of_three_modalities_there_is_no_variation_of_information(fitted, small):
    data, _ = small.data(3, rows=20)
    assert (
        evaluate(fitted(JNFShared, 3), ArraySource(data), None).gaps.variation_of_information
        is None
    )


def paired(truth, items=12, partners=40):
    """Rows that share items of m0, each with m1 as the model has it given m0."""
    rng = np.random.default_rng(3)
    x0 = truth.sample(items)["m0"]
    at = np.repeat(np.arange(items), partners)
    mean, std = truth.posterior({"m0": x0[at]})
    z = mean + std * rng.normal(size=mean.shape)
    noise = truth.scale["m1"] * rng.normal(size=(len(at), truth.dims["m1"]))
    x1 = z @ truth.a["m1"].T + truth.b["m1"] + noise
    columns = {"m0": (x0, at), "m1": (x1, np.arange(len(at)))}
    return Paired(truth.specs, {n: (v.astype(np.float32), i) for n, (v, i) in columns.items()})


class Paired:
    """Rows as positions of stored values, as a store has them."""

    labels = None
    factors = {}
    name = "paired"

    def __init__(self, modalities, columns):
        self.modalities = modalities
        self._columns = {n: Column(v, i) for n, (v, i) in columns.items()}

    def __len__(self):
        return len(self._columns["m0"].index)

    def columns(self):
        return dict(self._columns)

    def take(self, rows):
        return {n: c.values[c.index[rows]] for n, c in self._columns.items()}


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_excess_over_the_average_posterior_is_that_of_the_linear_gaussian(
    linear_gaussian, shift
):
    """Zero where q(z|x_j) is exact; d^2/2 a dimension, its mean moved by d deviations."""
    truth = linear_gaussian()
    model = truth.estimator(evaluation={"rows": 480, "importance_rows": 50, "prior_draws": 10})
    mean, std = truth.posterior({"m0": truth.sample(1)["m0"]})
    layer = model.system_.flows["m0"].encoder
    layer.bias.data[: truth.latent] += shift * torch.from_numpy(std).float()
    source = paired(truth)
    found = evaluate(model, source, None).gaps.excess
    assert found.keys() == {"m0"}  # items of m1 do not recur
    bounds, expected = found["m0"], truth.latent * shift**2 / 2
    assert bounds.partners == 32
    assert bounds.at_least.mean - 4 * bounds.at_least.standard_error <= expected + 1e-6
    assert bounds.at_most.mean + 4 * bounds.at_most.standard_error >= expected
    assert bounds.at_most.mean - bounds.at_least.mean < 0.2


@pytest.mark.parametrize("labelled", [True, False])
def test_partners_are_other_rows_that_an_item_could_have_come_with(labelled):
    """Those of its class, whichever item they show; without classes those with the same item."""
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(30), 4)
    labels = items % 3 if labelled else None
    source = ArraySource({"a": rng.normal(size=(30, 2))}, pairs={"a": items}, labels=labels)
    settings = EvaluationSettings(rows=len(items))
    of = SimpleNamespace(
        test=source, names=["a"], seed=0, rows=EvaluationRows.of(len(items), settings, 0)
    )
    rows, partners = _partners(of, "a")
    groups = items % 3 if labelled else items
    assert set(rows) <= set(range(len(items)))
    assert partners.shape == (len(rows), 32 if labelled else 3)
    assert (groups[partners] == groups[rows][:, None]).all()
    assert (partners != rows[:, None]).all()
    assert all(len(set(each)) == len(each) for each in partners)


@pytest.mark.bad_input
def test_a_bound_needs_all_modalities(case):
    model, x = case
    with pytest.raises(UsageError, match="needs all modalities, but m1 is missing"):
        model.evidence_lower_bound({"m0": x["m0"]})
