"""Rows that lack modalities, from fit to scores: what is absent counts for nothing."""

import numpy as np
import pytest
import torch

from mvflow import JMVAE, JNF, MVAE, TELBO, JNFShared, load
from mvflow.core import ArraySource, DataError, Modality, UsageError
from mvflow.projectors import Contrastive
from mvflow.systems import System

ROWS = 48
SPECS = [Modality(name, (size,)) for name, size in (("a", 2), ("b", 3), ("c", 2))]
NETWORK = {"kind": "mlp", "hidden": [6]}
SHORT = {"epochs": 1, "batch_size": 16}
SETTINGS = {
    "latent_dim": 2,
    "networks": {
        m.name: dict.fromkeys(("encoder", "decoder", "projector"), NETWORK) for m in SPECS
    },
    "joint": {**SHORT, "merge": (8,)},
    "sampler": "sir",  # faster than chains
}
AMORTISED = {"kind": "amortised", "posterior": "gaussian", "embedding": 4, "summary_hidden": (8,)}
MODELS = {
    "jnf": lambda: JNF(SPECS, **SETTINGS, flows=SHORT),
    "jnf, amortised": lambda: JNF(SPECS, **SETTINGS, subset={**AMORTISED, **SHORT}),
    "jnf, matching": lambda: JNF(
        SPECS,
        **SETTINGS,
        subset={"kind": "matching", "embedding": 4, "summary_hidden": (8,), "width": 8, **SHORT},
    ),
    "jnf, kernel": lambda: JNF(SPECS, **SETTINGS, subset="kernel"),
    "jnf-shared": lambda: JNFShared(
        SPECS,
        **SETTINGS,
        flows=SHORT,
        projectors={**SHORT, "batch_size": 24},
        projector={"kind": "contrastive", "dim": 2},
    ),
    "jmvae": lambda: JMVAE(SPECS, **SETTINGS),
    "telbo": lambda: TELBO(SPECS, **SETTINGS, experts=SHORT),
    "mvae": lambda: MVAE(SPECS, 2, networks=SETTINGS["networks"], joint=SHORT),
}


def rows(seed=0, count=ROWS):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(count, 2))
    return {
        m.name: (shared @ rng.normal(size=(2, m.size)) + rng.normal(size=(count, m.size))).astype(
            np.float32
        )
        for m in SPECS
    }


def masks(count=ROWS):
    return {"b": np.arange(count) % 3 > 0, "c": np.arange(count) % 4 > 0}


def with_gaps(x, present, value=np.nan):
    return {
        n: np.where(present[n][:, None], v, np.float32(value)) if n in present else v
        for n, v in x.items()
    }


def mixed(x, present):
    """As `Source.take` gives rows."""
    return {**with_gaps(x, present), **{f"present/{n}": m for n, m in present.items()}}


def weights(model):
    return {name: record.weights for name, record in model.records_.items()}


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def of(name):
        if name not in made:
            made[name] = MODELS[name]().fit(with_gaps(rows(), masks()), present=masks(), seed=0)
        return made[name]

    return of


@pytest.mark.parametrize("name", MODELS)
def test_absent_values_are_never_read(fitted, name):
    other = MODELS[name]().fit(with_gaps(rows(), masks(), 1e9), present=masks(), seed=0)
    assert weights(other) == weights(fitted(name))
    x = {n: np.ma.masked_invalid(v) for n, v in with_gaps(rows(), masks()).items()}
    assert weights(MODELS[name]().fit(x, seed=0)) == weights(fitted(name))


@pytest.mark.parametrize("name", MODELS)
def test_a_mask_that_hides_nothing_changes_no_bit(name):
    shown = {n: np.ones(ROWS, bool) for n in "abc"}
    plain = MODELS[name]().fit(rows(), seed=0)
    masked = MODELS[name]().fit(rows(), present=shown, seed=0)
    assert weights(masked) == weights(plain)
    assert masked.config == plain.config
    assert getattr(plain.config.joint, "masking", None) is None


