"""Calibration: exact posteriors pass it, and posteriors that are wrong in known ways fail it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from torch.distributions import Independent, Normal
from zuko.distributions import DiagNormal

from mvflow import JNF, ArraySource, JNFShared
from mvflow.core import DataError, UsageError
from mvflow.evaluation import Calibration, check_calibration
from mvflow.evaluation.calibration import ALPHA, BINS, LEVELS, VERDICTS
from mvflow.inference import ProductOfExperts

SINGLE = [["m0"], ["m1"], ["m2"]]


def altered(known, scale=1.0, shift=0.0):
    """An estimator of the exact model, its single posteriors made narrower, wider or shifted."""
    estimator = known.estimator(posterior="gaussian")
    for _, flow in estimator.system_.flows.items():
        forward = flow.forward

        def wrong(x, covariates=None, forward=forward):
            base = forward(x, covariates).base.base_dist
            return DiagNormal(base.loc + shift * base.scale, base.scale * scale)

        flow.forward = wrong
    return estimator


@pytest.fixture(scope="module")
def known(linear_gaussian):
    return linear_gaussian(3, 2)


@pytest.fixture(scope="module")
def rows(known):
    data = {name: x.astype(np.float32) for name, x in known.sample(300, seed=5).items()}
    return ArraySource(data, known.specs)


def test_rows_are_simulated_and_conditioned_on_with_the_same_covariates(known):
    """Rows of batch A are shifted by the decoder, and experts undo it: exact, if both see it."""
    estimator = known.estimator(
        posterior="gaussian", covariates={"batch": {"levels": ["A", "B"]}, "age": {"mean": 50.0}}
    )
    system = estimator.system_
    plain = system.decode

    def shift(covariates):
        return 5 * covariates["batch"][:, :1] + covariates["age"]

    def decode(z, names=None, covariates=None):
        decoded = plain(z, names)
        return {
            n: Independent(Normal(p.mean + shift(covariates), p.stddev), 1)
            for n, p in decoded.items()
        }

    system.decode = decode
    for _, flow in system.flows.items():
        forward = flow.forward
        flow.forward = lambda x, c=None, forward=forward: forward(x - shift(c))
    found = check_calibration(estimator, subsets=SINGLE)
    assert found.failed == []
    assert found.verdict == "good"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("against", ["model", "data"])
def test_exact_posteriors_pass(known, rows, against, seed):
    """Rows of the model's own data: q(z|X) is exact, so both questions have the answer yes."""
    subsets = [*SINGLE, ["m0", "m1", "m2"]]
    data = rows if against == "data" else None
    found = check_calibration(altered(known), data, seed=seed, subsets=subsets)
    assert found.failed == []
    assert found.verdict == "good"
    assert found.against == against
    for one in found.subsets.values():
        assert one.p_value >= ALPHA
        assert one.kind == "calibrated"
        assert one.sampler.method == "exact"
        # one of 200 independent rows is in an interval or not: four standard errors
        for level, shares in one.coverage.items():
            c = float(level)
            assert np.all(abs(np.array(shares) - c) < 4 * np.sqrt(c * (1 - c) / 200))


@pytest.fixture
def by_chains(monkeypatch):
    """Products of Gaussian experts as of any others: no closed form."""
    monkeypatch.setattr("mvflow.systems.subsets.product.product_of", ProductOfExperts)


def test_exact_products_pass(known, by_chains):
    """Draws of a Markov chain, thinned to few: dependence alone must not fail them."""
    found = check_calibration(altered(known), seed=1, rows=150, subsets=[["m0", "m1"]])
    one = found.subsets["m0+m1"]
    assert (one.sampler.method, one.draws) == ("mcmc", BINS - 1)
    assert one.verdict == "good"
    assert one.sampler.verdict in ("good", "look closer")
    assert one.sampler.divergences == 0


WRONG = [
    ({"scale": 0.6}, "too narrow"),
    ({"scale": 1.7}, "too wide"),
    ({"shift": 0.7}, "shifted"),
    ({"shift": -0.7}, "shifted"),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("change", "kind"), WRONG)
def test_wrong_posteriors_fail_and_are_told_apart(known, change, kind, seed):
    found = check_calibration(altered(known, **change), seed=seed, subsets=SINGLE)
    assert found.failed == ["m0", "m1", "m2"]
    assert found.verdict == "do not trust"
    for one in found.subsets.values():
        assert one.kind == kind
        assert one.advice.startswith(f"{kind.capitalize()} (")
        assert one.failing == 2
        covered = np.array(one.curve.mean) - LEVELS
        if kind != "shifted":
            assert np.all(covered[5:15] < 0) if kind == "too narrow" else np.all(covered[5:15] > 0)
        else:
            side = np.sign(0.5 - np.array(one.mean_rank))
            assert np.all(side == np.sign(change["shift"]))
            assert ("above" if change["shift"] > 0 else "below") in one.advice


