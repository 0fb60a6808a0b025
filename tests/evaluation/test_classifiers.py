"""Classifiers of generated rows: trained once, kept, and trained anew when need be."""

import numpy as np
import pytest
import torch

from mvflow.config import Classifiers as Settings
from mvflow.core import ArraySource, ConfigError, DataError, Modality
from mvflow.evaluation import ModalityClassifiers
from mvflow.evaluation.classifiers import MAX_FEATURES, _projected

SETTINGS = Settings(kind="mlp", hidden=(16,), epochs=15, batch_size=16, learning_rate=1e-2)


def source(small, seed=0, **changes):
    data, labels = small.data(2, rows=120, seed=seed)
    return ArraySource(data, labels=labels, **changes)


@pytest.fixture(scope="module")
def both(small):
    return source(small), source(small, seed=1)


@pytest.fixture(scope="module")
def kept(both, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifiers") / "classifiers.safetensors"
    return path, ModalityClassifiers.train(*both, SETTINGS, cache=path)


class CountEpochs:
    """Counts epochs: none when nothing was trained."""

    def __init__(self):
        self.epochs = 0

    def on_step(self, *args):
        pass

    def on_epoch(self, record, checkpoint):
        self.epochs += 1


def test_separate_classes_are_recognised(kept, both):
    _, classifiers = kept
    assert classifiers.classes == 2
    test = both[1]
    x = test.take(range(len(test)))
    for name in ("m0", "m1"):
        found = np.mean(classifiers.predict(name, x[name]) == test.labels)
        assert found == classifiers.accuracy[name]
        assert found > 0.9  # the classes lie eight standard deviations apart


def test_features_are_what_the_last_layer_sees(kept, both):
    _, classifiers = kept
    x = both[1].take(range(20))["m0"]
    classes, features = classifiers.predict_with_features("m0", x)
    assert features.shape == (20, 16)
    np.testing.assert_array_equal(features, classifiers.features("m0", x))
    last = classifiers.networks["m0"][-1][-1]
    with torch.no_grad():
        scores = last(torch.from_numpy(features))
    np.testing.assert_array_equal(scores.argmax(-1), classes)
    np.testing.assert_array_equal(classes, classifiers.predict("m0", x))


@pytest.mark.parametrize(
    ("network", "features"),
    [
        ({"kind": "conv", "channels": [4]}, 256),  # 4 * 8 * 8, the last layer a convolution
        ({"kind": "conv", "channels": [2, 2]}, 32),
        ({"kind": "mlp", "hidden": [500]}, 256),
        ({"kind": "mlp", "hidden": []}, 256),
    ],
)
def test_every_network_has_features_and_not_too_many(network, features):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = (labels[:, None, None, None] + rng.random((40, 1, 16, 16))).astype(np.float32)
    data = ArraySource({"i": x}, labels=labels)
    settings = Settings(epochs=1, networks={"i": network})
    made = ModalityClassifiers.train(data, data, settings)
    assert made.features("i", x).shape == (40, features)
    alone, together = made.features("i", x[3:4])[0], made.features("i", x[:4])[3]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)  # sums of 500 in float32


def test_many_features_are_projected_so_that_distances_stay():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(40, 3000)).astype(np.float32))
    near = _projected(x)
    assert near.shape == (40, MAX_FEATURES)
    ratio = (torch.pdist(near) ** 2 / torch.pdist(x) ** 2).numpy()
    # the squared length of a projection has the relative variance 2 / MAX_FEATURES
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / MAX_FEATURES / 40)
    assert ratio.std() < 2 * np.sqrt(2 / MAX_FEATURES)
    assert _projected(x[:, :MAX_FEATURES]).shape == (40, MAX_FEATURES)


def test_what_is_kept_is_used_again(kept, both):
    path, first = kept
    callback = CountEpochs()
    again = ModalityClassifiers.train(*both, SETTINGS, cache=path, callback=callback)
    assert callback.epochs == 0
    assert again.accuracy == first.accuracy
    a, b = first.networks.state_dict(), again.networks.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def other_labels(data):
    return ArraySource(data.take(range(len(data))), labels=1 - data.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda train, test, s: ((test, test, s), 0),
        lambda train, test, s: ((train, train, s), 0),
        lambda train, test, s: ((other_labels(train), test, s), 0),
        lambda train, test, s: ((train, other_labels(test), s), 0),
        lambda train, test, s: ((train, test, s.model_copy(update={"hidden": (8,)})), 0),
        lambda train, test, s: ((train, test, s), 1),
    ],
    ids=["train", "test", "train labels", "test labels", "settings", "seed"],
)
def test_any_change_trains_anew(kept, both, tmp_path, change):
    path, _ = kept
    copied = tmp_path / "c.safetensors"
    copied.write_bytes(path.read_bytes())
    arguments, seed = change(*both, SETTINGS)
    callback = CountEpochs()
    made = ModalityClassifiers.train(*arguments, cache=copied, seed=seed, callback=callback)
    assert callback.epochs == 2 * SETTINGS.epochs
    expected = ModalityClassifiers.train(*arguments, seed=seed)
    assert made.accuracy == expected.accuracy


