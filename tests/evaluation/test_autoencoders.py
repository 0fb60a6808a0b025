"""Autoencoders for the MFD: trained once, kept, and trained anew when need be."""

import numpy as np
import pytest
import torch

from mvflow.config import Classifiers as Settings
from mvflow.core import ArraySource, Modality
from mvflow.evaluation import ModalityAutoencoders

SETTINGS = Settings(kind="mlp", epochs=5, batch_size=32)


def source(small, seed=0, labelled=True):
    data, labels = small.data(2, rows=120, seed=seed)
    return ArraySource(data, labels=labels if labelled else None)


@pytest.fixture(scope="module")
def kept(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("autoencoders") / "a.safetensors"
    return path, ModalityAutoencoders.train(source(small), source(small, 1), SETTINGS, cache=path)


def test_rows_are_reconstructed_and_classes_told(kept, small):
    _, found = kept
    test = source(small, 1)
    x = test.take(range(len(test)))
    assert found.classes == 2
    for name in ("m0", "m1"):
        # two classes on a line: one direction of the code explains nearly all
        assert 0.8 < found.explained[name] <= 1
        features = found.features(name, x[name])
        assert features.shape == (120, 64)
        head = found.networks[name].head
        code = torch.from_numpy(features) * found.networks[name].scale
        assert np.mean(head(code).argmax(-1).numpy() == test.labels) > 0.95


def test_features_of_real_rows_have_a_mean_variance_of_one(kept, small):
    _, found = kept
    train = source(small)
    x = train.take(range(len(train)))
    for name in ("m0", "m1"):
        assert found.features(name, x[name]).var(0).mean() == pytest.approx(1, rel=1e-4)


def test_what_is_kept_is_used_again_unless_data_or_settings_change(kept, small):
    path, first = kept
    before = path.read_bytes()
    again = ModalityAutoencoders.train(source(small), source(small, 1), SETTINGS, cache=path)
    assert path.read_bytes() == before
    x = source(small).take([0, 1])["m0"]
    np.testing.assert_array_equal(again.features("m0", x), first.features("m0", x))
    other = SETTINGS.model_copy(update={"dropout": 0.1, "hidden": (3,)})
    ModalityAutoencoders.train(source(small), source(small, 1), other, cache=path)
    assert path.read_bytes() == before  # settings that only classifiers have
    ModalityAutoencoders.train(source(small, 2), source(small, 1), SETTINGS, cache=path)
    assert path.read_bytes() != before


def test_rows_without_labels_have_autoencoders_too(small):
    train = source(small, labelled=False)
    found = ModalityAutoencoders.train(train, train, SETTINGS)
    assert found.classes == 0
    assert found.explained["m0"] > 0.8


def test_images_and_classes_are_taken_as_stored():
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(256, size=(60, 1, 4, 4)).astype(np.uint8)
    spec = [Modality("i", (1, 4, 4)), Modality("c", (3,), "categorical")]
    data = ArraySource({"i": images, "c": labels}, spec, labels=labels)
    found = ModalityAutoencoders.train(data, data, SETTINGS)
    np.testing.assert_allclose(
        found.features("i", images), found.features("i", images.astype(np.float32) / 255)
    )
    one_hot = np.eye(3, dtype=np.float32)[labels]
    np.testing.assert_allclose(found.features("c", labels), found.features("c", one_hot))


def test_rows_of_unknown_class_teach_nothing(small):
    """Weights are those of the other rows, to the bit; without any class there is no head."""
    data, labels = small.data(2, rows=120, seed=0)
    known = np.arange(120) % 3 > 0
    some = ArraySource(data, labels=np.where(known, labels, -1))
    alone = ArraySource({n: x[known] for n, x in data.items()}, labels=labels[known])
    found, expected = (
        ModalityAutoencoders.train(s, source(small, 1), SETTINGS).networks for s in (some, alone)
    )
    expected = expected.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in found.state_dict().items())
    none = ArraySource(data, labels=np.full(120, -1))
    made = ModalityAutoencoders.train(none, none, SETTINGS)
    assert made.classes == 0
    assert made.networks["m0"].head is None


def test_units_change_nothing_and_variance_is_around_the_mean_of_each_column(monkeypatch):
    """Values 1024 times as small (a power of two: rounding is the same); columns far apart."""
    monkeypatch.setattr("mvflow.evaluation.autoencoders.STEPS", 20)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 3)) + [0, 5, -5]).astype(np.float32)
    rows = {scale: ArraySource({"a": scale * x}) for scale in (1.0, 2.0**-10)}
    whole, small = (
        ModalityAutoencoders.train(source, source, Settings(epochs=1)) for source in rows.values()
    )
    features = whole.features("a", x)
    np.testing.assert_allclose(small.features("a", x * np.float32(2.0**-10)), features, rtol=1e-4)
    network = whole.networks["a"]
    with torch.no_grad():
        target = network.standard(torch.from_numpy(x))
        left = (network.decoder(network.encoder(target)) - target).numpy()
    around = target.numpy() - target.numpy().mean(0)
    expected = 1 - (left**2).sum() / (around**2).sum()
    assert whole.explained["a"] == pytest.approx(expected, abs=1e-4)
    assert small.explained["a"] == pytest.approx(expected, abs=1e-4)