def test_wrong_experts_fail_as_a_product_too(known):
    estimator = altered(known, scale=0.6)
    found = check_calibration(estimator, rows=150, subsets=[["m0", "m1"], ["m0"]])
    one = found.subsets["m0+m1"]
    assert (one.verdict, one.kind) == ("do not trust", "too narrow")
    assert "calibrate the posteriors of its single modalities first" in one.advice
    alone = check_calibration(estimator, rows=150, subsets=[["m0", "m1"]]).subsets["m0+m1"]
    assert "draw longer" in alone.advice  # nothing is known of the experts


def test_only_what_is_wrong_fails(known):
    estimator = altered(known)
    narrow = altered(known, scale=0.6).system_.flows["m1"].forward
    estimator.system_.flows["m1"].forward = narrow
    assert check_calibration(estimator, subsets=SINGLE).failed == ["m1"]


def test_calibrated_posteriors_seldom_fail(known):
    """Bonferroni: of 40 diagnoses, about 2 may fail by chance; 7 or more have odds of .003."""
    estimator = altered(known)
    failed = [
        bool(check_calibration(estimator, rows=100, draws=49, seed=s, subsets=[["m0"]]).failed)
        for s in range(40)
    ]
    assert sum(failed) < 7


@pytest.mark.parametrize("kind", [JNF, JNFShared])
@pytest.mark.parametrize("count", [2, 3])
def test_the_result_of_a_trained_model_is_complete_and_repeatable(fitted, small, kind, count):
    estimator = fitted(kind, count)
    names = [f"m{j}" for j in range(count)]
    options = {"rows": 30, "draws": 12, "seed": 2}
    found = check_calibration(estimator, **options)
    raw = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Calibration.from_dict(raw) == found
    assert check_calibration(estimator, **options) == found
    assert len(found.subsets) == 2**count - 1
    assert found.tests == 2 * 2 * (2**count - 1)
    every = [found.verdict]
    for key, one in found.subsets.items():
        assert key == "+".join(one.given)
        assert one.verdict in VERDICTS
        assert one.advice.endswith(".")
        assert len(one.histogram.counts) == 2
        assert {sum(c) for c in one.histogram.counts} == {30}
        is_product = 1 < len(one.given) < count
        assert bool(one.sampler.advice) == is_product
        every += [one.verdict, one.sampler.verdict]
    assert VERDICTS.index(every[0]) == max(map(VERDICTS.index, every[1:]))
    data = ArraySource(small.data(count, rows=40)[0])
    real = check_calibration(estimator, data, **options)
    assert "+".join(names) not in real.subsets
    assert len(real.subsets) == 2**count - 2


def test_of_many_modalities_a_choice_is_checked(linear_gaussian):
    from mvflow.evaluation.calibration import _subsets

    five = SimpleNamespace(modalities=linear_gaussian(5, 1).specs)
    chosen = _subsets(five, None, "model")
    assert {len(s) for s in chosen} == {1, 2, 3, 4, 5}
    assert len(chosen) == 9
    assert max(len(s) for s in _subsets(five, None, "data")) == 4


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 5}, "rows is 5: calibration needs at least 20"),
        ({"draws": 3}, "draws is 3: calibration needs at least 9"),
        ({"subsets": [["m7"]]}, "unknown modality 'm7'"),
        ({"subsets": [[]]}, "a subset to check is empty"),
        ({"subsets": []}, "a subset to check is empty"),
    ],
)
def test_wrong_use(known, options, message):
    with pytest.raises(UsageError, match=message):
        check_calibration(altered(known), **options)


@pytest.mark.bad_input
def test_data_of_a_few_rows_is_refused(known, rows):
    few = ArraySource(rows.take(np.arange(5)), known.specs)
    with pytest.raises(UsageError, match="the data have 5 rows"):
        check_calibration(altered(known), few)


def test_images_are_simulated_with_noise_that_leaves_their_range(small):
    data = small.data(2)[0]
    data["m0"] = np.random.default_rng(0).integers(0, 256, data["m0"].shape).astype(np.uint8)
    model = small.estimator(JNF, 2).fit(data, seed=0)
    drawn = model.simulate(model.encode({n: x[:9] for n, x in data.items()})[0])
    assert drawn["m0"].min() < 0
    with pytest.raises(DataError, match="trained on uint8"):
        model.draw(drawn)
    assert np.isfinite(model.of_own_draws().draw(drawn).z).all()
    assert list(check_calibration(model, rows=20, draws=9).subsets) == ["m0", "m1", "m0+m1"]
