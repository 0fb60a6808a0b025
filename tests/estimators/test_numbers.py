"""What is computed depends on the data and the seed alone, and what is no number stops."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from zuko.distributions import DiagNormal

from mvflow import JNF, MVAE, Modality, load
from mvflow.core import DataError, MvflowError, NumericsError, UnreliableDrawsWarning
from mvflow.runs import RunDirectory, read_tensors, write_tensors


@pytest.fixture(scope="module")
def model(fitted):
    return fitted(JNF, 3)


@pytest.fixture(scope="module")
def x(small):
    return {name: rows[:6] for name, rows in small.data(3)[0].items()}


def asked(model, x):
    """What is asked of a trained model: name -> a function without arguments."""
    two = {name: x[name] for name in ("m0", "m1")}
    one = {"m0": x["m0"]}
    return {
        "chains": lambda: model.draw(two, 5, seed=7).z,
        "independent": lambda: model.draw(two, 5, seed=7, sampler={"independent": True}).z,
        "sir": lambda: model.draw(two, 5, seed=7, sampler="sir").z,
        "one": lambda: model.draw(one, 5, seed=7).z,
        "prior": lambda: model.draw(None, 5, seed=7).z,
        "generate": lambda: model.generate(two, 3, seed=7)["m2"],
        "log_likelihood": lambda: model.log_likelihood(one, n=20, seed=7),
        "conditional": lambda: model.log_likelihood({"m2": x["m2"]}, given=two, n=20, seed=7),
        "encode": lambda: np.stack(model.encode(x)),
        "simulate": lambda: model.simulate(np.zeros((4, 2)), seed=7)["m1"],
        "posterior_log_prob": lambda: model.posterior_log_prob(np.zeros((6, 2)), two),
    }


QUESTIONS = list(asked(None, {"m0": 0, "m1": 0, "m2": 0}))


@pytest.mark.parametrize("what", QUESTIONS)
def test_eight_threads_find_what_one_finds(model, x, what):
    ask = asked(model, x)[what]
    alone, before = ask(), torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ask(), range(16)))
    assert all(np.array_equal(each, alone) for each in found)
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(torch.nn.Module):
    """Dropout that never ends, with which uncertainty is sometimes estimated."""

    def __init__(self, out):
        super().__init__()
        self.out = torch.nn.LazyLinear(out)

    def forward(self, x):
        return self.out(torch.nn.functional.dropout(x.flatten(1), 0.5, training=True))


def test_two_fits_at_once_and_endless_dropout_give_what_each_gives_alone(small):
    data = small.data(2)[0]
    specs = [Modality(name, x.shape[1:]) for name, x in data.items()]

    def weights(seed):
        model = MVAE(
            specs,
            latent_dim=2,
            seed=seed,
            networks={m.name: {"encoder": Noisy(4)} for m in specs},
            joint={"epochs": 3, "batch_size": 16},
        ).fit(data)
        drawn = model.draw({"m0": data["m0"][:5]}, 3, seed=seed).z
        return [drawn, *(p.numpy() for p in model.system_.state_dict().values())]

    alone = [weights(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(weights, (0, 1)))
    for ours, theirs in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@contextmanager
def default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def log_level():
    log = logging.getLogger("mvflow")
    before = log.level
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def global_seed():
    torch.manual_seed(12345)
    yield


SURROUNDINGS = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "float64 by default": default_dtype,
    "debug log": log_level,
    "global seed": global_seed,
}
surroundings = pytest.mark.parametrize("within", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())


@surroundings
@pytest.mark.parametrize("what", QUESTIONS)
def test_surroundings_change_nothing(model, x, what, within):
    ask = asked(model, x)[what]
    plain = ask()
    with within():
        found = ask()
    assert found.dtype == plain.dtype
    assert np.array_equal(found, plain)


@surroundings
def test_surroundings_change_no_training(small, within):
    data = small.data(2)[0]
    joint = {"epochs": 2, "batch_size": 32, "beta_start": 2.0}
    plain = small.estimator(JNF, 2, joint=joint).fit(data, seed=0).system_.state_dict()
    with within():
        found = small.estimator(JNF, 2, joint=joint).fit(data, seed=0).system_.state_dict()
    for name, value in plain.items():
        assert torch.equal(found[name], value), name


def test_draws_do_not_depend_on_how_many_were_asked_before(model, x):
    given = {name: x[name] for name in ("m0", "m1")}
    first = {n: model.draw(given, n, seed=7).z for n in (1, 9)}
    again = {n: model.draw(given, n, seed=7).z for n in (9, 1)}
    assert all(np.array_equal(first[n], again[n]) for n in first)


# Far values


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e18, 1e19, 1e25, 1e30])
def test_values_far_from_training_give_numbers_or_a_sentence(model, size):
    x = {f"m{j}": np.full((1, 2 + j), size, np.float32) for j in range(3)}
    one, two = {"m0": x["m0"]}, {"m0": x["m0"], "m1": x["m1"]}
    assert not np.isnan(model.log_likelihood(one, n=20)).any()
    assert not np.isnan(model.log_likelihood(x, n=20)).any()
    for ask in (
        lambda: model.log_likelihood({"m1": x["m1"]}, given=one, n=20),
        lambda: model.log_likelihood({"m2": x["m2"]}, given=two, n=20),
        lambda: model.posterior_log_prob(np.zeros((1, 2)), one),
        lambda: model.encode(x)[0],
        lambda: model.generate(one, 2)["m1"],
        lambda: model.generate(two, 2)["m2"],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that rows are unlike those of training
            try:
                found = ask()
            except NumericsError as error:
                if "too far from those of training" not in str(error):
                    raise
            else:
                assert not np.isnan(found).any()


def test_the_likelihood_of_far_values_is_minus_infinity(model):
    far = {"m0": np.full((1, 2), 1e30, np.float32)}
    assert model.log_likelihood(far, n=20).tolist() == [-np.inf]


def test_a_far_row_leaves_the_likelihood_of_the_others(model, x):
    """Up to the other rows' own draws, which are the same."""
    far = {"m0": x["m0"].copy()}
    far["m0"][2] = 1e30
    found, plain = (model.log_likelihood(v, n=20) for v in (far, {"m0": x["m0"]}))
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(found[others], plain[others])
    assert found[2] == -np.inf


