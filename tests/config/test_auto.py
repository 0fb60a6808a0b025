"""The recipe `auto`: small rules, and networks that fit whatever there is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.config import config_from_dict, resolved, to_toml
from mvflow.config.auto import auto_config
from mvflow.core import Modality, Observed
from mvflow.nn.conv import ConvNetwork
from mvflow.systems import build_system

IMAGE = Modality("image", (3, 32, 32), {"kind": "laplace", "scale": 0.75})
TABLE = Modality("table", (7,), {"kind": "normal", "scale": 0.5})


def auto(*modalities, rows=1000, **options):
    return config_from_dict(resolved(auto_config(modalities, rows, **options)))


def test_images_get_convolutions_and_tables_layers():
    config = auto(IMAGE, TABLE, intensities=["image"])
    image, table = config.modalities["image"], config.modalities["table"]
    for network in (image.encoder, image.decoder, image.projector):
        assert isinstance(network, ConvNetwork)
    assert image.decoder.channels == image.encoder.channels[::-1]
    assert (image.decoder.output, table.decoder.output) == ("sigmoid", "identity")
    assert table.encoder.hidden == (64, 64)
    assert config.recipe == "auto"


def test_what_the_store_says_is_taken_over():
    weighted = Modality("w", (5,), {"kind": "laplace", "scale": 0.3}, weight=2.0)
    given = (IMAGE, weighted, Modality("c", (4,), "categorical"))
    assert {m.name: m for m in auto(*given).specifications()} == {m.name: m for m in given}


def test_a_sigmoid_only_where_the_range_is_certain():
    assert auto(IMAGE).modalities["image"].decoder.output == "identity"
    bits = Modality("bits", (1, 16, 16), "bernoulli")
    assert auto(bits, intensities=["bits"]).modalities["bits"].decoder.output == "identity"


@pytest.mark.parametrize(
    ("modalities", "rows", "latent"),
    [
        ((IMAGE,), 10_000, 20),
        ((TABLE,), 10_000, 3),
        ((Modality("one", (1,)),), 10_000, 2),
        ((IMAGE,), 100, 5),
        ((IMAGE,), 2, 2),
    ],
)
def test_the_latent_space_is_no_larger_than_the_data(modalities, rows, latent):
    assert auto(*modalities, rows=rows).latent_dim == latent


@pytest.mark.parametrize("rows", [30, 96, 500, 20_000])
@pytest.mark.parametrize("subset", ["amortised", "matching"])
def test_a_noisy_loss_ends_no_training_within_few_steps(rows, subset):
    """With few rows an epoch is a step or two: 20 of them show no trend of a flow's loss."""
    config = config_from_dict(resolved(auto_config([TABLE], rows), [f"subset={subset}"]))
    for section in (config.flows, config.subset):
        steps = max(1, rows // section.batch_size)
        assert section.patience * steps >= 400 or section.patience >= section.epochs
        assert section.patience >= 20


def test_more_rows_mean_fewer_epochs():
    epochs = [auto(IMAGE, rows=n).joint.epochs for n in (50, 1000, 10_000, 1_000_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (300, 10)


@pytest.mark.parametrize("system", ["jnf", "jnf-shared"])
def test_images_have_one_posterior_of_all_subsets_unless_another_rule_is_chosen(system):
    raw = auto_config([IMAGE, TABLE], 1000)
    config = config_from_dict(resolved(raw, [f"system={system}"]))
    assert config.subset.kind == "amortised"
    assert config.subset.epochs == 2 * config.flows.epochs  # one network for more subsets
    assert config.subset.patience == config.flows.patience
    chosen = config_from_dict(resolved(raw, [f"system={system}", "subset.kind=product"]))
    assert chosen.subset.kind == "product"
    assert chosen.flows == config.flows
    assert build_system(config_from_dict(resolved(raw, ["system=mopoe"])))


def test_classifiers_that_can_look_at_all_modalities():
    assert auto(IMAGE).classifiers.kind == "lenet"
    assert auto(IMAGE, TABLE).classifiers.kind == "mlp"


sides = st.sampled_from([1, 7, 8, 12, 16, 28, 30, 32])
shapes = st.one_of(
    st.tuples(st.integers(1, 40)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.sampled_from([1, 3]), sides, sides),
)


@given(st.lists(shapes, min_size=1, max_size=3), st.integers(2, 10**6))
@settings(max_examples=15, deadline=None)
def test_every_choice_is_a_model_that_runs(found, rows):
    specs = [Modality(f"m{i}", shape) for i, shape in enumerate(found)]
    config = auto(*specs, rows=rows)
    assert to_toml(config)
    system = build_system(config)
    x = {m.name: torch.zeros(2, *m.shape) for m in specs}
    with torch.no_grad():
        assert torch.isfinite(system.joint.losses(Observed(x)).total)


def test_the_same_data_give_the_same_configuration():
    assert auto_config([IMAGE, TABLE], 500) == auto_config([IMAGE, TABLE], 500)


COUNTS = Modality("rna", (30,), {"kind": "negative-binomial", "inputs": "standardised"})


@pytest.mark.parametrize("covariates", [False, True])
def test_tables_with_counts_or_covariates_keep_their_likelihoods_and_get_linear_paths(covariates):
    """A factor analysis is for numbers alone; covariates are kept out of the latents."""
    config = auto(COUNTS, TABLE, covariates=covariates)
    assert config.modalities["rna"].likelihood == COUNTS.likelihood_part
    assert config.modalities["table"].likelihood.scale == "learned"
    assert {m.encoder.kind for m in config.modalities.values()} == {"linear-mlp"}
    assert (config.joint.start, config.subset.kind) == ("random", "kernel")
    assert (config.joint.independence > 0) == covariates
    assert auto(TABLE).joint.start == "factor-analysis"
    assert auto(TABLE, covariates=True).joint.start == "random"
    assert auto(COUNTS, rows=10**6).subset.kind == "amortised"


@pytest.mark.parametrize("system", ["mvae", "mopoe", "jmvae", "jnf-shared", "mmvae"])
def test_tables_of_counts_can_be_trained_by_other_systems(system):
    raw = auto_config([COUNTS, TABLE], 500, covariates=True)
    config = config_from_dict(resolved(raw, [f"system={system}"]))
    assert build_system(config)
