"""JNF with a factor-analytic start and the subset rule "kernel": closed forms of linear data."""

import numpy as np
import pytest
import torch

from mvflow import JNF, load
from mvflow.core import ConfigError, Modality, Observed
from mvflow.systems.factors import factor_analysis
from mvflow.systems.subsets.kernel import COVARIATE, KernelPosterior, axes_above_noise

SIZES = {"a": 4, "b": 3, "c": 5}
LATENT = 2


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(1)
    loadings = rng.normal(size=(sum(SIZES.values()), LATENT))
    return loadings / np.linalg.norm(loadings, axis=1, keepdims=True) * 0.9


def rows(truth, n, seed):
    rng = np.random.default_rng(seed)
    noise = np.sqrt(1 - 0.81) * rng.normal(size=(n, len(truth)))
    x = 3 + 2 * (rng.normal(size=(n, LATENT)) @ truth.T + noise)
    cuts = np.cumsum(list(SIZES.values()))[:-1]
    return {n: v.astype(np.float32) for n, v in zip(SIZES, np.split(x, cuts, 1), strict=True)}


def model(epochs=0, **settings):
    net = {"kind": "linear-mlp", "hidden": [8], "dropout": 0.1}
    return JNF(
        [Modality(n, (d,), {"kind": "normal", "scale": "learned"}, 1.0) for n, d in SIZES.items()],
        LATENT,
        networks={n: {"encoder": net, "decoder": net} for n in SIZES},
        joint={
            "epochs": epochs,
            "merge": "sum",
            "start": "factor-analysis",
            "keep_best": True,
            **settings,
        },
        subset="kernel",
    )


@pytest.fixture(scope="module", params=["complete", "incomplete"])
def fitted(truth, request):
    if request.param == "complete":
        return model().fit(rows(truth, 600, 0))
    rng, x = np.random.default_rng(0), rows(truth, 1600, 0)  # 576 of them have all
    present = {n: rng.random(1600) > 0.4 for n in "bc"}
    x = {n: np.where(present[n][:, None], v, np.nan) if n in present else v for n, v in x.items()}
    return model().fit(x, present=present)


def test_the_start_of_a_masked_encoder_is_the_posterior_without_what_is_absent(fitted, truth):
    """KL(exact || q), where exact is N(0, I) given what is seen, at the true parameters."""
    if not fitted.system_.joint.is_masked:
        pytest.skip("its encoder takes complete rows alone")
    new = rows(truth, 200, 5)
    own = dict(zip(SIZES, np.split(truth, np.cumsum(list(SIZES.values()))[:-1]), strict=True))
    seen = {n: torch.from_numpy(v) for n, v in new.items() if n != "b"}
    x = {n: torch.from_numpy(v) for n, v in new.items()}
    with torch.no_grad():
        q, full = fitted.system_.encode(Observed(seen)), fitted.system_.encode(Observed(x))
        decoded = fitted.system_.decode(q.mean, ["b"])["b"].mean.numpy()
    w = np.concatenate([own["a"], own["c"]])
    unit = (np.concatenate([new["a"], new["c"]], 1) - 3) / 2
    best = 3 + 2 * unit @ w @ np.linalg.inv(np.eye(LATENT) + w.T @ w / 0.19) @ own["b"].T / 0.19
    # the factors are orthogonal over all columns, not over those of a and c alone
    assert np.sqrt(((decoded - best) ** 2).mean()) < 0.15 * np.std(best)
    assert (q.stddev > full.stddev).all()