@pytest.mark.parametrize("name", ["jnf", "jnf, kernel", "jnf-shared", "mvae"])
def test_rows_of_all_kinds_together_are_as_each_kind_apart(fitted, name):
    model, x, present = fitted(name), rows(1, 12), masks(12)
    together = mixed(x, present)
    kinds = 2 * present["b"] + present["c"]
    z = np.random.default_rng(0).normal(size=(3, 12, 2)).astype(np.float32)
    log_prob = model.posterior_log_prob(z, together)
    loc, scale = model.encode(together)
    means, draws = model.transform(together), model.sample_latent(together, 2)
    bounds, likelihoods = model.evidence_lower_bound(together, n=3), {}
    scores = model.log_likelihood(together, n=4000)
    given = {"a": x["a"], **{k: v for k, v in together.items() if k[-1] == "b"}}
    crossed = model.log_likelihood({"c": x["c"]}, given=given, n=50)
    assert np.isfinite([*crossed, *bounds.values, *means.ravel(), *draws.ravel()]).all()
    for kind in np.unique(kinds):
        at = np.flatnonzero(kinds == kind)
        own = {n: x[n][at] for n in "abc" if n not in present or present[n][at].all()}
        np.testing.assert_array_equal(log_prob[:, at], model.posterior_log_prob(z[:, at], own))
        likelihoods[kind] = model.log_likelihood(own, n=4000)
        # two estimates by importance sampling
        np.testing.assert_allclose(scores[at], likelihoods[kind], atol=0.15)
        if name != "mvae":  # whose encode, as ever, wants to be told of all modalities
            np.testing.assert_allclose(loc[at], model.encode(own)[0], atol=1e-6)
            np.testing.assert_allclose(scale[at], model.encode(own)[1], atol=1e-6)
        if len(own) == 3 and model.can_encode:
            np.testing.assert_allclose(means[at], model.transform(own), atol=1e-6)


def test_projections_of_what_is_absent_are_not_numbers(fitted):
    x, present = rows(1, 12), masks(12)
    found = fitted("jnf-shared").project(mixed(x, present))
    alone = fitted("jnf-shared").project(
        {n: v[present.get(n, np.ones(12, bool))] for n, v in x.items() if n == "b"}
    )
    assert np.isnan(found["b"]).all(1).tolist() == (~present["b"]).tolist()
    np.testing.assert_allclose(found["b"][present["b"]], alone["b"], atol=1e-6)


def test_a_run_says_what_it_was_trained_for_and_loads_without_the_rows(fitted, tmp_path):
    model, x = fitted("jnf"), rows(1, 12)
    assert model.config.joint.masking == 0.5
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    together = mixed(x, masks(12))
    np.testing.assert_array_equal(again.encode(together)[0], model.encode(together)[0])


def test_validation_rows_may_lack_modalities_too():
    x, held = with_gaps(rows(), masks()), ArraySource(rows(2, 16), SPECS, present=masks(16))
    model = MODELS["jnf"]().fit(x, present=masks(), validation=held, seed=0)
    losses = [record["validation"]["loss"] for record in model.history_]
    assert np.isfinite(losses).all()
    complete = MODELS["jnf"]().fit(rows(), validation=held, seed=0)
    assert complete.config.joint.masking == 0.5  # asked for by the rows that are held out


def test_modalities_that_no_row_has_together_are_linked_by_a_third():
    apart = {"b": np.arange(ROWS) % 2 > 0, "c": np.arange(ROWS) % 2 == 0}
    model = MODELS["jnf-shared"]().fit(with_gaps(rows(), apart), present=apart, seed=0)
    assert np.isfinite(model.log_likelihood(rows(1, 4), n=20)).all()


@pytest.mark.bad_input
def test_what_cannot_be_learned_is_refused(monkeypatch):
    nowhere = {"b": np.zeros(ROWS, bool)}
    with pytest.raises(DataError, match="no row has modality 'b'"):
        MODELS["jnf"]().fit(rows(), present=nowhere)
    gap = np.ones_like(rows()["b"], bool)
    gap[:, -1] = False
    with pytest.raises(DataError, match=r"'b': no row has the value at \(\d,\): leave it out"):
        MODELS["mvae"]().fit(rows(), present={"b": gap})
    few = {"b": np.arange(ROWS) % 16 == 0}
    with pytest.raises(DataError, match=r"4\.3% of the rows have both 'a' and 'b'.*batch_size=47"):
        MODELS["jnf-shared"]().fit(with_gaps(rows(), few), present=few, seed=0)
    with monkeypatch.context() as patched:
        patched.setattr(Contrastive, "loss", lambda self, projections: 0.0)
        with pytest.raises(UsageError, match="'contrastive' compares complete rows alone"):
            MODELS["jnf-shared"]().fit(with_gaps(rows(), masks()), present=masks())
    apart = {"b": np.arange(ROWS) % 2 > 0, "c": np.arange(ROWS) % 2 == 0}
    model = MODELS["jnf, kernel"]().fit(with_gaps(rows(), apart), present=apart, seed=0)
    with pytest.raises(UsageError, match="0 of the training rows have b and c together"):
        model.transform({n: rows(1, 4)[n] for n in "bc"})


