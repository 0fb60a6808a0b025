"""JNF: which distribution belongs to which subset, and how its parts come together."""

import numpy as np
import pytest
import torch
from zuko.distributions import DiagNormal, NormalizingFlow

from mvflow import JNF, MVTCAE
from mvflow.config import config_from_dict
from mvflow.core import ConfigError, Modality, Observed, UsageError
from mvflow.inference import AggregateDivisor, ProductOfExperts, product_of
from mvflow.systems import build_system, stages_of
from mvflow.systems.subsets import PROTOCOLS

SMALL = {"kind": "mlp", "hidden": [5]}


def config(system="jnf", **changes):
    modalities = {
        f"m{j}": {"shape": [2 + j], "encoder": SMALL, "decoder": SMALL, "projector": SMALL}
        for j in range(3)
    }
    raw = {"system": system, "latent_dim": 2, "modalities": modalities}
    return config_from_dict(raw | {"joint": {"merge": [7]}} | changes)


def observed(x, *names):
    return Observed({n: torch.from_numpy(x[n]) for n in names or x})


@pytest.fixture(scope="module")
def known(linear_gaussian):
    return linear_gaussian(3, 2)


@pytest.fixture(scope="module")
def system(known):
    return known.system()


def test_the_prior_is_standard_normal(system):
    z = torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0)).to(system.dtype)
    expected = -0.5 * (z**2).sum(-1) - np.log(2 * np.pi)
    torch.testing.assert_close(system.prior().log_prob(z), expected)


def of(system):
    return AggregateDivisor(system.latent_mean, system.latent_std)


@pytest.mark.parametrize("name", ["m0", "m1", "m2"])
def test_one_modality_gives_its_flow(system, known, name):
    x = known.sample(4)
    q = system.posterior(observed(x, name))
    assert isinstance(q, NormalizingFlow)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    loc, scale = known.posterior({name: x[name]})
    exact = DiagNormal(torch.from_numpy(loc), torch.from_numpy(np.tile(scale, (4, 1))))
    torch.testing.assert_close(q.log_prob(z), exact.log_prob(z), rtol=1e-10, atol=1e-10)


def test_all_modalities_give_the_joint_posterior_or_the_product_on_request(system, known):
    x = known.sample(4)
    loc, scale = known.posterior(x)
    for q in (system.posterior(observed(x)).base_dist, *system.proposals(observed(x))):
        np.testing.assert_allclose(q.mean, loc, rtol=1e-10)
        np.testing.assert_allclose(q.stddev, np.broadcast_to(scale, loc.shape), rtol=1e-10)
    product = system.combine(observed(x))  # Gaussian, as its experts are
    experts = [system.combine(observed(x, name)) for name in x]
    torch.testing.assert_close(product.mean, product_of(experts, divisor=of(system)).mean)
    unnormalised = ProductOfExperts(experts, divisor=of(system))
    z = 0.1 * torch.randn(5, 4, 2, dtype=torch.float64)
    difference = unnormalised.log_prob(z) - product.log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-9)


@pytest.mark.parametrize("given", [("m0", "m1"), ("m0", "m2"), ("m2", "m1"), ("m0", "m1", "m2")])
def test_the_product_of_exact_experts_is_the_exact_posterior(known, given):
    """Eq. 12 with the exponent |S| - 1, for two and for three modalities."""
    x, system = known.sample(4), known.system(subset={"kind": "product", "divisor": "prior"})
    product = system.combine(observed(x, *given))
    loc, scale = known.posterior({n: x[n] for n in given})
    exact = DiagNormal(torch.from_numpy(loc), torch.from_numpy(np.tile(scale, (4, 1))))
    z = torch.randn(30, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    difference = product.log_prob(z) - exact.log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-9)


def test_the_aggregated_posterior_is_divided_out_by_default(known):
    """Latents with other moments than the prior's: the experts share these, not the prior."""
    found = []
    z = torch.tensor([[0.5, -1.0], [2.5, 2.0], [-1.5, -4.0]], dtype=torch.float64)[:, None]
    for settings in ({}, {"subset": {"kind": "product", "divisor": "prior"}}):
        system = known.system(**settings)
        system.latent_mean.copy_(torch.tensor([0.5, -1.0]))
        system.latent_std.copy_(torch.tensor([2.0, 3.0]))
        found.append(system.combine(observed(known.sample(4))).log_prob(z))
    difference = (found[0] - found[1])[:, 0]
    # 2 (log p - log s): the points are 0, sqrt 2 and sqrt 2 standard deviations from the mean
    expected = -(z[:, 0] ** 2).sum(-1) + torch.tensor([0.0, 2.0, 2.0])
    torch.testing.assert_close(
        difference - difference[0], expected - expected[0], rtol=0, atol=1e-9
    )


def test_the_product_knows_the_ball_of_the_joint_posterior(known):
    system = known.system()
    system.radius.fill_(1.5)
    system.latent_std.fill_(0.3)  # narrower than the experts: there is no Gaussian product
    product = system.posterior(observed(known.sample(2), "m0", "m1"))
    assert product.radius == 1.5
    assert torch.isneginf(product.log_prob(torch.full((2, 2), 1.2).double())).all()


