"""The evaluation of estimators: complete, repeatable, and right where the answer is known."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from mvflow import JNF, JNFShared
from mvflow.config import Evaluation
from mvflow.core import ArraySource, DataError, Modality, derive_seed
from mvflow.evaluation import direction, evaluate, generation
from mvflow.evaluation.generation import Generation, Rows
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
        self.trained_ = ("joint", "prior", "flows")
        self.modalities = [SimpleNamespace(name=n) for n in names]
        self.config = SimpleNamespace(evaluation=Evaluation(product_rows=rows, prior_draws=rows))

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
            z = 0 * z if prior == "mixture" else z
        else:
            z = np.broadcast_to(next(iter(given.values())), (n, *given[min(given)].shape))
        contacts = np.zeros(z.shape[1])
        return SimpleNamespace(z=z, diagnostics=SimpleNamespace(contacts=contacts))

    def decode(self, z, names=None):
        z = np.asarray(z)
        seed = derive_seed(int(z.sum()), *z.shape)
        return self._made(z.shape[:-1], z[..., 0], seed, names or self.names)


def measured(generator, labels, classifiers, networks=(), seed=0):
    names = generator.names
    x = {name: labels[:, None].astype(np.float32) for name in names}
    test = ArraySource(x, labels=labels)
    rows = Rows.of(len(labels), generator.config.evaluation, seed)
    everyone = [*([classifiers] if classifiers else []), *networks]
    return Generation(generator, test, rows, classifiers, everyone, seed).measure()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("perfect", [True, False])
def test_a_perfect_generator_is_coherent_and_a_random_one_by_chance(count, perfect):
    rows, classes = 4000, 4
    labels = np.random.default_rng(0).integers(classes, size=rows)
    names = [f"m{j}" for j in range(count)]
    generator = Generator(names, classes, rows, perfect=perfect)
    found = measured(generator, labels, Labels())["coherence"]
    values = [*found["conditional"].values(), *found["conditional_by_observed"].values()]
    values += found["reconstruction"].values()
    if perfect:
        assert values == [1.0] * len(values)
        assert found["joint"] == found["joint_fitted"] == 1.0
        return
    for value, chance in [(v, 1 / classes) for v in values] + [
        (found["joint"], classes ** (1 - count))
    ]:
        assert abs(value - chance) < 4 * np.sqrt(chance * (1 - chance) / rows)


def test_distances_and_errors_of_a_perfect_generator_are_zero_and_of_a_random_one_known():
    """Classes 0...3 have variance 1.25; a random one is 2 * 1.25 away, squared, on average."""
    rows, classes = 4000, 4
    labels = np.random.default_rng(0).integers(classes, size=rows)
    for perfect in (True, False):
        generator = Generator(["m0", "m1"], classes, rows, perfect=perfect)
        found = measured(generator, labels, None, [Plain()])
        assert "coherence" not in found
        distances = found["frechet"]["plain"]
        assert distances["features"] == 1
        # both follow one distribution: squared errors of mean and spread, 1.25 / rows and less
        for value in (*distances["joint"].values(), *distances["conditional"].values()):
            assert value < 16 * 1.25 / rows
        if perfect:  # only class 0, from the fitted prior: (0 - 1.5)^2 + 1.25
            for value in distances["joint_fitted"].values():
                assert abs(value - 3.5) < 5 * 3 * (1.25 / rows) ** 0.5
        error = found["reconstruction"]["m0"]
        expected = 0 if perfect else 2.5
        assert abs(error["mean"] - expected) <= 4 * error["standard_error"]


def test_diversity_of_equal_draws_is_zero_and_of_random_ones_that_of_chance():
    labels = np.random.default_rng(0).integers(4, size=4000)
    for perfect in (True, False):
        found = measured(Generator(["m0", "m1"], 4, 100, perfect=perfect), labels, None, [Plain()])
        for space in ("data", "plain"):
            assert found["diversity"][space]["real"]["m0"]["mean"] == 0  # of one class: equal
            spread = found["diversity"][space]["conditional"]["m0->m1"]
            chance = np.abs(np.subtract.outer(range(4), range(4))).mean()
            expected = 0 if perfect else chance
            assert abs(spread["mean"] - expected) <= 4 * spread["standard_error"]


def test_real_rows_apart_from_the_reference_say_how_far_is_near():
    labels = np.random.default_rng(0).integers(4, size=4000)
    generator = Generator(["m0", "m1", "m2"], 4, 100, perfect=True)
    generator.config.evaluation = Evaluation(rows=1000, product_rows=50, prior_draws=500)
    rows = Rows.of(4000, generator.config.evaluation, 0)
    assert rows.is_apart
    assert not set(rows.chosen) & set(rows.reference)
    assert (len(rows.chosen), len(rows.few), len(rows.reference)) == (1000, 50, 1000)
    found = measured(generator, labels, None, [Plain()])
    real = found["frechet"]["plain"]["real_by_observed"]
    assert found["rows_by_observed"] == {"1": 1000, "2": 50}
    assert real.keys() == {"1", "2"}
    assert all(
        0 < value < 32 * 1.25 / n for value, n in zip(real.values(), (1000, 50), strict=True)
    )
    few = Rows.of(1500, generator.config.evaluation, 0)  # fewer are left than are chosen
    assert not few.is_apart
    assert len(few.reference) == 1000


def test_rows_may_pass_in_chunks_of_any_size(fitted, small, monkeypatch):
    """All but the draws is the same, and those are as good: means within their errors."""
    data, labels = small.data(2, rows=60, seed=9)
    test = ArraySource(data, labels=labels)
    whole = evaluate(fitted(JNFShared, 2), test, Labels(), [Plain()])
    monkeypatch.setattr(generation, "CHUNK", 16)
    parts = evaluate(fitted(JNFShared, 2), test, Labels(), [Plain()])
    assert parts.keys() == whole.keys()
    for key in ("log_likelihood", "sampler", "classifiers", "rows_by_observed"):
        assert parts[key] == whole[key]
    for name, density in whole["posterior_log_density"].items():
        assert parts["posterior_log_density"][name]["mean"] == pytest.approx(density["mean"], 1e-4)
    for name, error in whole["reconstruction"].items():
        apart = abs(parts["reconstruction"][name]["mean"] - error["mean"])
        assert apart < 6 * error["standard_error"]
    for pair, values in whole["shared"]["correlations"].items():
        assert parts["shared"]["correlations"][pair] == pytest.approx(values, 1e-4)


def test_rows_are_compared_as_decoders_make_them():
    """Classes as probabilities, intensities from 0 to 1."""
    specs = [Modality("c", (2,), "categorical"), Modality("i", (1, 1, 2))]
    images = np.array([[[[255, 0]]], [[[51, 51]]]], np.uint8)
    test = ArraySource({"c": [1, 0], "i": images}, specs)
    rows = Rows.of(2, Evaluation(), 0)
    judge = Generation(None, test, rows, None, [], 0)
    np.testing.assert_array_equal(judge._values("c", np.array([1, 0])), [[0, 1], [1, 0]])
    probabilities = np.array([[0.2, 0.8]], np.float32)
    np.testing.assert_array_equal(judge._values("c", probabilities), probabilities)
    np.testing.assert_allclose(judge._values("i", images).ravel(), [1, 0, 0.2, 0.2], rtol=1e-6)
    made = np.array([[0.2, 0.8], [1.0, 0.0]], np.float32)
    found = generation._squared_error(made, judge._values("c", np.array([1, 1])))
    np.testing.assert_allclose(found, [0.04, 1.0], rtol=1e-6)


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
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    write_json(tmp_path / "evaluation.json", result)
    assert read_json(tmp_path / "evaluation.json") == result


def test_the_result_is_complete(result, case):
    estimator, _, names = case
    assert result["model"] == estimator.kind
    assert result["rows"] == 30
    assert (result["seed"], result["trained_with_seed"]) == (3, 0)
    pairs = {f"{a}->{b}" for a in names for b in names if a != b}
    assert result["log_likelihood"].keys() == {"joint"} | pairs
    for found in (*result["log_likelihood"].values(), *result["posterior_log_density"].values()):
        assert np.isfinite(found["mean"])
        assert found["standard_error"] > 0
    assert result["posterior_log_density"].keys() == set(names)
    assert result["sampler"]["method"] == "mcmc"
    assert result["sampler"]["given"] == "+".join(names)
    assert result["latent"]["redrawn"].keys() == set(names)
    assert result["latent"]["largest_norm"] <= result["latent"]["radius"] * (1 + 1e-6)
    conditional = {
        f"{'+'.join(given)}->{target}"
        for size in range(1, len(names))
        for given in combinations(names, size)
        for target in set(names) - set(given)
    }
    coherence = result["coherence"]
    assert coherence["conditional"].keys() == conditional
    assert coherence["conditional_by_observed"].keys() == {str(k) for k in range(1, len(names))}
    assert coherence["reconstruction"].keys() == set(names)
    assert result["frechet"].keys() == {"classifier", "plain"}
    for distances in result["frechet"].values():
        assert distances["joint"].keys() == set(names)
        assert distances["conditional"].keys() == conditional
        assert min(*distances["joint"].values(), *distances["conditional"].values()) >= 0
        mean = np.mean(list(distances["conditional"].values()))
        assert distances["mean"]["conditional"] == pytest.approx(mean)
    assert result["frechet"]["classifier"]["joint"] == pytest.approx(
        result["frechet"]["plain"]["joint"]
    )
    assert result["reconstruction"].keys() == set(names)
    assert result["diversity"].keys() == {"data", "classifier", "plain"}
    for found in result["diversity"].values():
        assert found["conditional"].keys() == pairs
        assert found["real"].keys() == set(names)
    assert ("shared" in result) == isinstance(estimator, JNFShared)


def test_the_means_by_size_are_those_of_their_directions(result, case):
    coherence = result["coherence"]
    for size, mean in coherence["conditional_by_observed"].items():
        values = [v for k, v in coherence["conditional"].items() if k.count("+") == int(size) - 1]
        assert mean == pytest.approx(np.mean(values))


def test_the_seed_decides(result, case):
    estimator, test, _ = case
    assert evaluate(estimator, test, Labels(), [Plain()], seed=3) == result


def test_without_classifiers_coherence_is_left_out(fitted, small):
    data, _ = small.data(2, rows=20)
    found = evaluate(fitted(JNF, 2), ArraySource(data), None)
    assert not {"coherence", "frechet", "classifiers"} & set(found)
    assert found["diversity"].keys() == {"data"}
    assert found["rows"] == 20


@pytest.mark.bad_input
def test_coherence_of_rows_without_labels_is_refused(fitted, small):
    data, _ = small.data(2, rows=20)
    with pytest.raises(DataError, match="no labels: coherence needs a class for each row"):
        evaluate(fitted(JNF, 2), ArraySource(data), Labels())
