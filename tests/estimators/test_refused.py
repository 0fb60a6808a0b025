"""What a later stage cannot be trained on is refused before the first one is trained."""

import re

import numpy as np
import pytest

from mvflow import JNF, JNFShared
from mvflow.core import ConfigError, DataError, StageError, UsageError
from mvflow.systems import sampling

NETWORK = {"summary_hidden": [8], "embedding": 4, "width": 8, "epochs": 1}
MATCHING = {"kind": "matching", **NETWORK}
DCCA = {"projector": {"kind": "dcca", "dim": 40}, "projectors": {"batch_size": 400}}
HALF = np.arange(60) < 30
ABSENT = {"m0": HALF, "m1": ~HALF}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "settings", "present", "error", "words"),
    [
        (JNF, {"subset": {**MATCHING, "learn_from": "complete"}}, ABSENT, DataError, "no row has"),
        (JNF, {"subset": {**MATCHING, "draws": 10**12}}, None, StageError, r"subset\.draws up to"),
        (JNFShared, DCCA, None, DataError, "rows are too few"),
        (JNF, {"flows": {"patience": 2}, "data": {"validation": 0.0}}, None, ConfigError, "best"),
    ],
    ids=["no complete row", "draws", "too few rows", "best weights"],
)
def test_nothing_is_trained_for_nothing(small, kind, settings, present, error, words):
    model = small.estimator(kind, 3, **settings)
    rows = {n: x[:60] for n, x in small.data(3)[0].items()}
    with pytest.raises(error, match=words):
        model.fit(rows, present=present)
    assert not model.history_
    assert not model.records_


@pytest.mark.bad_input
@pytest.mark.parametrize("modalities", [{"rna": (4,)}, ["rna"], [("rna", 4)]])
def test_what_is_no_modality_is_refused_with_what_is(modalities):
    with pytest.raises(
        UsageError, match=r"expected a list of mvflow\.Modality, as in \[Modality\("
    ):
        JNF(modalities, 2)


@pytest.mark.bad_input
def test_as_many_draws_as_are_said_to_fit_do(small, monkeypatch):
    monkeypatch.setattr(sampling, "available_memory", lambda: 2**22)

    def fit(draws):
        subset = {**MATCHING, "draws": draws, "steps_per_epoch": 1}
        return small.estimator(JNF, 3, subset=subset).fit(small.data(3)[0])

    with pytest.raises(StageError) as refused:
        fit(10**12)
    assert "\n" not in str(refused.value)
    fit(int(re.search(r"draws up to (\d+)", str(refused.value)).group(1)))
