"""The evaluation of estimators: complete, repeatable, and right where the answer is known."""

import json
from itertools import combinations
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest

from mvflow import JNF, JNFShared
from mvflow.config import EvaluationSettings
from mvflow.core import ArraySource, DataError, Modality, derive_seed
from mvflow.evaluation import (
    Evaluation,
    ModalityClassifiers,
    check_calibration,
    direction,
    evaluate,
    generation,
)
from mvflow.evaluation import rows as evaluation_rows
from mvflow.evaluation.generation import Generation
from mvflow.evaluation.rows import EvaluationRows, chosen_subsets
from mvflow.evaluation.summaries import coherence, frechet
from mvflow.inference.diagnostics import exact
from mvflow.metrics import Estimate
from mvflow.runs import read_json, write_json


class Labels:
    """Classifiers that read the class off the first value of a row; the values are features."""

    name = "classifier"
    accuracy = {"m0": 1.0, "m1": 1.0, "m2": 1.0}

    def predict(self, name, x):
        return self.predict_with_features(name, x)[0]

    def predict_with_features(self, name, x):
        x = np.asarray(x)
        return x[..., 0].round().astype(int), x


class Plain:
    """Features of one's own: the values themselves."""

    name = "plain"

    def features(self, name, x):
        return np.asarray(x, np.float64)


class Generator:
    """An estimator that generates the class of what is given, or a random one."""

    def __init__(self, names, classes, rows, *, perfect):
        self.names, self.classes, self.perfect = names, classes, perfect
        self.modalities = [Modality(n, (1, 1)) for n in names]  # not a table: nothing to predict
        self.config = SimpleNamespace(
            evaluation=EvaluationSettings(product_rows=rows, prior_draws=rows)
        )

    def priors(self):
        return ["own", "constant"]

    def _made(self, shape, of, seed, names):
        rng = np.random.default_rng(seed)
        found = {}
        for name in names:
            random = rng.integers(self.classes, size=shape)
            found[name] = (np.broadcast_to(of, shape) if self.perfect else random)[..., None]
        return found

    def draw(self, given=None, n=1, *, seed=0, prior=None):
        """The latent is the class, or what a random generator makes of it."""
        if given is None:
            z = np.random.default_rng(seed).integers(self.classes, size=(n, 1, 1))
            z = 0 * z if prior == "constant" else z
        else:
            z = np.broadcast_to(next(iter(given.values())), (n, *given[min(given)].shape))
        return SimpleNamespace(z=z, diagnostics=exact())

    def needs_sampler(self, given):
        return True

    def decode(self, z, names=None, *, covariates=None):
        z = np.asarray(z)
        seed = derive_seed(int(z.sum()), *z.shape)
        return self._made(z.shape[:-1], z[..., 0], seed, names or self.names)


def measured(generator, labels, classifiers, networks=(), seed=0):
    names = generator.names
    x = {name: labels[:, None].astype(np.float32) for name in names}
    test = ArraySource(x, labels=labels)
    rows = EvaluationRows.of(len(labels), generator.config.evaluation, seed)
    everyone = [*([classifiers] if classifiers else []), *networks]
    return put_together(Generation(generator, test, rows, classifiers, everyone, seed))


