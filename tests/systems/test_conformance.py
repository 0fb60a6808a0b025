"""One suite for what every system promises, whoever made it."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from mvflow.config import config_from_dict
from mvflow.core import ArraySource, Observed, derive_seed, registry
from mvflow.inference import Target
from mvflow.nn import seeded
from mvflow.runs import Plan
from mvflow.systems import Bounded, Encodes, Projects, build_system, stages_of
from mvflow.training import Table, build_stage, run_stage

ROWS = 24
SYSTEMS = registry("systems").names()


def config(name, order=(0, 1, 2), **changes):
    """Small networks, and stages of two steps, whatever the system's sections are called."""
    small = {"kind": "mlp", "hidden": [5]}
    modalities = {
        f"m{j}": {"shape": [2 + j], "encoder": small, "decoder": small, "projector": small}
        for j in order
    }
    raw = {"system": name, "latent_dim": 2, "modalities": modalities, "data": {"validation": 0}}
    quick = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}
    fields = registry("systems").load(name).Settings.model_fields
    stages = [s.name for s in stages_of(build_system(config_from_dict(raw | changes)))]
    return config_from_dict(raw | {s: quick for s in stages if s in fields} | changes)


def data(order=(0, 1, 2)):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(ROWS, 2))
    x = {j: (z @ rng.normal(size=(2, 2 + j))).astype(np.float32) for j in range(5)}
    return {f"m{j}": x[j] for j in order}


def observed(names, rows=4):
    return Observed({n: torch.from_numpy(v[:rows]) for n, v in data().items() if n in names})


def train(system, table):
    """All stages in order, as `fit` has them."""
    for spec in stages_of(system):
        if spec.fit is not None:
            spec.fit(table, np.random.default_rng(0))
        else:
            system.eval().requires_grad_(False)
            spec.module.requires_grad_(True)
            run_stage(build_stage(spec, system, table), seed=0)
        spec.module.eval()
        if spec.finish is not None:
            spec.finish(table)
    return system.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=SYSTEMS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def system(name):
    """A system that is trained."""
    return train(build_system(config(name)), Table.of(ArraySource(data())))


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_seed_decides_the_weights_and_the_global_state_stays(name):
    before = torch.get_rng_state()
    one, again, other = (build_system(config(name, seed=s)).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again)
    assert not same(one, other)


def test_weights_follow_from_the_seed_and_the_name_of_what_they_belong_to(name, monkeypatch):
    """By names that stay: what one version has begun the next one ends alike."""
    paths = []

    def derived(seed, *path):
        paths.append((seed, *path))
        return derive_seed(seed, *path)

    settings = config(name, seed=3)
    monkeypatch.setattr("mvflow.nn.random.derive_seed", derived)
    parts = {s.name for s in stages_of(build_system(settings))} | {"experts", "prior"}
    assert paths
    assert all(path[:2] == (3, "weights") and path[2] in parts for path in paths), paths
    assert len({*paths}) == len(paths), "two parts begin with the same numbers"


def test_no_order_of_modalities_matters_to_the_bit(name):
    found = []
    for order in list(permutations(range(3)))[::2]:
        system = build_system(config(name, order))
        found.append(snapshot(train(system, Table.of(ArraySource(data(order))))))
    assert list(found[0]) == list(found[1])
    assert all(same(found[0], each) for each in found[1:])


def test_stages_share_out_all_parameters(name):
    system = build_system(config(name))
    parts = [p for spec in stages_of(system) for p in spec.module.parameters()]
    assert {id(p) for p in parts} == {id(p) for p in system.parameters()}
    assert len(parts) == len(list(system.parameters()))


def test_what_a_stage_depends_on_is_earlier_and_known(name):
    system = build_system(config(name))
    stages = stages_of(system)
    Plan(system.settings, stages)  # refuses double names and later needs
    for spec in stages:
        for column in spec.columns:
            assert set(column.stages) & set(spec.needs), (spec.name, column.name)
        if spec.name in type(system.settings).model_fields:
            assert spec.settings == getattr(system.settings, spec.name)


def test_a_stage_changes_its_module_and_nothing_else(name):
    system, table = build_system(config(name)), Table.of(ArraySource(data()))
    before = snapshot(system)
    for spec in stages_of(system):
        own = {id(v) for v in spec.module.state_dict(keep_vars=True).values()}
        others = {k for k, v in system.state_dict(keep_vars=True).items() if id(v) not in own}
        system.eval().requires_grad_(False)
        spec.module.requires_grad_(True)
        run_stage(build_stage(spec, system, table), seed=0)
        spec.module.eval()
        if spec.finish is not None:
            spec.finish(table)
        after = snapshot(system)
        assert all(torch.equal(after[k], before[k]) for k in others)
        assert not same(after, before)
        before = after


