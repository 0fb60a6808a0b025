"""One velocity for all subsets: its divergence, its density, its draws, and what it may see."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mvflow.core import UsageError
from mvflow.nn import MLP, own_generator, seeded
from mvflow.posteriors import ConditionalVelocity, GuidedFlow, MatchedFlow, MatchingPosterior


def velocity(latent, spread=0.3, seed=0):
    """A smooth velocity of random weights, in float64."""
    with seeded(seed, "velocity"):
        made = ConditionalVelocity(latent, 3, 12).double()
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=spread)
        made.time[0].weight.data.mul_(0.2)  # smooth in time for steps of 1/32
    return made.requires_grad_(False)


def flow(latent, rows=2, steps=64, seed=0):
    condition = torch.linspace(-1, 1, rows * 3, dtype=torch.float64).reshape(rows, 3)
    moments = torch.linspace(-1, 1, latent).double(), torch.linspace(0.5, 2, latent).double()
    return MatchedFlow(velocity(latent, seed=seed), condition, 0 * condition[:1], moments, steps)


def network(latent=2, seed=0, **options):
    with seeded(seed, "matching"):
        encoders = {n: MLP(d, 8, 4) for n, d in (("a", 3), ("b", 2), ("c", 1))}
        made = MatchingPosterior(encoders, latent, 4, hidden=(16,), width=16, **options)
        for weight in made.velocity.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def rows(n=5):
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(n, d, generator=generator) for k, d in (("a", 3), ("b", 2), ("c", 1))}


def test_embeddings_of_rows_serve_for_every_subset_of_them():
    """Merged for a subset they are its condition, whatever the others hold."""
    q, x = network(), rows()
    embedded, has = q.embed({n: x[n] for n in ("a", "b")})
    assert has.tolist() == [[True, True, False]] * 5
    seen = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    merged = q.merged(embedded, seen)
    for i, names in enumerate(("a", "b", "ab", "", "ab")):
        only = q.condition({n: x[n][i : i + 1] for n in names})
        torch.testing.assert_close(merged[i : i + 1], only)
    torch.testing.assert_close(merged, q.condition(x, seen))


@pytest.mark.parametrize("at", ["a scalar", "one for each row"])
def test_the_divergence_is_the_trace_of_the_jacobian(at):
    v, z = velocity(3, spread=0.7), torch.randn(5, 2, 3, dtype=torch.float64)
    condition = torch.randn(2, 3, dtype=torch.float64)
    t = torch.tensor(0.3).double() if at == "a scalar" else torch.tensor([0.1, 0.8]).double()
    value, divergence = v.with_divergence(t, z, condition)
    assert torch.equal(value, v(t, z, condition))
    for i in range(2):
        ti = t if t.ndim == 0 else t[i : i + 1]

        def one(x, i=i, ti=ti):
            return v(ti, x[None], condition[i : i + 1])[0]

        for each, found in zip(z[:, i], divergence[:, i], strict=True):
            expected = torch.autograd.functional.jacobian(one, each).trace()
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_before_training_it_is_the_gaussian_of_the_latents():
    """To the error of the solver: none, for the velocity turns about the origin alike."""
    with seeded(0, "matching"):
        q = MatchingPosterior({"a": MLP(3, 4)}, 2, 4, hidden=(8,), width=8).double()
    loc, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    q.standardise(loc, scale)
    q.steps.fill_(128)
    with torch.no_grad(), own_generator(0, "draws"):
        made = q({"a": torch.zeros(1, 3).double()})
        z = made.sample((2000,))
        found = made.log_prob(z)
    expected = stats.norm(loc, scale).logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # 1/128 squared, times constants
    assert stats.kstest((z[:, 0, 1] + 2) / 3, "norm").pvalue > 1e-3


@pytest.mark.parametrize("latent", [1, 2])
def test_the_density_integrates_to_one(latent):
    axis = torch.linspace(-12, 12, 121 if latent == 2 else 2001).double()
    grid = torch.cartesian_prod(*[axis] * latent).reshape(-1, 1, latent)
    with torch.no_grad():
        total = (
            flow(latent, rows=1).log_prob(grid).exp().sum(0) * float(axis[1] - axis[0]) ** latent
        )
    # smooth densities that vanish at both ends are summed exactly; the solver errs by 1/64^2
    np.testing.assert_allclose(total, 1, atol=1e-3)


def test_the_density_is_that_of_the_noise_by_change_of_variables():
    """log N(e) - log |det dz/de|, with the Jacobian of the draws by automatic differentiation."""
    q = flow(2, rows=1, steps=128)
    noise = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def draw(e):
        return q._carried(e[None], q._condition)[0]

    jacobians = torch.stack([torch.autograd.functional.jacobian(draw, e) for e in noise])
    expected = stats.norm.logpdf(noise).sum(-1) - torch.linalg.slogdet(jacobians)[1].numpy()
    z = torch.stack([draw(e) for e in noise])[:, None]
    # both sides have errors of the order 1/128^2
    np.testing.assert_allclose(q.log_prob(z)[:, 0], expected, atol=1e-3)


def test_draws_come_with_the_densities_that_they_have():
    """The draws of `sample`, and to the error of the solver the densities of `log_prob`."""
    q = flow(2, rows=3, steps=128)
    made = []
    for draw in (lambda: (q.sample((40,)), None), lambda: q.sample_with_log_prob((40,))):
        with own_generator(0, "draws"):
            made.append(draw())
    (z, _), (same, found) = made
    torch.testing.assert_close(same, z, rtol=1e-12, atol=1e-12)
    assert found.shape == (40, 3)
    torch.testing.assert_close(found, q.log_prob(z), rtol=0, atol=1e-3)  # of the order 1/128^2


def test_draws_and_densities_err_by_the_square_of_the_step():
    z = torch.randn(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = flow(2, steps=512)

    density_of_exact = exact.log_prob(z)

    def errors(steps):
        q = exact.with_steps(steps)
        draws = []
        for each in (q, exact):
            with own_generator(0, "draws"):
                draws.append(each.sample((50,)))
        density = (q.log_prob(z) - density_of_exact).abs().mean()
        return torch.stack([(draws[0] - draws[1]).abs().mean(), density])

    ratios = errors(32) / errors(64)
    np.testing.assert_allclose(ratios, 4, rtol=0.2)  # 4 but for terms of the third order


def test_matching_a_gaussian_finds_its_velocity(fit):
    """v = m + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (z - t m), the regression of z - e."""
    loc, scale = np.array([0.6, -0.4]), np.array([0.3, 0.8])
    with seeded(0, "matching"):
        q = MatchingPosterior({"a": MLP(1, 4)}, 2, 4, hidden=(16,), width=16)
    condition = partial_condition(q)

    def minus_loss(z):
        q.update_averages()
        return -q.loss(q.states(z), condition(len(z)))

    z = torch.from_numpy(np.random.default_rng(0).normal(size=(8192, 2)) * scale + loc).float()
    fit(q, minus_loss, (z,), 400, 1e-2)
    q.use_averages()
    at = np.random.default_rng(1).normal(size=(200, 1, 2))
    for t in (0.1, 0.5, 0.9):
        z = t * loc + np.sqrt(t**2 * scale**2 + (1 - t) ** 2) * at  # where the way passes
        slope = (t * scale**2 - (1 - t)) / (t**2 * scale**2 + (1 - t) ** 2)
        expected = loc + slope * (z - t * loc)
        with torch.no_grad():
            found = q.velocity(torch.tensor(t), torch.from_numpy(z).float(), condition(1))
        # its spread is about 1; 400 steps of 256 rows leave a few hundredths
        assert np.sqrt(np.mean((found.numpy() - expected) ** 2)) < 0.08, t


def partial_condition(q):
    return lambda n: q.condition({}).expand(n, -1)


def test_what_is_masked_cannot_be_seen():
    q, x, z = network(), rows(), torch.randn(7, 5, 2)
    observed = torch.tensor([[True, False, True]] * 5)
    with torch.no_grad():
        absent = q({"a": x["a"], "c": x["c"]}).log_prob(z)
        masked = q(x, observed).log_prob(z)
        broken = q({**x, "b": torch.full((5, 2), torch.nan)}, observed).log_prob(z)
    assert torch.equal(masked, absent)
    assert torch.equal(broken, absent)


def test_rows_are_masked_one_by_one_down_to_nothing():
    q, x, z = network(), rows(), torch.randn(5, 2)
    observed = torch.tensor([[i >> j & 1 for j in range(3)] for i in (1, 3, 6, 7, 0)]).bool()
    with torch.no_grad():
        together = q(x, observed).log_prob(z)
        for i, row in enumerate(observed):
            seen = {n: x[n][i : i + 1] for n, s in zip("abc", row, strict=True) if s}
            # equal up to how batches of other sizes round
            alone = q(seen).log_prob(z[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_no_guidance_is_no_change_and_guidance_has_no_density():
    q = flow(2)
    assert q.guided(0.0) is q
    draws = []
    for each in (q, GuidedFlow(q, 0.0), q.guided(2.0), q.guided(2.0)):
        with own_generator(3, "draws"):
            draws.append(each.sample((5,)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[2], draws[3])
    with pytest.raises(UsageError, match="guided draws have no log-density"):
        q.guided(1.0).log_prob(draws[0])


def test_guidance_adds_the_difference_to_what_nothing_says():
    """Of Gaussians with equal spread, the mean moves by w times the difference of means."""
    q = flow(1, rows=1, steps=512)
    for name, weight in q._network.named_parameters():
        if name not in ("modulate.weight", "modulate.bias", "time.2.weight"):
            continue
        weight.zero_()
    with torch.no_grad():  # v = a_t z + (mean of the condition) / s_t: shifts the mean alone
        q._network.last.weight.zero_()
        q._network.modulate.weight[-1] = 1.0
    means = []
    for each in (
        q,
        q.guided(1.5),
        MatchedFlow(q._network, q._nothing, q._nothing, q._moments, 512),
    ):
        with own_generator(0, "draws"):
            means.append(float(each.sample((1,))))
    assert math.isclose(means[1] - means[0], 1.5 * (means[0] - means[2]), rel_tol=1e-9)


def test_draws_that_are_left_out_change_no_other():
    q = flow(2, rows=3, steps=8)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    drawn = []
    for draw in (lambda: q.sample((2,)), lambda: q.sample_where(mask)):
        with own_generator(0, "draws"):
            drawn.append(draw())
    torch.testing.assert_close(drawn[0][mask], drawn[1][mask], rtol=1e-12, atol=1e-12)


def test_expanded_rows_are_equal_rows():
    q, z = flow(2, rows=1, steps=8), torch.randn(4, 3, 2, dtype=torch.float64)
    wide = q.expand(torch.Size([3]))
    assert (wide.batch_shape, wide.event_shape) == ((3,), (2,))
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z), rtol=1e-12, atol=1e-12)


def test_averages_follow_the_weights():
    """w <- w + max(1 - decay, 10 / (10 + n)) (v - w), against NumPy; nothing else moves."""
    q, expected = network(decay=0.95), None
    name = "velocity.first.weight"
    weight = q.get_parameter(name)
    for n in range(1, 400):
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, math.sin(n)))
        q.update_averages()
        share = max(0.05, 10 / (10 + n))
        start = 0.0 if expected is None else expected
        expected = start + share * (math.sin(n) - start) if n > 1 else None
        if n == 1:
            expected = float(q.average_velocity__first__weight[0, 0])
    np.testing.assert_allclose(q.average_velocity__first__weight, expected, rtol=1e-4)
    kept = {k: v.clone() for k, v in q.state_dict().items()}
    with q.averaged():
        assert torch.equal(weight, q.average_velocity__first__weight)
    assert all(torch.equal(v, kept[k]) for k, v in q.named_parameters())


def test_the_solver_takes_the_steps_that_its_error_asks_for():
    q, z = network(), torch.randn(5, 2)
    made = q(rows())
    errors = {}
    for tolerance in (1.0, 1e-3):
        q.choose_steps(z, made, tolerance)
        errors[int(q.steps)] = float(q.solver_error)
        twice = made.with_steps(2 * int(q.steps)).log_prob(z)
        found = (made.with_steps(int(q.steps)).log_prob(z) - twice).abs().mean()
        np.testing.assert_allclose(q.solver_error, found.detach(), rtol=1e-6)
    assert list(errors) == sorted(errors)
    assert len(errors) > 1
