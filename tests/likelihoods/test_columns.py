"""Classes, grades and mixed columns of tables: against independent references and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mvflow import JNF, Modality
from mvflow.core import ConfigError, DataError, check_batch
from mvflow.core.parts import create, dump
from mvflow.likelihoods import LikelihoodModule
from mvflow.nn import seeded


def of(settings, shape):
    return LikelihoodModule(create("likelihoods", settings), shape).double()


def test_classes_have_the_density_of_scipy():
    rng = np.random.default_rng(0)
    raw, x = rng.normal(size=(7, 4, 5)), rng.integers(4, size=(7, 5))  # class before column
    expected = stats.multinomial.logpmf(
        np.eye(4, dtype=int)[x], 1, special.softmax(raw, 1).swapaxes(1, 2)
    )
    p = of({"kind": "categorical-columns", "classes": 4}, (5,))
    outputs = torch.from_numpy(raw.reshape(7, 20))
    found = p.log_prob(outputs, torch.from_numpy(x).double())
    np.testing.assert_allclose(found, expected.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(p.mean(p(outputs)), raw.argmax(1))


def cuts_of(p):
    """The cuts of grades by NumPy, (columns, grades - 1)."""
    steps = np.log1p(np.exp(p.learned["steps"].detach().numpy())) + 1e-6
    ends = np.concatenate([np.zeros((len(steps), 1)), steps.cumsum(1)], 1)
    return p.learned["middle"].detach().numpy()[:, None] + ends - ends[:, -1:] / 2


def grades(classes, columns=3, seed=0):
    p, rng = of({"kind": "ordinal", "classes": classes}, (columns,)), np.random.default_rng(seed)
    p.learned["middle"].data = torch.from_numpy(rng.normal(size=columns))
    p.learned["steps"].data = torch.from_numpy(rng.normal(size=(columns, classes - 2)))
    return p


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_grades_are_where_a_logistic_variable_falls_between_cuts(classes):
    """A latent raw + logistic noise, cut at c_0 < c_1 < ...: scipy's distribution function."""
    p, rng = grades(classes), np.random.default_rng(1)
    raw = rng.normal(0, 2, size=(7, 3))
    below = stats.logistic.cdf(cuts_of(p)[None] - raw[..., None])
    edges = np.concatenate([np.zeros((7, 3, 1)), below, np.ones((7, 3, 1))], -1)
    x = rng.integers(classes, size=(7, 3))
    expected = np.log(np.take_along_axis(np.diff(edges), x[..., None], -1)).sum((1, 2))
    outputs = torch.from_numpy(raw)
    found = p.log_prob(outputs, torch.from_numpy(x).double()).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    mean = (np.diff(edges) * np.arange(classes)).sum(-1)
    np.testing.assert_allclose(p.mean(p(outputs)).detach(), mean, rtol=1e-9)


@given(st.floats(-1e4, 1e4), st.integers(0, 3))
def test_grades_far_from_all_cuts_have_finite_densities(raw, grade):
    p = grades(4, 1).float()
    outputs = torch.tensor([[raw]], dtype=torch.float32, requires_grad=True)
    found = p.log_prob(outputs, torch.tensor([[float(grade)]]))
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), outputs)[0].isfinite().all()