def test_one_modality_alone_in_the_world_keeps_its_flow(linear_gaussian):
    known = linear_gaussian(1, 2)
    assert isinstance(known.system().posterior(observed(known.sample(2))), NormalizingFlow)


def test_an_amortised_rule_stands_for_every_proper_subset():
    system = build_system(config(subset="amortised"))
    x = {f"m{j}": np.ones((4, 2 + j), np.float32) for j in range(3)}
    for names in (["m0"], ["m0", "m2"]):
        assert isinstance(system.posterior(observed(x, *names)), NormalizingFlow)
    assert isinstance(system.posterior(observed(x)).base_dist, torch.distributions.Normal)
    assert isinstance(system.combine(observed(x)), NormalizingFlow)
    assert [s.name for s in stages_of(system)] == ["joint", "amortised"]


def test_posteriors_of_jnf_shared_see_the_projection_alone():
    system = build_system(config("jnf-shared"))
    x, z = torch.ones(4, 3), torch.zeros(4, 2)
    direct = system.flows["m1"](system.projectors["m1"](x)).log_prob(z)
    assert torch.equal(system.posterior(Observed({"m1": x})).log_prob(z), direct)


def test_jnf_with_a_projector_is_jnf_shared():
    ours = build_system(config("jnf", projector="contrastive")).state_dict()
    theirs = build_system(config("jnf-shared")).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_settings_of_one_stage_leave_the_initial_weights_of_the_others():
    one = build_system(config("jnf-shared"))
    other = build_system(config("jnf-shared", posterior="nsf", subset="amortised"))
    for part in ("projectors", "joint"):
        a, b = (getattr(m, part).state_dict() for m in (one, other))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_trained_subset_rule_takes_its_training_from_the_flows_for_twice_as_long():
    flows = {"epochs": 7, "batch_size": 33, "learning_rate": 0.5}
    found = config(flows=flows, subset="amortised").subset
    assert (found.epochs, found.batch_size, found.learning_rate) == (14, 33, 0.5)
    own = config(flows=flows, subset={"kind": "amortised", "epochs": 3}).subset
    assert (own.epochs, own.batch_size) == (3, 33)


def test_facts_name_the_parts():
    facts = build_system(config("jnf-shared", projector="dcca", joint={"beta": 2.5})).facts()
    assert facts == {
        "system": "JNF-Shared (DCCA)",
        "subset": "product",
        "posterior": "MAF, 2 transforms",
        "projector": "DCCA, dimension 10",
        "beta": "2.5",
    }
    assert build_system(config(posterior="gaussian")).facts()["posterior"] == "Gaussian"
    plain = build_system(config(posterior="gaussian", subset="amortised")).facts()
    assert (plain["system"], plain["subset"]) == ("JNF", "amortised")
    assert not {"projector", "posterior"} & plain.keys()


@pytest.mark.bad_input
def test_a_network_that_cannot_take_a_shape_is_named():
    modalities = {"a": {"shape": [3, 6, 6], "encoder": {"kind": "conv", "channels": [4, 4]}}}
    raw = {"system": "jnf", "latent_dim": 2, "modalities": modalities}
    with pytest.raises(ConfigError, match="2 layers cannot take 'a' of shape .*multiples of 4"):
        build_system(config_from_dict(raw))


@pytest.mark.parametrize(
    "settings", [{"subset": {"kind": "product", "ball": False}}, PROTOCOLS["paper"]]
)
def test_without_the_ball_draws_are_those_of_the_posterior_itself(linear_gaussian, settings):
    """Moments of q(z|x_j), which a small ball would cut off."""
    truth = linear_gaussian()
    x = {"m0": truth.sample(2)["m0"]}
    mean, std = truth.posterior(x)
    within, free = truth.estimator(), truth.estimator(**settings)
    for model in (within, free):
        model.system_.joint.radius.fill_(0.5)
    assert np.linalg.norm(within.draw(x, 500, seed=0).z, axis=-1).max() <= 0.5 + 1e-6
    assert free.radius == np.inf
    z = free.draw(x, 4000, seed=0).z
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * std.max() / 4000**0.5)
    np.testing.assert_allclose(z.std(0), np.tile(std, (2, 1)), rtol=0.06)  # five standard errors


def test_the_paper_s_protocol_is_for_products_and_leaves_exact_systems_alone():
    specs = [Modality("a", (2,)), Modality("b", (2,))]
    with pytest.raises(UsageError, match="about products of experts, but .* 'amortised'"):
        JNF(specs, 2, subset="amortised").with_protocol("paper")
    exact = MVTCAE(specs, 2)
    assert exact.with_protocol("paper").config == exact.config
    for name, divisor in (("paper", "prior"), ("paper-f3", "prior-once")):
        config = JNF(specs, 2).with_protocol(name).config
        assert (config.subset.divisor, config.subset.ball) == (divisor, False)
        assert (config.sampler.draws, config.sampler.num_steps) == (100, 10)
