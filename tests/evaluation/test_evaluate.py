"""The evaluation of estimators: complete, repeatable, and right where the answer is known."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from mvflow import JNF, JNFShared
from mvflow.config import Evaluation
from mvflow.core import ArraySource, DataError
from mvflow.evaluation import direction, evaluate
from mvflow.evaluation.evaluate import _coherence
from mvflow.runs import read_json, write_json


class Labels:
    """Classifiers that read the class off the first value of a row."""

    accuracy = {"m0": 1.0, "m1": 1.0, "m2": 1.0}

    def predict(self, name, x):
        return np.asarray(x)[..., 0].round().astype(int)


class Generator:
    """An estimator that generates the class of what is given, or a random one."""

    def __init__(self, names, classes, rows, *, perfect):
        self.names, self.classes, self.perfect = names, classes, perfect
        self.modalities = [SimpleNamespace(name=n) for n in names]
        self.config = SimpleNamespace(evaluation=Evaluation(product_rows=rows, prior_draws=rows))

    def _made(self, shape, of, seed, names):
        rng = np.random.default_rng(seed)
        found = {}
        for name in names:
            random = rng.integers(self.classes, size=shape)
            found[name] = (np.broadcast_to(of, shape) if self.perfect else random)[..., None]
        return found

    def generate(self, given=None, n=1, *, seed=0):
        if given is None:
            of = np.random.default_rng(seed).integers(self.classes, size=(n, 1))
            return self._made((n, 1), of, seed, self.names)
        of = next(iter(given.values()))[:, 0]
        return self._made((n, len(of)), of, seed, [k for k in self.names if k not in given])

    def sample_latent(self, x, seed=0):
        return np.asarray(x["m0"])[None, :, :1]

    def decode(self, z):
        return self._made(z.shape[:-1], z[..., 0], 5, self.names)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("perfect", [True, False])
def test_a_perfect_generator_is_coherent_and_a_random_one_by_chance(count, perfect):
    rows, classes = 4000, 4
    labels = np.random.default_rng(0).integers(classes, size=rows)
    x = {f"m{j}": labels[:, None].astype(float) for j in range(count)}
    generator = Generator(sorted(x), classes, rows, perfect=perfect)
    found = _coherence(generator, Labels(), x, labels, 0)
    values = [*found["conditional"].values(), *found["conditional_by_observed"].values()]
    values += found["reconstruction"].values()
    if perfect:
        assert values == [1.0] * len(values)
        assert found["joint"] == 1.0
        return
    for value, chance in [(v, 1 / classes) for v in values] + [
        (found["joint"], classes ** (1 - count))
    ]:
        assert abs(value - chance) < 4 * np.sqrt(chance * (1 - chance) / rows)


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
    return evaluate(estimator, test, Labels(), seed=3)


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
    assert ("shared" in result) == isinstance(estimator, JNFShared)


def test_the_means_by_size_are_those_of_their_directions(result, case):
    coherence = result["coherence"]
    for size, mean in coherence["conditional_by_observed"].items():
        values = [v for k, v in coherence["conditional"].items() if k.count("+") == int(size) - 1]
        assert mean == pytest.approx(np.mean(values))


def test_the_seed_decides(result, case):
    estimator, test, _ = case
    assert evaluate(estimator, test, Labels(), seed=3) == result


def test_without_classifiers_coherence_is_left_out(fitted, small):
    data, _ = small.data(2, rows=20)
    found = evaluate(fitted(JNF, 2), ArraySource(data), None)
    assert "coherence" not in found
    assert found["rows"] == 20


@pytest.mark.bad_input
def test_coherence_of_rows_without_labels_is_refused(fitted, small):
    data, _ = small.data(2, rows=20)
    with pytest.raises(DataError, match="no labels: coherence needs a class for each row"):
        evaluate(fitted(JNF, 2), ArraySource(data), Labels())