def test_the_prior_is_one_row_of_the_latent_space(system):
    prior = system.prior()
    assert isinstance(prior, Distribution)
    assert prior.sample((7,)).shape == (7, 1, system.latent.dim)
    assert prior.log_prob(torch.zeros(7, 1, system.latent.dim)).shape == (7, 1)


def test_every_subset_has_a_posterior_of_each_row(system):
    names = [m.name for m in system.modalities]
    z = torch.zeros(3, 4, system.latent.dim)
    with seeded(0, "draw"), torch.no_grad():
        for size in range(1, len(names) + 1):
            for given in combinations(names, size):
                q = system.posterior(observed(given))
                assert isinstance(q, Distribution | Target)
                assert q.log_prob(z).shape == (3, 4)
                assert q.log_prob(z).isfinite().all()
                if isinstance(q, Distribution):
                    assert (q.batch_shape, q.event_shape) == ((4,), (system.latent.dim,))


def test_a_posterior_depends_on_its_row_alone(system):
    """The second half of the rows by themselves have the same densities."""
    z = torch.linspace(-1, 1, 8 * system.latent.dim).reshape(8, -1)
    for given in (["m0"], ["m0", "m2"], ["m0", "m1", "m2"]):
        rows = observed(given, 8)
        with torch.no_grad():
            whole = system.posterior(rows).log_prob(z)
            half = system.posterior(rows.take(4, 8)).log_prob(z[4:])
        # float32 matrix products round as the number of rows has it
        torch.testing.assert_close(whole[4:], half, rtol=1e-4, atol=1e-4)


def test_proposals_are_distributions_of_each_row(system):
    for given in (["m0"], ["m0", "m2"], ["m0", "m1", "m2"]):
        with seeded(0, "draw"), torch.no_grad():
            found = system.proposals(observed(given))
            assert found
            for q in found:
                z = q.sample((5,))
                assert z.shape == (5, 4, system.latent.dim)
                assert q.log_prob(z).isfinite().all()


def test_decoding_has_leading_dimensions_and_names_at_will(system):
    z = torch.linspace(-1, 1, 6 * system.latent.dim).reshape(2, 3, -1)
    with torch.no_grad():
        decoded = system.decode(z)
        assert list(decoded) == [m.name for m in system.modalities]
        for m in system.modalities:
            assert decoded[m.name].mean.shape == (2, 3, *m.shape)
            alone = system.decode(z, [m.name])
            assert list(alone) == [m.name]
            assert torch.equal(alone[m.name].mean, decoded[m.name].mean)
            flat = system.decode(z.reshape(6, -1), [m.name])[m.name].mean
            torch.testing.assert_close(flat.reshape(2, 3, *m.shape), decoded[m.name].mean)


def test_what_only_some_systems_have_does_what_it_says(system):
    everything = observed(["m0", "m1", "m2"])
    with torch.no_grad():
        if isinstance(system, Encodes):
            q = system.encode(everything)
            assert q.mean.shape == q.stddev.shape == (4, system.latent.dim)
            assert set(system.encoder_stages) <= {s.name for s in stages_of(system)}
            assert system.combine(everything).log_prob(q.mean).shape == (4,)
        if isinstance(system, Bounded):
            assert 0 < float(system.radius) < np.inf
        if isinstance(system, Projects) and system.projectors is not None:
            for name, x in everything.x.items():
                assert len(system.project(name, x)) == 4


def test_facts_are_a_few_words_each(system):
    facts = system.facts()
    assert facts["system"]
    assert all(isinstance(v, str) and 0 < len(v) < 60 for v in facts.values())


@pytest.mark.parametrize("prior", registry("priors").names())
def test_any_prior_can_be_fitted(name, prior):
    system = train(build_system(config(name, prior=prior)), Table.of(ArraySource(data())))
    assert (system.fitted_prior is None) == (prior == "standard")
    if system.fitted_prior is not None:
        assert stages_of(system)[-1].module is system.fitted_prior
        with seeded(0, "draw"):
            assert system.fitted_prior().sample((5,)).shape == (5, 1, system.latent.dim)
