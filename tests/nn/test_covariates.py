"""Networks that see covariates: where these enter, against the same layers by hand."""

import pytest
import torch
from torch import nn

from mvflow.core import ConfigError, Covariate, Modality, UsageError, registry
from mvflow.core.parts import create
from mvflow.nn import ConditionalNetwork, GivenNetwork, SummedNetwork, encode_rows

COVARIATES = [Covariate("age"), Covariate("batch", ("A", "B", "C"))]

IMAGE, TABLE = Modality("image", (1, 16, 16)), Modality("table", (5,))

CASES = {
    "mlp": ({"hidden": [6]}, TABLE),
    "linear-mlp": ({"hidden": [6]}, TABLE),
    "conv": ({"channels": [4, 4]}, IMAGE),
    "resnet": ({"channels": [4, 4]}, IMAGE),
    "layers": ({"layers": [{"channels": 4}], "hidden": [6]}, IMAGE),
    "gaps": ({"network": {"kind": "mlp", "hidden": [6]}}, TABLE),
}


def rows_of(modality, rows=7):
    values = {
        "age": torch.randn(rows, 1),
        "batch": torch.eye(3)[torch.arange(rows) % 3],
        "other": torch.full((rows, 2), torch.nan),
    }
    return torch.randn(rows, *modality.shape), values


def test_every_kind_is_tried():
    assert {*CASES} == {*registry("networks").names()}


@pytest.mark.parametrize("kind", CASES)
def test_features_depend_on_rows_and_on_covariates(kind):
    settings, modality = CASES[kind]
    network = create("networks", {"kind": kind, **settings})
    encoder = network.conditional_encoder(modality, 4, COVARIATES).eval()
    x, covariates = rows_of(modality)
    found = encode_rows(encoder, x, covariates)
    assert found.shape == (7, 4)
    assert found.isfinite().all()  # what it was not built for is not read
    for name in ("age", "batch"):
        changed = {**covariates, name: covariates[name].roll(1, 0)}
        assert not torch.allclose(encode_rows(encoder, x, changed), found)
    assert not torch.allclose(encode_rows(encoder, x.roll(1, 0), covariates), found)
    with pytest.raises(UsageError, match="'age'"):
        encode_rows(encoder, x, None)


@pytest.mark.parametrize(
    ("settings", "modality"),
    [({"hidden": [6]}, TABLE), ({"layers": [{"channels": 4}], "hidden": [6]}, IMAGE)],
)
def test_layers_see_covariates_where_they_are_vectors(settings, modality):
    network = create("networks", {"kind": "layers", **settings})
    encoder = network.conditional_encoder(modality, 4, COVARIATES)
    assert isinstance(encoder, ConditionalNetwork)
    x, covariates = rows_of(modality)
    joined = torch.cat([encoder.first(x), covariates["age"], covariates["batch"]], -1)
    assert torch.equal(encode_rows(encoder, x, covariates), encoder.last(joined))


def test_a_sum_is_what_a_linear_layer_makes_of_both_side_by_side():
    last = nn.Linear(5, 3)
    network = SummedNetwork(last, nn.Linear(4, 3, bias=False), ["age", "batch"])
    x, covariates = rows_of(TABLE)
    both = nn.Linear(9, 3)
    both.weight.data = torch.cat([last.weight, network.linear.weight], 1).data
    both.bias.data = last.bias.data
    joined = torch.cat([x, covariates["age"], covariates["batch"]], -1)
    # the order of a sum of nine products of order 1
    torch.testing.assert_close(
        encode_rows(network, x, covariates), both(joined), atol=1e-6, rtol=0
    )


def test_a_module_of_ones_own_gets_them_beside_its_features():
    network = GivenNetwork(value=nn.Sequential(nn.Linear(5, 8), nn.ReLU()))
    encoder = network.conditional_encoder(TABLE, 4, COVARIATES)
    x, covariates = rows_of(TABLE)
    assert encode_rows(encoder, x, covariates).shape == (7, 4)


@pytest.mark.bad_input
def test_a_decoder_of_ones_own_has_to_take_them():
    with pytest.raises(ConfigError, match="cannot take a row"):
        GivenNetwork(value=nn.Linear(2, 5)).decoder(2 + 4, TABLE)