def test_paired_values_are_trained_on_once(small):
    """Each distinct value with its own label, whatever the number of rows that use it."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    pairs = {"a": np.array([1, 1, 1, 3, 0, 0])}
    data = ArraySource({"a": x}, pairs=pairs, labels=[1, 1, 1, 0, 0, 0])
    settings = Settings(kind="mlp", epochs=1, batch_size=100)
    records = []

    class Records(CountEpochs):
        def on_epoch(self, record, checkpoint):
            records.append(record)

    made = ModalityClassifiers.train(data, data, settings, callback=Records())
    assert made.accuracy["a"] in (0, 1 / 3, 2 / 3, 1)


def test_a_categorical_modality_is_classified_by_class_or_probability():
    labels = np.arange(90) % 3
    spec = [Modality("c", (3,), "categorical")]
    data = ArraySource({"c": labels}, spec, labels=labels)
    made = ModalityClassifiers.train(data, data, SETTINGS)
    assert made.accuracy == {"c": 1.0}
    np.testing.assert_array_equal(made.predict("c", np.eye(3, dtype=np.float32)), [0, 1, 2])


def test_lenet_takes_images_and_uint8():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = (labels[:, None, None, None] * 200 + rng.integers(50, size=(40, 1, 16, 18))).astype(
        np.uint8
    )
    data = ArraySource({"i": x}, labels=labels)
    made = ModalityClassifiers.train(data, data, Settings(epochs=3, batch_size=8))
    floats = x.astype(np.float32) / 255
    np.testing.assert_array_equal(made.predict("i", x), made.predict("i", floats))


@pytest.mark.bad_input
def test_data_without_classes_are_refused(small, both):
    data, _ = small.data(2, rows=20)
    with pytest.raises(DataError, match="no labels: coherence needs a class"):
        ModalityClassifiers.train(ArraySource(data), both[1], SETTINGS)
    with pytest.raises(DataError, match="all training rows have the same label"):
        ModalityClassifiers.train(ArraySource(data, labels=np.ones(20)), both[1], SETTINGS)
    with pytest.raises(ConfigError, match="lenet classifier cannot take 'm0' of shape .*kind=mlp"):
        ModalityClassifiers.train(*both, Settings())


def test_rows_that_lack_a_modality_or_a_class_teach_nothing_of_it(both):
    """Weights are those that the remaining rows alone would give, to the bit."""
    train, test = both
    rng = np.random.default_rng(0)
    x = train.take(range(len(train)))
    labels, (first, *others) = train.labels.copy(), sorted(x)
    unknown, lacking = rng.random(len(train)) < 0.3, rng.random(len(train)) < 0.3
    labels[unknown] = -1
    spoilt = {first: np.where(lacking.reshape(-1, *[1] * (x[first].ndim - 1)), 250, x[first])}
    masks = {first: ~lacking}
    specs = train.modalities
    some = ArraySource({**x, **spoilt}, specs, labels=labels, present=masks)
    made = ModalityClassifiers.train(some, test, SETTINGS)
    for name in (first, *others):
        kept = ~unknown & ~lacking if name == first else ~unknown
        alone = ArraySource({n: v[kept] for n, v in x.items()}, specs, labels=labels[kept])
        expected = ModalityClassifiers.train(alone, test, SETTINGS).networks[name]
        found = made.networks[name].state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.state_dict().items())


@pytest.mark.bad_input
def test_a_modality_of_which_no_row_has_all_is_refused(both):
    train, test = both
    x = train.take(range(len(train)))
    name = min(x)
    gaps = np.ones(x[name].shape, bool)
    gaps.reshape(len(gaps), -1)[:, 0] = False
    some = ArraySource(x, train.modalities, labels=train.labels, present={name: gaps})
    with pytest.raises(
        DataError, match=f"^no row has all values of modality '{name}' and a class"
    ):
        ModalityClassifiers.train(some, test, SETTINGS)