class Nothing(DiagNormal):
    """Far from all training rows: neither draws nor densities are numbers."""

    def sample(self, shape=()):
        return super().sample(shape) * torch.nan

    def log_prob(self, value):
        return super().log_prob(value) * torch.nan


def test_a_proposal_that_gives_no_numbers_leaves_the_likelihood(model, x, monkeypatch):
    """Its share of the draws has no weight: the mean is the same, up to sampling."""
    one, known = {"m0": x["m0"]}, model.system_.proposals
    plain = model.log_likelihood(one, n=4000, seed=0)

    def proposals(observed):
        broken = Nothing(torch.zeros(observed.rows, 2), torch.ones(observed.rows, 2))
        return [*known(observed), broken]

    monkeypatch.setattr(model.system_, "proposals", proposals)
    found = model.log_likelihood(one, n=4000, seed=1)
    # relative errors of weights with a few hundred effective draws, six rows
    np.testing.assert_allclose(found, plain, rtol=0, atol=0.25)


def test_draws_that_had_to_be_moved_are_said(linear_gaussian):
    known = linear_gaussian(2)
    estimator = known.estimator()
    estimator.system_.joint.radius.fill_(3.0)
    data = {"m0": np.full((2, 3), 1e3, np.float32)}
    data["m0"][0] = known.b["m0"]  # the posterior's centre is then zero
    with pytest.warns(UnreliableDrawsWarning, match="1 of 2 rows are unlike the training rows"):
        estimator.sample_latent(data, 5)
    found = estimator.draw(data, 5)
    assert found.diagnostics.moved.tolist() == [0, 1]


# Weights that are not numbers


def test_weights_that_are_not_numbers_stop_draws(fitted, x, small):
    model = small.estimator(JNF, 2).fit(small.data(2)[0], seed=0)
    for weight in model.system_.flows["m0"].parameters():
        weight.data.fill_(torch.nan)
    one = {"m0": x["m0"]}
    for ask in (
        lambda: model.draw(one, 3),
        lambda: model.generate(one, 3),
        lambda: model.posterior_log_prob(np.zeros((6, 2)), one),
    ):
        with pytest.raises(NumericsError, match="in 6 of 6 rows"):
            ask()


def test_decoders_that_give_no_numbers_stop(small, x):
    model = small.estimator(JNF, 2).fit(small.data(2)[0], seed=0)
    for weight in model.system_.joint.decoders.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(NumericsError, match="decoded modality 'm0'"):
        model.decode(np.zeros((4, 2)))
    with pytest.raises(NumericsError, match="weights of a likelihood"):
        model.log_likelihood({"m0": x["m0"]}, n=5)


@pytest.mark.parametrize("rehashed", [False, True])
def test_weights_that_are_not_numbers_are_refused(model, tmp_path, rehashed):
    """Also where file and manifest agree on them."""
    model.save(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    path = run.weights("flows")
    tensors, about = read_tensors(path)
    name = next(n for n, v in tensors.items() if v.is_floating_point())
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    before = about.pop("sha256")
    write_tensors(path, tensors, about)
    if rehashed:
        manifest = tmp_path / "run" / "manifest.json"
        now = read_tensors(path)[1]["sha256"]
        manifest.write_text(manifest.read_text("utf-8").replace(before, now), "utf-8")
    with pytest.raises(MvflowError, match="holds NaN in" if rehashed else "flows.safetensors"):
        load(tmp_path / "run")


def test_a_latent_that_is_no_number_is_refused(model):
    with pytest.raises(DataError, match="not finite"):
        model.decode(np.full((1, 2), np.nan))