def test_factor_analysis_finds_the_covariance_it_was_given(truth):
    covariance = torch.from_numpy(truth @ truth.T + np.diag(np.full(len(truth), 0.19)))
    loadings, noise = factor_analysis(covariance, LATENT)
    # EM is stopped after 20 steps
    torch.testing.assert_close(loadings @ loadings.T + noise.diag(), covariance, rtol=0, atol=5e-3)
    inner = loadings.T @ (loadings / noise[:, None])
    torch.testing.assert_close(inner, inner.diagonal().diag(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("columns", [3, 300])
def test_as_many_factors_as_columns_leave_no_noise_and_more_are_empty(columns):
    """Columns that hang on nothing else: all loadings lie on them, but for the least noise."""
    loadings, noise = factor_analysis(torch.eye(columns, dtype=torch.float64), columns + 2)
    assert loadings.shape == (columns, columns + 2)
    assert not loadings[:, columns:].any()
    covariance = loadings @ loadings.T + noise.diag()
    torch.testing.assert_close(
        covariance, torch.eye(columns, dtype=torch.float64), rtol=0, atol=0.03
    )
    whole, _ = factor_analysis(torch.eye(columns, dtype=torch.float64), columns)
    torch.testing.assert_close(whole @ whole.T, loadings @ loadings.T)


def test_the_start_is_the_posterior_of_the_linear_model(fitted, truth):
    """E[x_T | X] of q(z|X), against the Gaussian conditional with the true covariance."""
    new = rows(truth, 200, 5)
    system = fitted.system_
    x = {n: torch.from_numpy(v) for n, v in new.items()}
    with torch.no_grad():
        q = system.encode(Observed(x))
        decoded = torch.cat([d.mean for d in system.decode(q.mean).values()], 1).numpy()
    unit = (np.concatenate(list(new.values()), 1) - 3) / 2
    precision = np.eye(LATENT) + truth.T @ truth / 0.19
    expected = 3 + 2 * unit @ truth @ np.linalg.inv(precision) @ truth.T / 0.19
    error = np.abs(decoded - expected)
    assert error.mean() < 0.15  # estimated of 600 rows: a few standard errors of 2 / sqrt(600)
    spread = q.base_dist.scale.numpy() if hasattr(q, "base_dist") else q.stddev.numpy()
    found = np.sort(spread.mean(0))
    np.testing.assert_allclose(
        found, np.sort(np.sqrt(1 / np.linalg.eigvalsh(precision))), rtol=0.15
    )


@pytest.mark.parametrize("given", [("a",), ("b", "c")])
def test_predictions_are_near_the_best_there_are_and_intervals_hold(fitted, truth, given):
    new = rows(truth, 500, 7)
    torch.manual_seed(0)
    with torch.no_grad():
        q = fitted.system_.combine(Observed({n: torch.from_numpy(new[n]) for n in given}))
        target = next(n for n in SIZES if n not in given)
        drawn = fitted.system_.decode(q.sample((200,)), [target])[target]
        mean, x = drawn.mean.mean(0).numpy(), drawn.sample().numpy()
    start = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
    own = {n: np.arange(start[n], start[n] + SIZES[n]) for n in SIZES}
    seen = np.concatenate([own[n] for n in given])
    covariance = truth @ truth.T + 0.19 * np.eye(len(truth))
    best = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, own[target])])
    unit = (np.concatenate([new[n] for n in given], 1) - 3) / 2
    least = ((new[target] - 3 - 2 * unit @ best) ** 2).mean()
    assert ((new[target] - mean) ** 2).mean() < 1.1 * least  # 600 rows, not infinitely many
    low, high = np.quantile(x, [0.05, 0.95], axis=0)
    covered = ((new[target] >= low) & (new[target] <= high)).mean()
    assert 0.86 < covered < 0.94


def test_far_from_all_rows_nothing_is_known(fitted):
    far = Observed({"a": torch.full((1, SIZES["a"]), 1e4)})
    near = Observed({"a": torch.full((1, SIZES["a"]), 3.0)})
    with torch.no_grad():
        away, here = (fitted.system_.combine(o) for o in (far, near))
    assert away.mean.abs().max() < 1e-6
    assert (away.stddev > 1.2 * here.stddev).all()


def test_a_column_that_never_varies_says_nothing():
    """Distances are means over columns: one of four that is constant widens them by 4/3."""
    rng = torch.Generator().manual_seed(0)
    x, new = (torch.randn(n, 3, generator=rng) for n in (20, 5))
    latents = torch.rand(20, 2, 2, generator=rng) + 0.1
    found = []
    for width, constant in ((0.3, 0), (0.4, 1)):
        module = KernelPosterior(["a"], 2, width)
        wide = [
            torch.cat([values, values.new_full((len(values), constant), 7.0)], 1)
            for values in (x, new)
        ]
        module.keep({"a": wide[0]}, latents)
        q = module({"a": wide[1]})
        found.append(torch.stack([q.mean, q.stddev]))
    torch.testing.assert_close(found[0], found[1])