def test_gradients_of_grades_are_those_of_finite_differences():
    p, x = grades(4), torch.tensor([[0.0, 2.0, 3.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    with seeded(0, "raw"):
        raw = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def density(raw, middle, steps):
        return p.likelihood.log_prob(raw, x, (3,), {"middle": middle, "steps": steps})

    assert torch.autograd.gradcheck(density, (raw, *p.learned.values()))


GROUPS = [
    {"likelihood": {"kind": "normal", "scale": "learned"}, "columns": 4},
    {"likelihood": "bernoulli", "columns": 3},
    {"likelihood": "categorical", "classes": 4, "columns": 2},
    {"likelihood": "ordinal", "classes": 5, "columns": 3},
]
CLINIC = Modality("clinic", (12,), {"kind": "mixed", "groups": GROUPS})
SPANS = (slice(0, 4), slice(4, 7), slice(7, 9), slice(9, 12))


def clinic(rows, seed=0):
    """A simulated clinical table of four kinds of columns, and laboratory values of one cause."""
    rng = np.random.default_rng(seed)
    severity, other = rng.normal(size=(2, rows, 1))
    numbers = severity * [1.0, -1.0, 0.5, 0.0] + other * [0.0, 0.5, 0.0, 1.0]
    numbers = numbers + 0.3 * rng.normal(size=(rows, 4))
    yes = rng.random((rows, 3)) < special.expit(3 * severity * [1.0, -1.0, 0.0] + [0.0, 0.0, 1.0])
    logits = severity[..., None] * np.array([[3.0, 1.0, -1.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    classes = (logits + rng.gumbel(size=(rows, 2, 4))).argmax(-1)
    latent = 2 * severity * [1.0, 1.0, -1.0] + rng.logistic(size=(rows, 3)) * 0.5
    stages = (latent[..., None] > np.array([-2.0, -0.7, 0.7, 2.0])).sum(-1)
    table = np.column_stack([numbers, yes, classes, stages]).astype(np.float32)
    ways = np.random.default_rng(5).normal(size=(2, 8))
    lab = severity * ways[0] + other * ways[1] + 0.3 * rng.normal(size=(rows, 8))
    return {"clinic": table, "lab": lab.astype(np.float32)}


def test_mixed_columns_are_those_of_their_kinds_side_by_side():
    """Density, mean, draws, spreads, inputs: all as if each group were a modality of its own."""
    mixed, rows = of(CLINIC.likelihood, (12,)), torch.from_numpy(clinic(50)["clinic"]).double()
    mixed.measure(lambda: rows.split(20))
    alone = [
        of(dump(group.likelihood, "likelihoods"), (group.columns,))
        for group in mixed.likelihood.groups
    ]
    for i, (p, at) in enumerate(zip(alone, SPANS, strict=True)):
        p.measure(lambda at=at: [rows[:, at]])
        with seeded(i, "learned"):
            for name in p.learned:
                p.learned[name].data = torch.randn_like(p.learned[name])
                mixed.learned[f"{i}_{name}"].data = p.learned[name].data
    with seeded(0, "raw"):
        raw = torch.randn(50, *mixed.likelihood.outputs((12,)), dtype=torch.float64)
    parts = raw.split([p.likelihood.outputs(p.shape)[0] for p in alone], -1)
    triples = list(zip(alone, parts, SPANS, strict=True))
    expected = sum(p.log_prob(part, rows[:, at]) for p, part, at in triples)
    torch.testing.assert_close(mixed.log_prob(raw, rows), expected, rtol=1e-12, atol=0)
    means = torch.cat([p.mean(p(part)) for p, part, _ in triples], -1)
    torch.testing.assert_close(mixed.mean(mixed(raw)), means, rtol=1e-12, atol=0)
    inputs = torch.cat([p.likelihood.flat(p.shape)(rows[:, at]) for p, _, at in triples], -1)
    torch.testing.assert_close(mixed.likelihood.flat((12,))(rows), inputs)
    assert inputs.shape[1] == 4 + 3 + 2 * 4 + 3 * 5
    with seeded(1, "draws"):
        draws = mixed(raw).sample((3,))
    assert mixed.likelihood.is_valid(draws.reshape(-1, 12).numpy(), (12,)).all()


@pytest.fixture(scope="module")
def model():
    training = {"epochs": 30, "batch_size": 80, "learning_rate": 1e-2, "schedule": "one-cycle"}
    lab = Modality("lab", (8,), {"kind": "normal", "scale": "learned"})
    made = JNF(
        [CLINIC, lab],
        4,
        joint={**training, "merge": [32]},
        flows=training,
        posterior="gaussian",
        networks={
            n: {"encoder": "linear-mlp", "decoder": "linear-mlp"} for n in ("clinic", "lab")
        },
    )
    return made.fit(clinic(800))


@pytest.mark.slow
def test_a_clinical_table_is_filled_from_laboratory_values(model):
    """Of columns that depend on what the laboratory sees, better than without it; codes valid."""
    test = clinic(300, seed=9)
    means = model.generate({"lab": test["lab"]}, 50, noise=False)["clinic"]
    draws = model.generate({"lab": test["lab"]}, 50)["clinic"]
    assert model.has_noise() == {"clinic": True, "lab": True}
    likelihood = CLINIC.likelihood_part
    for drawn in draws:
        assert likelihood.is_valid(drawn, (12,)).all()
    true, found = test["clinic"], means.mean(0)
    explained = 1 - ((true - found) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    assert (explained[[0, 1, 3]] > 0.6).all()  # numbers
    assert (explained[[4, 5]] > 0.2).all()  # yes or no: probabilities
    assert (explained[9:] > 0.6).all()  # grades
    votes = np.stack([(means[:, :, 7] == k).mean(0) for k in range(4)])
    common = np.bincount(true[:, 7].astype(int)).max() / len(true)
    assert (votes.argmax(0) == true[:, 7]).mean() > common + 0.1  # a class
    low, high = np.quantile(draws[..., :4], [0.05, 0.95], axis=0)
    covered = ((true[:, :4] >= low) & (true[:, :4] <= high)).mean()
    assert 0.8 < covered < 0.97


@pytest.mark.slow
def test_a_table_without_some_rows_values_is_scored_and_encoded(model):
    test = clinic(20, seed=3)
    assert np.isfinite(model.log_likelihood(test, n=20)).all()
    assert model.transform(test).shape == (20, 4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (4, 2.0, "0, 1"),
        (7, 4.0, "columns 7 to 8: expected class numbers from 0 to 3"),
        (9, 1.5, ""),
    ],
)
def test_codes_that_no_column_has_are_named(column, value, says):
    x = clinic(5)["clinic"]
    x[3, column] = value
    with pytest.raises(DataError, match=f"row 3.*{says}"):
        check_batch({"clinic": x}, [CLINIC])


@pytest.mark.bad_input
def test_groups_have_to_be_the_columns():
    with pytest.raises(ConfigError, match="have 12 columns, but rows have the shape .13"):
        check_batch({"c": np.zeros((2, 13))}, [Modality("c", (13,), CLINIC.likelihood)])
    alone = {"kind": "mixed", "groups": [{"likelihood": "categorical", "columns": 3}]}
    with pytest.raises(ConfigError, match="categorical-columns"):
        check_batch({"c": np.zeros((2, 3))}, [Modality("c", (3,), alone)])


def test_groups_survive_being_written():
    part = CLINIC.likelihood_part
    assert create("likelihoods", dump(part, "likelihoods")) == part
    assert Modality.from_dict(CLINIC.to_dict()).likelihood_part == part