def put_together(of):
    """What an evaluation has of generated rows."""
    subsets = chosen_subsets(of.names, 10, of.seed)
    parts = [of.subset(given) for found in subsets.values() for given in found]
    keys = dict(zip(("joint", "joint_fitted"), of.estimator.priors(), strict=False))
    joint = {key: of.joint(prior) for key, prior in keys.items()}
    rebuilt = of.rebuilt()
    found = {
        "rows_by_observed": {len(part.given): part.rows for part in parts},
        "reconstruction": rebuilt.errors,
        "diversity": of.diversity().spaces,
    }
    if of.classifiers is not None:
        labels = of.test.labels[of.rows.chosen]
        found["coherence"] = coherence(parts, joint, rebuilt.kept, labels, of.clusters)
    real = of.features.real()
    sizes = {"rows": of.compared, "reference_rows": len(of.rows.reference)}
    sizes["manifold_rows"] = of.features.manifold_rows
    found["frechet"] = {
        name: frechet(name, count, parts, joint, real, **sizes)
        for name, count in (of.features.feature_counts.items() if of.networks else ())
    }
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("perfect", [True, False])
def test_a_perfect_generator_is_coherent_and_a_random_one_by_chance(count, perfect):
    rows, classes = 4000, 4
    labels = np.random.default_rng(0).integers(classes, size=rows)
    names = [f"m{j}" for j in range(count)]
    generator = Generator(names, classes, rows, perfect=perfect)
    found = measured(generator, labels, Labels())["coherence"]
    values = [*found.conditional.values(), *found.conditional_by_observed.values()]
    values += [*found.reconstruction.values(), found.conditional_mean]
    if perfect:
        assert all(
            v == Estimate(1.0, 0.0) for v in [*values, *found.conditional_by_class.values()]
        )
        assert found.joint == found.joint_fitted == Estimate(1.0, 0.0)
        assert found.joint_fitted_chance == 1.0  # it makes one class only: nothing is shown
        # the frequencies of four classes among so many draws are within 4 errors of 1 / 4
        assert abs(found.joint_chance - classes ** (1 - count)) < 0.01
        # half of the rows are chosen: shares have a standard error of 0.01
        assert abs(found.conditional_chance - max(np.bincount(labels)) / rows) < 0.04
        return
    for value, chance in [(v, 1 / classes) for v in values] + [
        (found.joint, classes ** (1 - count))
    ]:
        assert abs(value.mean - chance) < 4 * value.standard_error
    exact = np.sqrt(1 / classes * (1 - 1 / classes) / EvaluationSettings().rows)
    for value in found.conditional.values():  # an error of so many shares is known to 2 %
        assert value.standard_error == pytest.approx(exact, rel=0.1)


class Blind(Generator):
    """Makes the most frequent class, whatever is given."""

    def _made(self, shape, of, seed, names):
        return {name: np.zeros((*shape, 1)) for name in names}


@pytest.mark.parametrize("count", [2, 3])
def test_one_class_only_is_as_coherent_as_chance_where_classes_are_unequal(count):
    labels = (np.random.default_rng(0).random(4000) < 0.05).astype(int)
    blind = Blind([f"m{j}" for j in range(count)], 2, len(labels), perfect=False)
    found = measured(blind, labels, Labels())["coherence"]
    assert found.joint.mean == found.joint_chance == 1.0
    assert found.conditional_chance > 0.93
    for value in found.conditional.values():
        assert value.mean == pytest.approx(found.conditional_chance, abs=4 * value.standard_error)
    assert found.conditional_balanced.mean == 0.5


def test_distances_and_errors_of_a_perfect_generator_are_zero_and_of_a_random_one_known():
    """Classes 0...3 have variance 1.25; a random one is 2 * 1.25 away, squared, on average."""
    rows, classes = 4000, 4
    labels = np.random.default_rng(0).integers(classes, size=rows)
    for perfect in (True, False):
        generator = Generator(["m0", "m1"], classes, rows, perfect=perfect)
        found = measured(generator, labels, None, [Plain()])
        assert "coherence" not in found
        distances = found["frechet"]["plain"]
        assert distances.features == 1
        # both follow one distribution: squared errors of mean and spread, 1.25 / rows and less
        for value in (*distances.joint.values(), *distances.conditional.values()):
            assert value.mean < 16 * 1.25 / rows
        if perfect:  # only class 0, from the fitted prior: (0 - 1.5)^2 + 1.25
            for value in distances.joint_fitted.values():
                assert abs(value.mean - 3.5) < 5 * 3 * (1.25 / rows) ** 0.5
        error = found["reconstruction"]["m0"]
        expected = 0 if perfect else 2.5
        assert abs(error.mean - expected) <= 4 * error.standard_error


def test_diversity_of_equal_draws_is_zero_and_of_random_ones_that_of_chance():
    labels = np.random.default_rng(0).integers(4, size=4000)
    for perfect in (True, False):
        found = measured(Generator(["m0", "m1"], 4, 100, perfect=perfect), labels, None, [Plain()])
        for space in ("data", "plain"):
            assert found["diversity"][space].real["m0"].mean == 0  # of one class: equal
            spread = found["diversity"][space].conditional["m0->m1"]
            chance = np.abs(np.subtract.outer(range(4), range(4))).mean()
            expected = 0 if perfect else chance
            assert abs(spread.mean - expected) <= 4 * spread.standard_error