def factors(rows, columns, count, seed=0):
    """Standardised columns of some common factors and as much noise, and the factors."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, count))
    loadings = np.random.default_rng(9).normal(size=(count, columns))
    x = z @ loadings / np.linalg.norm(loadings, axis=0) + rng.normal(size=(rows, columns))
    return torch.from_numpy((x - x.mean(0)) / x.std(0)), torch.from_numpy(z)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_axes_above_noise_are_as_many_as_there_are_factors(count):
    x, z = factors(800, 60, count)
    axes = axes_above_noise(x)
    assert axes.shape == (60, count)
    torch.testing.assert_close(axes.T @ axes, torch.eye(count, dtype=axes.dtype))
    # each factor is a linear function of the components but for the noise that 60 columns leave
    left = z - x @ axes @ torch.linalg.lstsq(x @ axes, z).solution
    assert (left.var(0) < 0.25 * z.var(0)).all()


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_keeps_all_axes_and_the_same_distances(seed):
    rng = torch.Generator().manual_seed(seed)
    x, new = (torch.randn(n, 40, generator=rng, dtype=torch.float64) for n in (500, 7))
    latents = torch.rand(500, 2, 2, generator=rng, dtype=torch.float64) + 0.1
    found = []
    for components in ("all", "above-noise"):
        module = KernelPosterior(["a", f"{COVARIATE}b"], 2, 0.3, components)
        module.keep({"a": x, f"{COVARIATE}b": x[:, :1]}, latents)
        q = module({"a": new, f"{COVARIATE}b": new[:, :1]})
        found.append(torch.stack([q.mean, q.stddev]))
    torch.testing.assert_close(found[0], found[1])


def test_without_the_components_of_noise_curves_are_predicted_better():
    """Distances in 60 columns are mostly noise; the same rows, covariate and width."""
    (x, z), (new, true) = factors(600, 60, 2), factors(400, 60, 2, seed=1)
    side = torch.from_numpy(np.random.default_rng(2).choice([-1.0, 1.0], size=(1000, 1)))
    curves = torch.cat([torch.sin(2 * z), side[:600]], 1)
    latents = torch.stack([curves, torch.full_like(curves, 1e-3)], 1)
    errors = []
    for components in ("all", "above-noise"):
        module = KernelPosterior(["x", f"{COVARIATE}side"], 3, 0.3, components)
        module.keep({"x": x, f"{COVARIATE}side": side[:600]}, latents)
        found = module({"x": new, f"{COVARIATE}side": side[600:]}).mean
        truth = torch.cat([torch.sin(2 * true), side[600:]], 1)
        errors.append(((found - truth) ** 2).mean(0))
    assert (errors[1][:2] < 0.9 * errors[0][:2]).all()
    assert errors[1][2] < 0.05  # covariates are no part of the components, and are not lost


def test_it_is_saved_with_its_rows(fitted, truth, tmp_path):
    new = {"b": rows(truth, 5, 3)["b"]}
    fitted.save(tmp_path / "run")
    again = load(tmp_path / "run")
    expected = fitted.sample_latent(new, 3, seed=0)
    np.testing.assert_array_equal(again.sample_latent(new, 3, seed=0), expected)


def test_training_goes_on_from_the_start_and_never_ends_worse(truth):
    data = rows(truth, 300, 0)
    losses = {}
    for epochs in (0, 3):
        trained = model(epochs, learning_rate=0.05).fit(data)
        held = trained.system_.joint.losses
        torch.manual_seed(0)
        with torch.no_grad():
            x = {n: torch.from_numpy(v) for n, v in rows(truth, 2000, 9).items()}
            losses[epochs] = float(held(Observed(x)).total)
    assert losses[3] < losses[0] + 0.3  # chosen by 15 held-out rows, seen at 2,000


def test_what_cannot_start_there_is_refused():
    with pytest.raises(ConfigError, match=r"factor-analysis.*merge=\"sum\".*random"):
        model(merge=(8,)).stage_names  # noqa: B018
