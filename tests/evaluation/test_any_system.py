"""Evaluation, calibration and reports ask nothing of a system but what every estimator has."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from mvflow.config import Classifiers, EvaluationSettings
from mvflow.core import ArraySource, Modality, UsageError, as_source, generator
from mvflow.evaluation import ModalityClassifiers, check_calibration, evaluate
from mvflow.evaluation.baselines import PENALTIES, Baselines
from mvflow.inference import Diagnostics, HMCSampler
from mvflow.report import Entry, write_report

NONE = np.zeros(0)
EXACT = Diagnostics("exact", NONE, np.zeros(0, int), NONE, NONE, NONE, NONE)


class FactorModel:
    """x_j = z + noise with z ~ N(0, 1): exact draws, no encoder, no projections, no density."""

    modalities = (Modality("a", (3,)), Modality("b", (2,)))
    latent_dim, radius, stage_names = 1, float("inf"), ("factors",)
    can_encode = can_project = False

    def __init__(self):
        settings = EvaluationSettings(
            rows=300, prior_draws=40, importance_rows=5, importance_draws=5
        )
        sampler = HMCSampler()
        self.config = SimpleNamespace(
            recipe="",
            seed=0,
            evaluation=settings,
            sampler=sampler,
            modalities={m.name: m for m in self.modalities},
            covariates={},
            covariate_specs=tuple,
        )

    def facts(self):
        return {"system": "factor model"}

    def as_source(self, data):
        return as_source(data, self.modalities)

    def priors(self):
        return ["standard"]

    def draw(self, given=None, n=1, *, seed=0, **_):
        rng = generator(seed)
        if not given:
            return SimpleNamespace(z=rng.normal(size=(n, 1, 1)), diagnostics=EXACT, covariates={})
        count = 1 + sum(x.shape[1] for x in given.values())
        mean = sum(x.sum(1) for x in given.values()) / count
        z = mean[:, None] + rng.normal(size=(n, len(mean), 1)) / count**0.5
        return SimpleNamespace(z=z, diagnostics=EXACT, covariates={})

    def sample_latent(self, given=None, n=1, **options):
        return self.draw(given, n, **options).z

    def decode(self, z, targets=None, *, covariates=None):
        sizes = {m.name: m.shape[0] for m in self.modalities}
        z = np.asarray(z, np.float32)
        return {name: np.repeat(z, sizes[name], -1) for name in targets or sizes}

    def generate(self, given=None, n=1, *, targets=None, **options):
        return self.decode(self.draw(given, n, **options).z, targets)

    def simulate(self, z, targets=None, *, seed=0, covariates=None):
        rng = generator(seed)
        return {name: x + rng.normal(size=x.shape) for name, x in self.decode(z, targets).items()}

    def needs_sampler(self, given):
        return False

    def predictive(self, z, x, *, seed=0, covariates=None):
        mean = self.decode(z, x)
        density = {n: norm.logpdf(x[n], m).sum(-1) for n, m in mean.items()}
        return SimpleNamespace(mean=mean, draws=self.simulate(z, x, seed=seed), log_prob=density)

    def posterior_log_prob(self, z, given):
        msg = "posteriors of this system have no density"
        raise UsageError(msg)

    def log_likelihood(self, x, *, given=None, n=1, seed=0, full_output=False):
        values = np.zeros(len(next(iter(x.values()))))
        return SimpleNamespace(values=values, ess=values + n, khat=values)


@pytest.fixture(scope="module")
def rows():
    model = FactorModel()
    z = generator(1).normal(size=(600, 1))
    return ArraySource(model.simulate(z, seed=2), model.modalities, labels=(z[:, 0] > 0))


@pytest.fixture(scope="module")
def measured(rows):
    classifiers = ModalityClassifiers.train(rows, rows, Classifiers(kind="mlp", epochs=5))
    model, z = FactorModel(), generator(3).normal(size=(2000, 1))
    train = ArraySource(model.simulate(z, seed=4), model.modalities)
    return evaluate(model, rows, classifiers, train=train), classifiers


def test_predictions_of_the_true_model_are_as_good_as_can_be_and_their_intervals_hold(measured):
    """Given a, z has mean sum(a) / 4 and variance 1 / 4: b = z + noise has variance 1.25."""
    found = measured[0].predictions["a->b"]
    assert found.kind == "numbers"
    # b has variance 2, of which 1.25 is left
    assert abs(found.model.r2.mean - 0.375) < 4 * found.model.r2.standard_error
    assert abs(found.baselines["ridge"].r2.mean - 0.375) < 4 * found.model.r2.standard_error
    assert found.winner == "tied"  # ridge regression is the right model, too
    assert "equally well within noise" in found.sentence
    assert abs(found.differences["constant"].mean - 0.375) < 0.1
    for level, interval in found.model.intervals.items():
        for share in (interval.coverage, interval.calibrated_coverage):
            assert abs(share.mean - level) < 4 * max(share.standard_error, 0.02)
        z = norm.ppf((1 + level) / 2)
        assert interval.width == pytest.approx(2 * z * (1.25 / 2) ** 0.5, rel=0.1)
    score = norm.entropy(scale=1.25**0.5)  # of one column; two share z, which tells a little more
    assert -found.model.log_score.mean == pytest.approx(2 * score, abs=0.15)
    assert found.model.crps.mean == pytest.approx((1.25 / np.pi) ** 0.5, rel=0.06)
    assert found.baselines["ridge"].crps.mean == pytest.approx(found.model.crps.mean, rel=0.06)
    assert [c.name for c in found.columns] in (["0", "1"], ["1", "0"])
    assert measured[0].predictions_by_observed[1].wins == {"tied": 2}
    assert measured[0].prediction_sentence.startswith("Of 2 directions to tables the model and")


def test_what_a_system_does_not_have_is_left_out(measured):
    result, _ = measured
    assert result.facts == {"system": "factor model"}
    assert result.posterior_log_density == {}
    assert result.shared is None
    assert result.coherence.joint_fitted is None
    assert result.latent.radius is None
    assert result.sampler.method == "exact"
    raw = result.to_dict()
    assert "radius" not in raw["latent"]
    assert type(result).from_dict(raw) == result
    # z and a draw given a, which has 3 values, correlate by 3/4: so often do their signs agree
    found, expected = result.coherence.conditional["a->b"], 0.5 + np.arcsin(0.75) / np.pi
    # the classifier sees z itself in what is decoded, and cuts it near 0
    assert abs(found.mean - expected) < 4 * found.standard_error


def test_exact_posteriors_of_another_system_are_calibrated():
    found = check_calibration(FactorModel(), rows=200)
    assert found.failed == []
    assert found.outside_ball == 0
    assert {one.sampler.method for one in found.subsets.values()} == {"exact"}


def test_what_to_do_is_said_without_parts_that_it_does_not_have():
    class Narrow(FactorModel):
        def draw(self, given=None, n=1, **options):
            found = super().draw(given, n, **options)
            mean = found.z.mean(0) if given else 0
            found.z = found.z if not given else mean + 0.5 * (found.z - mean)
            return found

    found = check_calibration(Narrow(), rows=200)
    assert found.failed == ["a", "b", "a+b"]
    for one in found.subsets.values():
        assert one.kind == "too narrow"
        assert "train for more epochs: no losses are kept" in one.advice
        assert "posterior" not in one.advice


def test_it_has_a_report(rows, measured, tmp_path):
    result, classifiers = measured
    history = [
        {"stage": "factors", "epoch": i, "loss": 1.0 / (i + 1), "samples_per_second": 9.0}
        for i in range(3)
    ]
    entry = Entry("mine", FactorModel(), rows, history, {}, {}, result)
    path = write_report(tmp_path / "r.html", [entry], classifiers=classifiers)
    text = path.read_text("utf-8")
    assert "factor model" in text
    assert "Loss curves of the stage factors" in text
    assert "Latent space of mine: 600 test rows" in text
    assert "All draws are exact: no sampler is needed." in text
    assert "Posterior density" not in text


class MaskedFactorModel(FactorModel):
    """The same, whose exact posterior takes rows that lack values."""

    def draw(self, given=None, n=1, *, seed=0, **_):
        if not given:
            return super().draw(None, n, seed=seed)
        x = {k: v for k, v in given.items() if "/" not in k}
        masks = {k: given.get(f"present/{k}", np.ones(v.shape, bool)) for k, v in x.items()}
        masks = {k: np.broadcast_to(m.reshape(len(m), -1), x[k].shape) for k, m in masks.items()}
        count = 1 + sum(m.sum(1) for m in masks.values())
        mean = sum(np.where(masks[k], v, 0).sum(1) for k, v in x.items()) / count
        noise = generator(seed).normal(size=(n, len(mean))) / count**0.5
        return SimpleNamespace(z=(mean + noise)[..., None], diagnostics=EXACT, covariates={})

    def predictive(self, z, x, *, seed=0, covariates=None):
        values = {name: v for name, v in x.items() if "/" not in name}
        found = super().predictive(z, values, seed=seed)
        for name, mean in self.decode(z, values).items():
            mask = x.get(f"present/{name}", np.ones(values[name].shape, bool))
            density = np.where(mask, norm.logpdf(values[name], mean), 0.0)
            found.log_prob[name] = density.sum(-1)
        return found


def lacking(kind, absent=np.nan):
    """Rows of which 40 % have both modalities, or a third of the values of `a` are missing."""
    model, rng = FactorModel(), np.random.default_rng(7)
    z = rng.normal(size=(600, 1))
    x = model.simulate(z, seed=2)
    labels = np.where(rng.random(600) < 0.2, -1, z[:, 0] > 0)
    dropped = rng.random(600)
    present = {"a": dropped > 0.3, "b": (dropped < 0.3) | (dropped > 0.6)}
    if kind == "entries":
        present = {"a": rng.random(x["a"].shape) > 1 / 3}
        present["a"][:, 0] |= ~present["a"].any(1)
    for name, mask in present.items():
        wide = mask.reshape(600, -1)
        x[name] = np.where(wide, x[name], absent)
    return ArraySource(x, model.modalities, labels=labels, present=present), present


@pytest.fixture(scope="module")
def judged(rows):
    return ModalityClassifiers.train(rows, rows, Classifiers(kind="mlp", epochs=5))


@pytest.mark.parametrize("kind", ["rows", "entries"])
def test_rows_that_lack_something_are_measured_as_far_as_they_go(judged, kind):
    data, present = lacking(kind)
    train, _ = lacking(kind)
    found = evaluate(MaskedFactorModel(), data, judged, train=train)
    seen = found.presence
    assert seen.rows == 600
    assert seen.labelled == (data.labels >= 0).sum()
    complete = np.all([m.reshape(600, -1).any(1) for m in present.values()], 0)
    assert seen.complete == complete.sum()
    assert seen.full["a"] == present["a"].reshape(600, -1).all(1).sum()
    assert found.rows == min(300, complete.sum())
    full = found.frechet["classifier"].reference_full
    assert set(full) == {name for name, mask in present.items() if not mask.all()}
    assert 0 < full["a"] <= seen.full["a"]
    assert found.rows_by_observed == {1: 300}
    for prediction in found.predictions.values():
        r2 = prediction.model.r2
        assert prediction.rows == (300 if kind == "entries" else complete.sum())
        for name in ("ridge", "neighbours"):
            assert prediction.baselines[name].r2.mean < r2.mean + 4 * r2.standard_error
        cover = prediction.model.intervals[0.9].coverage
        assert abs(cover.mean - 0.9) < 4 * max(cover.standard_error, 0.02)
    if kind == "entries":  # b tells of a what it always does, whatever is missing of that
        found_r2 = found.predictions["b->a"].model.r2
        # given b, z has variance 1 / 3: a = z + noise has 4 / 3 of its variance 2
        assert abs(found_r2.mean - 1 / 3) < 4 * found_r2.standard_error
    else:  # exactly as of complete rows
        r2 = found.predictions["a->b"].model.r2
        assert abs(r2.mean - 0.375) < 4 * r2.standard_error
        expected = 0.5 + np.arcsin(0.75) / np.pi
        hits = found.coherence.conditional["a->b"]
        assert abs(hits.mean - expected) < 4 * hits.standard_error
    sentence = seen.sentence
    assert ("of 600 test rows" in sentence.lower()) == (kind == "rows")
    assert ("values are missing (a in" in sentence.lower()) == (kind == "entries")
    assert type(found).from_dict(found.to_dict()) == found


@pytest.mark.parametrize("kind", ["rows", "entries"])
def test_what_is_absent_changes_nothing_of_an_evaluation(judged, kind):
    dirty, clean = (lacking(kind, absent)[0] for absent in (np.nan, 1e6))
    results = [evaluate(MaskedFactorModel(), d, judged, train=d).to_dict() for d in (dirty, clean)]
    assert results[0] == results[1]


def test_a_table_with_a_gap_in_every_row_is_measured_and_what_is_left_out_is_said(judged):
    """Diversity of real rows by the values that pairs of them have; no distance of features."""
    whole, _ = lacking("entries", 0.0)
    x = whole.take(np.arange(600))
    mask = np.ones((600, 3), bool)
    mask[np.arange(600), np.arange(600) % 3] = False
    holes = {**x, "a": np.where(mask, x["a"], 1e6).astype(np.float32)}
    of = {"labels": whole.labels, "present": {"a": mask}}
    gaps = ArraySource({n: holes[n] for n in "ab"}, FactorModel.modalities, **of)
    found = evaluate(MaskedFactorModel(), gaps, judged)
    assert "hardly any row has all values of a, so that no distance" in found.presence.sentence
    assert all("->a" not in of for network in found.frechet.values() for of in network.conditional)
    full = ArraySource({n: x[n] for n in "ab"}, FactorModel.modalities, labels=whole.labels)
    real, known = (
        evaluate(MaskedFactorModel(), each, judged).diversity["data"].real["a"]
        for each in (gaps, full)
    )
    assert abs(real.mean - known.mean) < 4 * (real.standard_error + known.standard_error)


def test_modalities_that_no_row_has_together_are_measured_one_from_another_only_by_class(judged):
    """No row has both: nothing is scored, and what is generated is still of the right class."""
    data, _ = lacking("entries", 0.0)
    x, here = data.take(np.arange(600)), np.arange(600) % 2 == 0
    apart = ArraySource(
        {"a": x["a"], "b": x["b"]},
        FactorModel.modalities,
        labels=data.labels,
        present={"a": here, "b": ~here},
    )
    found = evaluate(MaskedFactorModel(), apart, judged)
    assert found.presence.complete == 0
    assert found.predictions == {}
    assert found.coherence.conditional["a->b"].mean > 0.6
    assert [*found.log_likelihood] == ["joint"]


def test_many_inputs_enter_baselines_by_their_principal_components():
    from sklearn.linear_model import RidgeCV

    rng = np.random.default_rng(0)
    z, loadings = rng.normal(size=(900, 20)), rng.normal(size=(20, 1200))
    a = (z @ loadings + rng.normal(size=(900, 1200))).astype(np.float32)
    b = (z[:, :3] + 0.3 * rng.normal(size=(900, 3))).astype(np.float32)
    specs = [Modality("a", (1200,)), Modality("b", (3,))]
    train = ArraySource({"a": a[:800], "b": b[:800]}, specs)
    of_b = Baselines(train, {}, (), 0).predict({"a": a[800:]}, ["a"], ["b"])["b"]
    assert {n: of.components for n, of in of_b.items()} == {
        "ridge": 500,
        "neighbours": 500,
        "constant": 0,
    }
    back = Baselines(train, {}, (), 0).predict({"b": b[800:]}, ["b"], ["a"])["a"]
    assert not any(of.components for of in back.values())
    made = of_b["ridge"].mean
    ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(a[:800], b[:800])
    errors = [((m - b[800:]) ** 2).mean() for m in (made, ridge.predict(a[800:]))]
    # The 20 directions that matter are among the 500 that are kept; the rest of both is noise.
    assert errors[0] < 1.1 * errors[1]
    assert errors[0] < 0.2 * b[800:].var()
    few = ArraySource({"a": a[:40], "b": b[:40]}, specs)  # fewer rows than components
    assert (
        Baselines(few, {}, (), 0).predict({"a": a[800:]}, ["a"], ["b"])["b"]["ridge"].components
        == 40
    )


def test_baselines_of_bits_are_those_of_the_same_numbers():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 2)).astype(np.float32)
    bits = (a[:, :1] + rng.normal(size=(300, 1)) > 0).astype(np.float32)
    specs = [Modality("a", (2,)), Modality("b", (1,), "bernoulli")]
    found = []
    for b in (bits, (255 * bits).astype(np.uint8)):  # as a store keeps them
        train = ArraySource({"a": a[:200], "b": b[:200]}, specs)
        made = Baselines(train, {}, (), 0, {"b": {0: 2}})
        found.append(made.predict({"a": a[200:]}, ["a"], ["b"])["b"])
    for name, of in found[0].items():
        np.testing.assert_allclose(found[1][name].mean, of.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found[1][name].classes[0], of.classes[0], rtol=1e-9)


def test_baselines_of_incomplete_rows_are_those_of_the_rows_that_have_what_is_needed():
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    data, present = lacking("rows")
    x, new = (d.take(np.arange(n)) for d, n in ((data, 600), (lacking("rows", 0.0)[0], 50)))
    x, new = ({n: v.astype(float) for n, v in of.items()} for of in (x, new))
    made = Baselines(data, {}, (), 0).predict({"a": new["a"]}, ["a"], ["b"])["b"]
    both = present["a"] & present["b"]
    scaler = StandardScaler().fit(x["a"][both])
    ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(
        scaler.transform(x["a"][both]), x["b"][both]
    )
    expected = ridge.predict(scaler.transform(new["a"]))
    np.testing.assert_allclose(made["ridge"].mean, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made["constant"].mean[0], x["b"][both].mean(0), rtol=1e-9)
    gaps, masks = lacking("entries")
    known = masks["a"]
    made = Baselines(gaps, {}, (), 0).predict({"b": new["b"]}, ["b"], ["a"])["a"]
    taken = {name: v.astype(float) for name, v in gaps.take(np.arange(600)).items()}
    scaler = StandardScaler().fit(taken["b"])
    for j in range(3):
        at = known[:, j]
        fit = RidgeCV(PENALTIES, alpha_per_target=True)
        # rows are scaled together, and each column is learnt from those that have it
        fit.fit(scaler.transform(taken["b"])[at], taken["a"][at, j][:, None])
        expected = fit.predict(scaler.transform(new["b"])).ravel()
        np.testing.assert_allclose(made["ridge"].mean[:, j], expected, rtol=1e-9, atol=1e-9)
        mean = taken["a"][at, j].mean()
        np.testing.assert_allclose(made["constant"].mean[:, j], mean, rtol=1e-9)


def test_reports_say_which_rows_were_measured_and_show_complete_ones(judged, tmp_path):
    data, present = lacking("rows")
    result = evaluate(MaskedFactorModel(), data, judged)
    entry = Entry("mine", MaskedFactorModel(), data, [], {}, {}, result)
    assert len(entry.test) == (present["a"] & present["b"] & (data.labels >= 0)).sum()
    path = write_report(tmp_path / "r.html", [entry], classifiers=judged)
    assert result.presence.sentence in path.read_text("utf-8")
    calibrated = check_calibration(MaskedFactorModel(), data, rows=150)
    assert calibrated.failed == []