@pytest.mark.bad_input
def test_rows_that_a_model_cannot_take_are_refused(fitted):
    x = rows(1, 12)
    nothing = {"b": np.arange(12) > 0, "c": np.arange(12) > 0}
    some = mixed({n: x[n] for n in "bc"}, nothing)
    with pytest.raises(UsageError, match="row 0 has none of b, c"):
        fitted("jnf").draw(some)
    with pytest.raises(UsageError, match="row 0 has none of the modalities to be scored"):
        fitted("jnf").log_likelihood(
            mixed({"c": x["c"]}, {"c": nothing["c"]}), given={"a": x["a"]}
        )
    complete = MODELS["jnf"]().fit(rows(), seed=0)
    with pytest.raises(UsageError, match=r"'b' is absent in 4 of 12.*train it on rows that"):
        complete.encode({"a": x["a"], "c": x["c"], **mixed({"b": x["b"]}, {"b": masks(12)["b"]})})


@pytest.mark.bad_input
def test_a_system_that_takes_complete_rows_alone_says_who_takes_others():
    class Strict(System):
        accepts_absent = False

    with pytest.raises(UsageError, match=r"needs all values of every row.*choose a system.*mvae"):
        Strict.for_absence(MODELS["jnf"]().config)


def reference(model, x, present, noise):
    """Minus the masked ELBO of each row with this noise, in NumPy, from the weights alone."""
    state = {k: v.double().numpy() for k, v in model.system_.joint.state_dict().items()}

    def layers(prefix, values):
        numbers = sorted(
            {int(k[len(prefix) :].split(".")[0]) for k in state if k.startswith(prefix)}
        )
        for i in numbers:
            values = values @ state[f"{prefix}{i}.weight"].T + state[f"{prefix}{i}.bias"]
            values = values if i == numbers[-1] else np.maximum(values, 0)
        return values

    flags = np.stack([present.get(n, np.ones(len(noise), bool)) for n in "abc"], 1)
    heads = [layers(f"heads.x_{n}.1.", x[n].astype(np.float64)) for n in "abc"]
    seen = np.concatenate([h * flags[:, i : i + 1] for i, h in enumerate(heads)] + [flags], 1)
    loc, raw = np.split(layers("merge.network.", seen), 2, 1)
    scale = np.exp(7 * np.tanh(raw / 7))
    z = loc + scale * noise
    loss = 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale)).sum(1)
    for i, n in enumerate("abc"):
        mean = layers(f"decoders.x_{n}.0.", z)
        fit = -0.5 * ((x[n] - mean) ** 2 + np.log(2 * np.pi)).sum(1)
        loss -= model.system_.joint.weights[n] * np.where(flags[:, i], fit, 0)
    return loss


def test_the_loss_is_that_of_numpy(fitted, monkeypatch):
    model, x, present = fitted("jnf"), rows(1), masks()
    noise = np.random.default_rng(3).normal(size=(ROWS, 2))
    system = model.with_settings(joint={**model.config.joint.model_dump(), "masking": 0.0})
    system.fit(with_gaps(x, present), present=present, stages=["joint"])
    monkeypatch.setattr(
        torch.distributions.Normal,
        "rsample",
        lambda self, shape=(): self.loc + self.scale * torch.from_numpy(noise).to(self.loc),
    )
    observed = system._checked(mixed(x, present))
    spec = system.plan_.spec("joint")
    expected = reference(system, with_gaps(x, present, 0), present, noise).mean()
    # float32 against float64
    np.testing.assert_allclose(float(spec.loss(observed, 1.0).total), expected, rtol=1e-4)


def test_evaluation_says_on_which_rows_it_is(fitted):
    model = fitted("jnf, amortised").with_settings(
        evaluation={"rows": 30, "importance_rows": 8, "importance_draws": 20, "prior_draws": 20}
    )
    x, present = rows(1, 40), masks(40)
    some = ArraySource(with_gaps(x, present), SPECS, present=present)
    found = model.evaluate(some, seed=1)
    assert found.presence.complete == (present["b"] & present["c"]).sum()
    assert {"joint", "a->b", "b->c"} <= set(found.log_likelihood)
    assert all(np.isfinite(estimate.mean) for estimate in found.log_likelihood.values())


@pytest.mark.parametrize("name", ["jnf, amortised", "jnf, kernel", "jnf-shared", "jmvae", "mvae"])
def test_values_may_be_missing_inside_a_modality(name):
    rng = np.random.default_rng(0)
    present = {m.name: rng.random((ROWS, m.size)) > 0.2 for m in SPECS}
    present["b"][0] = False  # a row that lacks all of them lacks the modality
    models = []
    for value in (np.nan, 1e9):
        x = {n: np.where(present[n], v, np.float32(value)) for n, v in rows().items()}
        models.append(MODELS[name]().fit(x, present=present, seed=0))
    assert weights(models[0]) == weights(models[1])
    assert {m.encoder.kind for m in models[0].config.modalities.values()} == {"gaps"}
    given = {**x, **{f"present/{n}": mask for n, mask in present.items()}}
    assert np.isfinite(models[0].log_likelihood(given, n=20)).all()
    assert np.isfinite(models[0].transform(given, n=5)).all()
