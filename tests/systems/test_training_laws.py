"""What training keeps for every system: gradients, progress, interruptions, densities."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from mvflow import estimator_class, load
from mvflow.config import Training, config_from_dict
from mvflow.core import ArraySource, ConfigError, Modality, Observed, registry
from mvflow.nn import seeded
from mvflow.runs import RunDirectory
from mvflow.systems import Decoders, build_system, stages_of
from mvflow.training import Table, build_stage

SYSTEMS = registry("systems").names()
SMALL = {"kind": "mlp", "hidden": [8]}
QUICK = {"epochs": 4, "batch_size": 32, "learning_rate": 1e-2}
LIKELIHOODS = {"a": "normal", "b": {"kind": "laplace", "scale": 0.5}, "c": "categorical"}
SUBSETS = [s for size in (1, 2, 3) for s in combinations("abc", size)]


def sections(name):
    """Sections of the stages' settings, whatever the system calls them."""
    fields = registry("systems").load(name).Settings.model_fields
    return [
        key
        for key, field in fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, Training)
        and key != "classifiers"
    ]


def config(name, **changes):
    networks = {"encoder": SMALL, "decoder": SMALL, "projector": SMALL}
    modalities = {n: {"shape": [3], "likelihood": p, **networks} for n, p in LIKELIHOODS.items()}
    sampler = {"kind": "hmc", "warmup": 5, "draws": 4, "num_steps": 2}
    raw = {"system": name, "latent_dim": 2, "modalities": modalities, "sampler": sampler}
    return config_from_dict(raw | dict.fromkeys(sections(name), QUICK) | changes)


def rows():
    """Three groups of rows that every modality shows."""
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=200)
    x = {n: 3 * np.eye(3)[group] + 0.5 * rng.normal(size=(200, 3)) for n in "ab"}
    return {n: v.astype(np.float32) for n, v in x.items()} | {"c": group}


class Records:
    """Keeps the history; interrupts a stage at the end of its first epoch if asked to."""

    def __init__(self, stage=None):
        self.stage, self.losses = stage, {}

    def on_step(self, *args):
        pass

    def on_epoch(self, record, checkpoint):
        self.losses.setdefault(record.stage, []).append(record.validation["loss"])
        if record.stage == self.stage:
            raise KeyboardInterrupt


@cache
def trained(name):
    records = Records()
    return estimator_class(name).from_config(config(name)).fit(rows(), callback=records), records


def observed(names, count=3):
    return Observed({n: torch.from_numpy(rows()[n][:count]) for n in names})


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_reach_every_parameter_of_a_stage_and_no_other(name):
    system = build_system(config(name))
    table = Table.of(ArraySource(rows(), system.modalities))
    for spec in stages_of(system):
        system.eval().requires_grad_(False)
        spec.module.requires_grad_(True)
        stage = build_stage(spec, system, table)
        with seeded(0, "loss"):
            stage.loss(stage.train.gather(torch.arange(64)), 0.5).total.backward()
        own = {id(p) for p in spec.module.parameters()}
        for key, parameter in system.named_parameters():
            grad = parameter.grad
            if id(parameter) in own:
                assert grad is not None, (spec.name, key)
                assert grad.isfinite().all(), (spec.name, key)
                assert grad.abs().sum() > 0, (spec.name, key)
            else:
                assert grad is None, (spec.name, key)
        spec.module.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stage_lowers_its_loss_on_held_out_rows(name):
    estimator, records = trained(name)
    assert list(records.losses) == list(estimator.stage_names)
    for stage, losses in records.losses.items():
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0], stage


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_stage_interrupted_ends_as_if_it_had_not_been(name, tmp_path):
    undisturbed, _ = trained(name)
    run = RunDirectory.create(tmp_path / "run", undisturbed.config)
    for stage in undisturbed.stage_names:
        with pytest.raises(KeyboardInterrupt):
            load(run.path).fit(rows(), stages=[stage], run=run, callback=Records(stage))
        again = Records()
        load(run.path).fit(rows(), stages=[stage], run=run, callback=again)
        assert len(again.losses[stage]) == QUICK["epochs"] - 1
    found, expected = load(run.path).system_.state_dict(), undisturbed.system_.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("name", SYSTEMS)
def test_posteriors_and_proposals_are_normalised(name):
    """E_q of g/q is one for any density g, here a narrow Gaussian amid q's own draws."""
    system = build_system(config(name)).eval()  # training may make q far from any Gaussian
    for given in ("a", "bc", "abc"):
        with seeded(0, *given), torch.no_grad():
            found = [*system.proposals(observed(given)), system.posterior(observed(given))]
            for q in (each for each in found if isinstance(each, Distribution)):
                z = q.sample((8000,)).double()
                low, middle, high = z.quantile(torch.tensor([0.25, 0.5, 0.75]).double(), 0)
                narrow = torch.distributions.Normal(middle, (high - low) / 3)
                g = torch.distributions.Independent(narrow, 1)
                ratio = (g.log_prob(z) - q.log_prob(z.float())).exp()
                error = ratio.std(0) / len(ratio) ** 0.5
                assert ((ratio.mean(0) - 1).abs() < 4 * error).all(), given


@pytest.mark.parametrize("name", SYSTEMS)
def test_likelihoods_of_any_modalities_given_any_others_are_finite(name):
    estimator, x = trained(name)[0], {n: v[:10] for n, v in rows().items()}
    for scored in SUBSETS:
        for given in ((), *SUBSETS):
            if not {*scored} & {*given}:
                seen, wanted = ({n: x[n] for n in names} for names in (given, scored))
                assert np.isfinite(estimator.log_likelihood(wanted, given=seen, n=20)).all()


@pytest.mark.bad_input
@pytest.mark.parametrize("name", SYSTEMS)
def test_an_unknown_setting_is_given_the_nearest_name(name):
    with pytest.raises(ConfigError, match="unknown key 'latent_dmi': did you mean 'latent_dim'"):
        config(name, latent_dmi=3)
    for section in sections(name):
        with pytest.raises(ConfigError, match=rf"'epohcs': did you mean 'epochs'.*in {section}\)"):
            config(name, **{section: {"epohcs": 3}})
    with pytest.raises(ConfigError, match="prior 'standard' has no setting 'components'"):
        config(name, prior={"kind": "standard", "components": 3})


@pytest.mark.parametrize("system", registry("systems").names())
def test_scales_begin_at_the_spread_of_training_rows_and_are_learned(system, small):
    """Every system measures columns before it trains, and gradients reach the scales."""
    kind = estimator_class(system)
    data, _ = small.data(2)
    modalities = [
        Modality(n, x.shape[1:], {"kind": "normal", "scale": "learned"}) for n, x in data.items()
    ]
    made = small.estimator(kind, 2, data={"validation": 0.0}).set_params(modalities=modalities)
    made.fit(data)
    parts = [m for m in made.system_.modules() if isinstance(m, Decoders)]
    assert len(parts) == 1
    for name, x in data.items():
        likelihood = parts[0].likelihood(name)
        np.testing.assert_allclose(likelihood.spread, x.std(0, dtype=float), rtol=1e-6)
        assert (likelihood.learned["log_scale"] != 0).all()
