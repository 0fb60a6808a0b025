import numpy as np

from mvflow.functional import accuracy, agreement


def test_agreement_needs_every_modality(xp):
    predictions = np.random.default_rng(0).integers(0, 2, size=(3, 50))
    got = np.asarray(agreement(xp.asarray(predictions)))
    np.testing.assert_array_equal(got, [len(set(column)) == 1 for column in predictions.T])
    assert 0 < got.mean() < 1
    assert np.asarray(agreement(xp.asarray(predictions[:1]))).all()


def test_agreement_ignores_the_order_of_modalities():
    predictions = np.random.default_rng(0).integers(0, 3, size=(4, 50))
    np.testing.assert_array_equal(agreement(predictions[::-1]), agreement(predictions))


def test_accuracy_counts_matches(xp):
    predictions, labels = np.random.default_rng(1).integers(0, 3, size=(2, 40))
    got = float(accuracy(xp.asarray(predictions), xp.asarray(labels)))
    np.testing.assert_allclose(got, np.mean(predictions == labels), rtol=1e-15)