def test_real_rows_apart_from_the_reference_say_how_far_is_near():
    labels = np.random.default_rng(0).integers(4, size=4000)
    generator = Generator(["m0", "m1", "m2"], 4, 100, perfect=True)
    generator.config.evaluation = EvaluationSettings(rows=1000, product_rows=50, prior_draws=500)
    rows = EvaluationRows.of(4000, generator.config.evaluation, 0)
    assert rows.is_apart
    assert not set(rows.chosen) & set(rows.reference)
    assert (len(rows.chosen), len(rows.few), len(rows.reference)) == (1000, 50, 1000)
    found = measured(generator, labels, None, [Plain()])
    assert found["rows_by_observed"] == {1: 1000, 2: 50}
    distances = found["frechet"]["plain"]
    assert distances.rows == 50  # of every subset, that they compare
    for value in (*distances.real.values(), distances.mean.real):
        assert 0 < value.mean < 32 * 1.25 / 50
    few = EvaluationRows.of(1500, generator.config.evaluation, 0)  # fewer are left than are chosen
    assert not few.is_apart
    assert len(few.reference) == 1000


class Wide(Plain):
    """Many features: their distances from few rows are large, whatever made the rows."""

    def features(self, name, x):
        rng = np.random.default_rng(derive_seed(0, *np.asarray(x).shape, int(np.sum(x))))
        return np.asarray(x, np.float64) + rng.normal(size=(len(x), 8))


def test_distances_of_few_and_of_many_observed_modalities_compare():
    """A perfect generator is as near with one modality as with two: no size has more rows."""
    labels = np.random.default_rng(0).integers(4, size=4000)
    generator = Generator(["m0", "m1", "m2"], 4, 100, perfect=True)
    generator.config.evaluation = EvaluationSettings(rows=1000, product_rows=50, prior_draws=2000)
    distances = measured(generator, labels, None, [Wide()])["frechet"]["plain"]
    one, two = (distances.conditional_by_observed[size].mean for size in (1, 2))
    assert distances.mean.real.mean > 0.5  # what few rows alone make of it, and plainly
    assert one == pytest.approx(two, rel=0.2)
    assert one == pytest.approx(distances.mean.real.mean, rel=0.2)
    assert abs(distances.conditional["m0->m1"].infinite) < 0.5 * one


def test_coherence_is_averaged_over_targets_then_over_subsets():
    """Two targets given one of three modalities, but one given two: directions weigh unlike."""
    labels = np.random.default_rng(0).integers(4, size=2000)

    class Uneven(Generator):
        """Right only where two modalities are given."""

        def draw(self, given=None, n=1, **options):
            self.perfect = given is None or len(given) > 1
            return super().draw(given, n, **options)

    found = measured(Uneven(["m0", "m1", "m2"], 4, 500, perfect=True), labels, Labels())
    coherence = found["coherence"]
    one, two = (coherence.conditional_by_observed[size].mean for size in (1, 2))
    assert two == 1.0
    assert coherence.conditional_mean.mean == pytest.approx((3 * one + 3 * two) / 6)
    directions = np.mean([v.mean for v in coherence.conditional.values()])
    assert directions == pytest.approx((6 * one + 3 * two) / 9)
    by_class = coherence.conditional_by_class
    assert sorted(by_class) == [0, 1, 2, 3]
    assert np.mean([v.mean for v in by_class.values()]) == pytest.approx(
        coherence.conditional_mean.mean, abs=4 * coherence.conditional_mean.standard_error
    )


