"""Models with covariates: all sections work, and the page says whether a batch is taken out."""

import re

import numpy as np
import pytest

from mvflow import JNF, ArraySource, Modality
from mvflow.report import Entry, write_report
from mvflow.report.sections.latent import separability


@pytest.fixture(scope="module")
def entry():
    rng = np.random.default_rng(0)
    batch = np.array(["first", "<second>"])[np.arange(120) % 2]
    z = rng.normal(size=(120, 1))
    shift = 4.0 * (batch == "first")[:, None]
    arrays = {"a": z + shift + np.zeros((120, 3)), "b": z + 0.1 * rng.normal(size=(120, 2))}
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    specs = [Modality(name, x.shape[1:]) for name, x in arrays.items()]
    source = ArraySource(arrays, specs, covariates={"batch": batch})
    few = {"epochs": 2, "batch_size": 40}
    model = JNF(specs, 2, posterior="gaussian", joint={**few, "merge": [8]}, flows=few)
    model.fit(arrays, covariates={"batch": batch})
    return Entry("batches", model, source, [], {}, {}, None)


def test_the_page_has_the_accuracy_of_the_batch_beside_chance(entry, tmp_path):
    text = write_report(tmp_path / "r.html", [entry]).read_text("utf-8")
    z = entry.estimator.encode(entry.take(np.arange(120)))[0]
    is_first = (np.arange(120) % 2 == 0).astype(int)
    accuracy, chance = separability(z, is_first)
    said = re.search(r"finds batch in the latent space with accuracy ([0-9.]+)", text)
    # folds are of rows in another order
    assert float(said[1]) == pytest.approx(accuracy, abs=0.1)
    assert re.search(rf"where guessing\s+reaches {chance:.2f}", text)
    assert "coloured by batch" in text
    assert text.count("<img") >= 6  # the latent space twice, a posterior, samples, priors


def test_separability_is_that_of_an_independent_classifier():
    """Two Gaussians one apart: the best any classifier does is Phi(1/2) = .691."""
    codes = np.arange(4000) % 2
    z = np.random.default_rng(1).normal(size=(4000, 2)) + codes[:, None] * [1.0, 0.0]
    accuracy, chance = separability(z, codes)
    assert accuracy == pytest.approx(0.691, abs=0.02)  # .007 is one standard error
    assert chance == 0.5
    assert np.isnan(separability(z, np.zeros(4000, int))[0])  # one level: nothing to tell apart
