"""Classifiers by modality: named networks first, then the kind, or "auto" by the shape."""

import pytest
import torch

from mvflow.config import Classifiers
from mvflow.core import ConfigError, Modality
from mvflow.nn import build_classifier

IMAGE, FLAT = Modality("image", (1, 28, 28)), Modality("flat", (200,))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_lenet_is_that_of_table_g8():
    """With 320 inputs of the linear layer for 28x28 (see the docstring), 500 for 32x32."""
    convolutions = 10 * 25 + 10 + 20 * 10 * 25 + 20
    last = 50 * 10 + 10
    assert count(build_classifier(Classifiers(), IMAGE, 10)) == convolutions + 320 * 50 + 50 + last
    found = count(build_classifier(Classifiers(), Modality("svhn", (3, 32, 32)), 10))
    assert found == convolutions + 2 * 10 * 25 + 500 * 50 + 50 + last


def test_auto_takes_the_kind_from_the_shape():
    settings = Classifiers(kind="auto")
    lenet, mlp = (build_classifier(settings, m, 10) for m in (IMAGE, FLAT))
    assert count(lenet) == count(build_classifier(Classifiers(kind="lenet"), IMAGE, 10))
    assert count(mlp) == count(build_classifier(Classifiers(kind="mlp"), FLAT, 10))
    tiny = Modality("tiny", (1, 8, 8))
    assert count(build_classifier(settings, tiny, 10)) == 64 * 128 + 128 + 128 * 10 + 10


def test_a_named_network_has_the_last_word():
    """The classifier published with MoPoE for PolyMNIST: 980 features after two convolutions."""
    spec = {"kind": "layers", "layers": [{"channels": 10}, {"channels": 20}], "hidden": [128]}
    settings = Classifiers(networks={"m0": spec})
    built = build_classifier(settings, Modality("m0", (3, 28, 28)), 10)
    expected = 3 * 160 + 10 + 10 * 20 * 16 + 20 + 980 * 128 + 128 + 128 * 10 + 10
    assert count(built) == expected
    assert built.eval()(torch.zeros(1, 3, 28, 28)).shape == (1, 10)


@pytest.mark.bad_input
def test_a_flat_modality_is_no_image():
    with pytest.raises(ConfigError, match="lenet classifier cannot take 'flat'.*kind=mlp or auto"):
        build_classifier(Classifiers(), FLAT, 10)