def test_rows_that_share_an_image_are_no_new_evidence():
    """Each image in five rows: the error is that of the images, not of the rows."""
    classes = np.random.default_rng(0).integers(4, size=200)
    index = np.repeat(np.arange(200), 5)
    values = {name: classes[:, None].astype(np.float32) for name in ("m0", "m1")}
    pairs = dict.fromkeys(values, index)
    test = ArraySource(values, labels=classes[index], pairs=pairs)
    generator = Generator(["m0", "m1"], 4, 100, perfect=False)
    generator.config.evaluation = EvaluationSettings(rows=1000, prior_draws=100)
    generator.decode = lambda z, names=None, covariates=None: dict.fromkeys(
        names or ["m0", "m1"], 0 * z
    )
    rows = EvaluationRows.of(1000, generator.config.evaluation, 0)
    network = Labels()
    found = put_together(Generation(generator, test, rows, network, [network], 0))["coherence"]
    share = np.mean(classes == 0)
    for value in found.conditional.values():
        assert value.mean == pytest.approx(share)
        exact = np.sqrt(share * (1 - share) / 199)
        assert value.standard_error == pytest.approx(exact, rel=1e-6)


def test_rows_may_pass_in_batches_of_any_size(fitted, small, monkeypatch):
    """All but the draws is the same, and those are as good: means within their errors."""
    data, labels = small.data(2, rows=60, seed=9)
    test = ArraySource(data, labels=labels)
    whole = evaluate(fitted(JNFShared, 2), test, Labels(), [Plain()])
    monkeypatch.setattr(evaluation_rows, "BATCH_ROWS", 16)
    parts = evaluate(fitted(JNFShared, 2), test, Labels(), [Plain()])
    for key in ("log_likelihood", "sampler", "classifiers", "rows_by_observed"):
        assert getattr(parts, key) == getattr(whole, key)
    for name, density in whole.posterior_log_density.items():
        assert parts.posterior_log_density[name].mean == pytest.approx(density.mean, 1e-4)
    for name, error in whole.reconstruction.items():
        apart = abs(parts.reconstruction[name].mean - error.mean)
        assert apart < 6 * error.standard_error
    for pair, values in whole.shared.correlations.items():
        assert parts.shared.correlations[pair] == pytest.approx(values, 1e-4)


def test_rows_are_compared_as_decoders_make_them():
    """Classes as probabilities, intensities from 0 to 1."""
    specs = [Modality("c", (2,), "categorical"), Modality("i", (1, 1, 2))]
    images = np.array([[[[255, 0]]], [[[51, 51]]]], np.uint8)
    test = ArraySource({"c": [1, 0], "i": images}, specs)
    rows = EvaluationRows.of(2, EvaluationSettings(), 0)
    model = SimpleNamespace(modalities=specs)
    generated = Generation(model, test, rows, None, [], 0)
    np.testing.assert_array_equal(generated._values("c", np.array([1, 0])), [[0, 1], [1, 0]])
    probabilities = np.array([[0.2, 0.8]], np.float32)
    np.testing.assert_array_equal(generated._values("c", probabilities), probabilities)
    np.testing.assert_allclose(generated._values("i", images).ravel(), [1, 0, 0.2, 0.2], rtol=1e-6)
    made = np.array([[0.2, 0.8], [1.0, 0.0]], np.float32)
    true = generated._values("c", np.array([1, 1]))
    found, known = generation._squared_error(made, true, None)
    np.testing.assert_allclose(found, [0.04, 1.0], rtol=1e-6)
    assert known.all()
    true[0, 0] = np.nan  # absent, and never read
    mask = np.array([[False, True], [False, False]])
    found, known = generation._squared_error(made, true, mask)
    np.testing.assert_allclose(found, [0.04], rtol=1e-6)
    assert known.tolist() == [True, False]


def test_directions_are_sorted():
    assert direction(("m1", "m0"), "m2") == "m0+m1->m2"


@pytest.fixture(scope="module", params=[(JNF, 2), (JNF, 3), (JNFShared, 2), (JNFShared, 3)])
def case(request, fitted, small):
    kind, count = request.param
    data, labels = small.data(count, rows=60, seed=9)
    return fitted(kind, count), ArraySource(data, labels=labels), sorted(data)


@pytest.fixture(scope="module")
def result(case):
    estimator, test, _ = case
    return evaluate(estimator, test, Labels(), [Plain()], seed=3)


