"""One suite for all posterior families: densities that are densities, and drawn from."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.core import ConfigError
from mvflow.core.parts import create, dump
from mvflow.core.registry import registry
from mvflow.nn import seeded
from mvflow.posteriors import build_posterior

KINDS = registry("posteriors").names()
SETTINGS = {"transforms": 2, "hidden": (12, 10), "bins": 6, "context": 3}
STANDARDISATIONS = {"as is": None, "far and stretched": ([300.0, -50.0], [40.0, 0.01])}


def chosen(kind, **settings):
    """A family with those of the settings that it has."""
    fields = registry("posteriors").load(kind).model_fields
    return create(
        "posteriors", {"kind": kind, **{k: v for k, v in settings.items() if k in fields}}
    )


def make(family, *, latent=2, seed=0, moments=None):
    """A posterior with weights away from their initial values, and five rows of data."""
    with seeded(seed, family):
        posterior = build_posterior(
            chosen(family, **SETTINGS), latent, lambda out: nn.Linear(3, out)
        )
        with torch.no_grad():
            for p in posterior.parameters():
                p.add_(0.2 * torch.randn_like(p))
        x = torch.randn(5, 3).double()
    posterior = posterior.double()
    if moments is not None:
        posterior.standardise(*(torch.tensor(v, dtype=torch.float64) for v in moments))
    return posterior, x


@pytest.fixture(params=KINDS)
def family(request):
    return request.param


@pytest.fixture(params=STANDARDISATIONS.values(), ids=STANDARDISATIONS)
def moments(request):
    return request.param


def grid(q, points=501, reach=9):
    """Points (points^2, 1, 2) that cover the draws of q's only row many times over, and a cell."""
    with torch.no_grad(), seeded(0, "grid"):
        draws = q.sample((4000,))[:, 0]
    middle, spread = draws.mean(0), draws.std(0)
    axes = [
        torch.linspace(-reach, reach, points, dtype=torch.float64) * s + m
        for m, s in zip(middle, spread, strict=True)
    ]
    z = torch.cartesian_prod(*axes)[:, None]
    return z, float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))


def test_the_density_integrates_to_one(family, moments):
    posterior, x = make(family, moments=moments)
    q = posterior(x[:1])
    z, cell = grid(q)
    with torch.no_grad():
        mass = float(q.log_prob(z).exp().sum()) * cell
    # ReLU hyper-networks and spline ends leave kinks, where the midpoint rule is of second order
    # only: its error on this grid is below 1e-3
    assert abs(mass - 1) < 2e-3


def test_draws_follow_the_density(family, moments):
    posterior, x = make(family, moments=moments)
    q = posterior(x[:1])
    z, cell = grid(q)
    with torch.no_grad(), seeded(1, "draws"):
        weight = q.log_prob(z)[:, 0].exp() * cell
        draws = q.sample((4000,))[:, 0]
    middle, spread = draws.mean(0), draws.std(0)
    for f in (
        lambda v: torch.tanh((v - middle) / spread),
        lambda v: torch.tanh((v - middle) / spread) ** 2,
        lambda v: torch.tanh(((v - middle) / spread).prod(-1, keepdim=True)),
    ):
        expected = (weight[:, None] * f(z[:, 0])).sum(0)
        found = f(draws)
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - expected).abs() < 4 * error + 2e-3).all()  # the grid's own error


def test_log_prob_is_that_of_the_base_and_the_jacobian(family, moments):
    posterior, x = make(family, moments=moments)
    q = posterior(x)
    with seeded(2, "draws"):
        z = q.sample((3,))
    found = q.log_prob(z)
    for i in range(3):
        for row in range(5):
            one = posterior(x[row])

            def to_base(v, transform=one.transform):
                return transform(v)

            jacobian = torch.autograd.functional.jacobian(to_base, z[i, row])
            expected = one.base.log_prob(to_base(z[i, row])) + torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(found[i, row], expected, rtol=1e-9, atol=1e-9)


def test_sampling_inverts_the_transform(family, moments):
    posterior, x = make(family, moments=moments)
    q = posterior(x)
    with seeded(2, "base"):
        u = q.base.sample()
    z = q.transform.inv(u)
    # zuko inverts splines in float64 to about 1e-10; stretching by 40 costs two digits
    torch.testing.assert_close(q.transform(z), u, rtol=1e-7, atol=1e-7)


