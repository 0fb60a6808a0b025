import numpy as np

from mvflow.functional import accuracy, agreement, chance_agreement


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


def test_chance_agreement_is_that_of_shuffled_modalities(xp):
    rng = np.random.default_rng(0)
    first = rng.choice(3, size=5000, p=[0.7, 0.2, 0.1])
    classes = np.stack([first, np.where(rng.random(5000) < 0.5, first, 0), first])
    shuffled = np.stack([rng.permutation(row) for row in classes])
    found = float(chance_agreement(xp.asarray(classes)))
    assert found == float(chance_agreement(xp.asarray(shuffled)))
    share = agreement(shuffled).mean()
    # a share of 5000 draws has a standard error of at most 0.5 / 5000**0.5 = 0.007
    assert abs(found - share) < 0.03
    assert agreement(classes).mean() > found + 0.1