def test_the_result_is_json_and_survives_a_file(result, tmp_path):
    text = json.dumps(result.to_dict(), allow_nan=False)
    write_json(tmp_path / "evaluation.json", result.to_dict())
    assert Evaluation.from_dict(json.loads(text)) == result
    assert Evaluation.from_dict(read_json(tmp_path / "evaluation.json")) == result


def test_numbers_that_are_none_survive_a_file_too(result):
    """NaN of a diverged model becomes null and comes back; what is absent stays absent."""
    error = Estimate(1.0, float("nan"))
    known = result.model_copy(update={"reconstruction": {"m0": error}, "shared": None})
    raw = json.loads(json.dumps(known.to_dict(), allow_nan=False))
    assert "shared" not in raw
    found = Evaluation.from_dict(raw).reconstruction["m0"]
    assert found.mean == 1.0
    assert np.isnan(found.standard_error)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw.pop("sampler"), "a.json does not hold .* 'sampler' is missing"),
        (lambda raw: raw.update(model="jnf"), "'model' is not known"),
        (lambda raw: raw["coherence"].update(joint=0.5), "'coherence.joint' is 0.5: "),
        (lambda raw: raw.update(rows="many"), "'rows' is 'many': .*integer.* make it anew"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_its_key(result, change, sentence):
    raw = json.loads(json.dumps(result.to_dict()))
    change(raw)
    with pytest.raises(DataError, match=sentence):
        Evaluation.from_dict(raw, "a.json")


def test_the_result_is_complete(result, case):
    estimator, _, names = case
    assert result.facts == estimator.facts()
    assert result.rows == 30
    assert (result.seed, result.trained_with_seed) == (3, 0)
    pairs = {f"{a}->{b}" for a in names for b in names if a != b}
    assert result.log_likelihood.keys() == {"joint"} | pairs
    for found in (*result.log_likelihood.values(), *result.posterior_log_density.values()):
        assert np.isfinite(found.mean)
        assert found.standard_error > 0
    assert result.posterior_log_density.keys() == set(names)
    assert result.sampler.method == "mcmc"
    assert result.sampler.given == "+".join(names)
    assert result.latent.redrawn.keys() == set(names)
    assert result.latent.largest_norm <= result.latent.radius * (1 + 1e-6)
    conditional = {
        f"{'+'.join(given)}->{target}"
        for size in range(1, len(names))
        for given in combinations(names, size)
        for target in set(names) - set(given)
    }
    coherence = result.coherence
    assert coherence.conditional.keys() == conditional
    assert coherence.conditional_by_observed.keys() == set(range(1, len(names)))
    assert coherence.reconstruction.keys() == set(names)
    assert result.frechet.keys() == {"classifier", "plain"}
    for distances in result.frechet.values():
        assert distances.joint.keys() == set(names)
        assert distances.conditional.keys() == conditional
        found = [*distances.joint.values(), *distances.conditional.values()]
        assert min(d.mean for d in found) >= 0
        assert min(d.standard_error for d in found) > 0
        # every subset of one size has as many targets: subsets, then sizes, weigh alike
        counts = [comb(len(names), size) for size in distances.conditional_by_observed]
        sizes = [d.mean for d in distances.conditional_by_observed.values()]
        assert distances.mean.conditional.mean == pytest.approx(np.average(sizes, weights=counts))
    assert result.frechet["classifier"].joint == result.frechet["plain"].joint
    assert result.reconstruction.keys() == set(names)
    assert result.diversity.keys() == {"data", "classifier", "plain"}
    for spread in result.diversity.values():
        assert spread.conditional.keys() == pairs
        assert spread.real.keys() == set(names)
    assert (result.shared is not None) == isinstance(estimator, JNFShared)


def test_precision_and_recall_stand_beside_distances(result, case):
    """30 rows are chosen of 60, and 30 others real: all of them make both manifolds."""
    _, _, names = case
    for distances in result.frechet.values():
        assert distances.limit is None  # it was not asked for
        assert distances.manifold_rows == (30 if len(names) == 2 else 0)
        if len(names) > 2:  # ten rows where several are observed are too few
            assert distances.precision is distances.recall is None
            continue
        for measure in (distances.precision, distances.recall):
            assert measure.joint.keys() == measure.real.keys() == set(names)
            assert measure.conditional.keys() == distances.conditional.keys()
            values = [*measure.joint.values(), *measure.conditional.values()]
            assert all(0 <= v.mean <= 1 for v in values)
            assert measure.mean.joint.mean == pytest.approx(
                np.mean([v.mean for v in measure.joint.values()])
            )
    many = result.coherence.one_to_many
    assert (many is not None) == (len(names) > 2)


def test_a_perfect_generator_has_the_precision_and_recall_of_real_rows():
    """Rows of one distribution, seen in noisy features; a constant one has no recall."""
    labels = np.random.default_rng(0).integers(4, size=4000)
    generator = Generator(["m0", "m1"], 4, 100, perfect=True)
    generator.config.evaluation = EvaluationSettings(rows=400, prior_draws=400)
    found = measured(generator, labels, None, [Wide()])["frechet"]["plain"]
    assert found.manifold_rows == 400
    for measure in (found.precision, found.recall):
        for value in measure.conditional.values():
            floor = measure.real["m0"]
            noise = np.hypot(value.standard_error, floor.standard_error)
            assert abs(value.mean - floor.mean) < 4 * noise
        assert measure.real["m0"].mean > 0.5
    assert found.recall.joint_fitted["m0"].mean < 0.5 * found.recall.joint["m0"].mean


def test_distances_of_infinitely_many_rows_are_asked_for():
    """A perfect generator is at no distance, where few rows have a large one."""
    labels = np.random.default_rng(0).integers(4, size=4000)
    generator = Generator(["m0", "m1"], 4, 100, perfect=True)
    generator.config.evaluation = EvaluationSettings(
        rows=400, prior_draws=400, frechet_infinity=True
    )
    found = measured(generator, labels, None, [Wide()])["frechet"]["plain"]
    for value in (*found.limit.conditional.values(), *found.limit.real.values()):
        assert abs(value.mean) < 3 * value.standard_error
    few = found.conditional["m0->m1"]
    assert few.mean > 2 * few.standard_error
    generator.config.evaluation = EvaluationSettings(
        rows=30, prior_draws=30, frechet_infinity=True
    )
    few = measured(generator, labels, None, [Wide()])["frechet"]["plain"]
    assert (
        few.limit is None
    )  # 15 rows, the half of them, are fewer than two for each of 8 features


def test_the_means_by_size_are_those_of_their_directions(result, case):
    coherence = result.coherence
    for size, mean in coherence.conditional_by_observed.items():
        values = [v.mean for k, v in coherence.conditional.items() if k.count("+") == size - 1]
        assert mean.mean == pytest.approx(np.mean(values))


def test_the_seed_decides(result, case):
    estimator, test, _ = case
    assert evaluate(estimator, test, Labels(), [Plain()], seed=3) == result


def test_without_classifiers_coherence_is_left_out(fitted, small):
    data, _ = small.data(2, rows=20)
    found = evaluate(fitted(JNF, 2), ArraySource(data), None)
    assert not {"coherence", "shared"} & set(found.to_dict())
    assert not found.frechet
    assert not found.classifiers
    assert found.diversity.keys() == {"data"}
    assert found.rows == 20


def test_rows_may_be_a_dict_of_arrays_and_fit_the_model(fitted, small):
    model, data = fitted(JNF, 2), small.data(2)[0]
    assert evaluate(model, data) == evaluate(model, ArraySource(data), None)
    with pytest.raises(DataError, match="'m0'"):
        evaluate(model, ArraySource(data | {"m0": np.zeros((len(data["m0"]), 7))}))
    against = [check_calibration(model, x, rows=20, draws=9) for x in (data, ArraySource(data))]
    assert against[0].subsets == against[1].subsets
    with pytest.raises(DataError, match="have no labels"):
        ModalityClassifiers.train(data, data, model.config.classifiers)


@pytest.mark.bad_input
def test_coherence_of_rows_without_labels_is_refused(fitted, small):
    data, _ = small.data(2, rows=20)
    with pytest.raises(DataError, match="no labels: coherence needs a class for each row"):
        evaluate(fitted(JNF, 2), ArraySource(data), Labels())