def test_standardising_is_a_change_of_variables(family):
    shift, scale = np.array([3.0, -1.0]), np.array([2.0, 0.1])
    plain, x = make(family)
    moved, _ = make(family, moments=(shift, scale))
    with seeded(0, "z"):
        u = torch.randn(4, 5, 2).double()
    z = u * torch.from_numpy(scale) + torch.from_numpy(shift)
    expected = plain(x).log_prob(u) - np.log(scale).sum()
    torch.testing.assert_close(moved(x).log_prob(z), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_gradients_reach_every_parameter(family, latent):
    posterior, x = make(family, latent=latent)
    with seeded(0, "z"):
        z = torch.randn(64, 5, latent).double()
    posterior(x).log_prob(z).mean().backward()
    for name, p in posterior.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


def test_the_state_dict_is_all_there_is(family):
    posterior, x = make(family, moments=([1.0, 2.0], [0.5, 3.0]))
    other, _ = make(family, seed=9)
    assert not torch.equal(other(x).log_prob(x[:, :2]), posterior(x).log_prob(x[:, :2]))
    other.load_state_dict(copy.deepcopy(posterior.state_dict()))
    assert torch.equal(other(x).log_prob(x[:, :2]), posterior(x).log_prob(x[:, :2]))
    with seeded(0, "draw"):
        one = posterior(x).sample((3,))
    with seeded(0, "draw"):
        assert torch.equal(other(x).sample((3,)), one)


def test_rows_do_not_see_each_other(family):
    posterior, x = make(family)
    z = torch.zeros(5, 2, dtype=torch.float64)
    together = posterior(x).log_prob(z)
    alone = torch.cat([posterior(x[i : i + 1]).log_prob(z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_whether_the_transforms_depend_on_the_data(family):
    """In the paper they do not (Eq. 10); the context of the other families changes them."""
    posterior, x = make(family)
    z = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    first, second = (posterior(v).transform(z) for v in (x, x.flip(0)))
    assert torch.equal(first, second) == (chosen(family, **SETTINGS).context_features == 0)


def test_settings_survive_being_written(family):
    part = chosen(family, **SETTINGS)
    assert create("posteriors", dump(part, "posteriors")) == part


@pytest.mark.parametrize("value", [-1e30, 1e30])
def test_extreme_features_leave_a_finite_scale(family, value):
    posterior, _ = make(family)
    base = posterior(torch.full((1, 3), value, dtype=torch.float64)).base.base_dist
    assert torch.isfinite(base.scale).all()
    assert (base.scale > 0).all()


def test_a_spline_covers_what_lies_outside_its_box_once_standardised():
    """zuko's splines act on [-5, 5] and are the identity outside: no density is lost there."""
    posterior, x = make("nsf", moments=([40.0, -30.0], [6.0, 9.0]))
    q = posterior(x[:1])
    with torch.no_grad(), seeded(0, "draws"):
        draws = q.sample((2000,))[:, 0]
    assert ((draws.abs() > 5).all(-1)).double().mean() > 0.9
    moved = torch.autograd.functional.jacobian(q.transform, draws[:1])[0, :, 0]
    affine = torch.diag(1 / torch.tensor([6.0, 9.0], dtype=torch.float64))
    assert not torch.allclose(moved, affine, rtol=1e-3)  # the spline bends, where the mass is


def test_networks_in_bfloat16_leave_log_determinants_in_float32(family):
    """One transform is triangular: its log-determinant is the sum of the logs of du_i / dz_i."""
    settings = chosen(family, transforms=1, hidden=(64, 64))
    with seeded(0, family):
        posterior = build_posterior(settings, 20, lambda out: nn.Linear(3, out))
        z, x = torch.randn(16, 20, requires_grad=True), torch.randn(16, 3)
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(x)
        u, log_det = q.transform.call_and_ladj(z)
        assert q.log_prob(z).dtype == torch.float32
    slopes = [torch.autograd.grad(u[:, i].sum(), z, retain_graph=True)[0][:, i] for i in range(20)]
    # rounding of float32 over 20 terms; summed in bfloat16 they are .014 apart (nsf: .034)
    torch.testing.assert_close(log_det, torch.stack(slopes).log().sum(0), rtol=0, atol=1e-4)


@pytest.mark.bad_input
@pytest.mark.parametrize("count", [0, 1001, 10**30])
def test_so_many_transforms_that_building_them_would_not_end_are_refused(family, count):
    if "transforms" not in registry("posteriors").load(family).model_fields:
        pytest.skip("a family without transforms")
    with pytest.raises(ConfigError, match="transforms"):
        chosen(family, transforms=count)
