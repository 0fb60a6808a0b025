import numpy as np
import pytest

from mvflow.samplers import leapfrog, safe_gradient

rng = np.random.default_rng(0)
position, momentum = rng.normal(size=(2, 6, 3, 2))  # 6 chains, 3 rows, 2 dimensions
inverse_mass = rng.uniform(0.5, 2, size=(3, 2))
step_size = np.array([0.01, 0.02, 0.05])


def energy(z, p, target):
    return 0.5 * (inverse_mass * p * p).sum(-1) - target(z)[0]


def integrate(z, p, target, num_steps=40, step_size=step_size):
    return leapfrog(
        z,
        p,
        target(z)[1],
        target,
        step_size=step_size,
        inverse_mass=inverse_mass,
        num_steps=num_steps,
    )


def test_every_library_gives_the_same_trajectory(xp, banana):
    end = leapfrog(
        *(xp.asarray(a) for a in (position, momentum, banana(position)[1])),
        banana,
        step_size=xp.asarray(step_size),
        inverse_mass=xp.asarray(inverse_mass),
        num_steps=40,
    )
    for got, expected in zip(end, integrate(position, momentum, banana), strict=True):
        # 40 steps of a curved target let differences in rounding grow
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-10, atol=1e-10)


def test_oscillator_has_a_closed_form():
    """Leapfrog on H = (k z^2 + w p^2) / 2 turns by acos(1 - s^2 k w / 2) in each step."""
    k, w, s, n = 2.0, 0.7, 0.3, 25

    def target(z):
        return -0.5 * k * (z * z).sum(-1), -k * z

    z, p = np.full((1, 1, 1), 1.3), np.full((1, 1, 1), -0.4)
    end = leapfrog(z, p, -k * z, target, step_size=s, inverse_mass=w, num_steps=n)
    angle = np.arccos(1 - 0.5 * s * s * k * w)
    stretch = np.sqrt(w / k / (1 - 0.25 * s * s * k * w))
    expected_z = z * np.cos(n * angle) + stretch * p * np.sin(n * angle)
    expected_p = p * np.cos(n * angle) - z / stretch * np.sin(n * angle)
    np.testing.assert_allclose(end.position, expected_z, rtol=1e-12)
    np.testing.assert_allclose(end.momentum, expected_p, rtol=1e-12)


def test_reversible(banana):
    end = integrate(position, momentum, banana)
    assert np.abs(end.position - position).max() > 0.5
    back = integrate(end.position, -end.momentum, banana)
    np.testing.assert_allclose(back.position, position, atol=1e-9)
    np.testing.assert_allclose(back.momentum, -momentum, atol=1e-9)


def test_preserves_volume(banana):
    """The Jacobian of (z, p) -> (z', p'), by central differences, has determinant 1."""
    start = np.concatenate([position[0, 2], momentum[0, 2]])
    h = 1e-5
    shifts = h * np.concatenate([np.eye(4), -np.eye(4)])
    points = np.repeat((start + shifts)[:, None, :], 3, axis=1)  # the same in all three rows
    end = integrate(points[..., :2], points[..., 2:], banana)
    images = np.concatenate([end.position, end.momentum], axis=-1)
    jacobian = (images[:4] - images[4:]) / (2 * h)
    for row in range(3):
        assert np.abs(jacobian[:, row] - np.eye(4)).max() > 0.1
        # truncation of the differences is of order h^2 times third derivatives
        np.testing.assert_allclose(np.linalg.det(jacobian[:, row]), 1, rtol=1e-6)


def test_energy_error_is_of_second_order(banana):
    start = energy(position, momentum, banana)

    def error(refine):
        end = integrate(position, momentum, banana, 20 * refine, step_size / refine)
        return np.abs(energy(end.position, end.momentum, banana) - start).mean()

    for refine in (2, 4):  # halved steps, the same time: a quarter of the error
        assert error(refine) / error(2 * refine) == pytest.approx(4, rel=0.05)


def test_one_gradient_a_step(banana):
    calls = []

    def counted(z):
        calls.append(z)
        return banana(z)

    leapfrog(
        position,
        momentum,
        banana(position)[1],
        counted,
        step_size=0.01,
        inverse_mass=1.0,
        num_steps=7,
    )
    assert len(calls) == 7


def test_the_end_carries_value_and_gradient_of_its_position(banana):
    end = integrate(position, momentum, banana)
    value, grad = banana(end.position)
    np.testing.assert_array_equal(end.log_density, value)
    np.testing.assert_array_equal(end.grad, grad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_safe_gradient_can_be_squared(xp, dtype):
    raw = np.array([1.5, np.nan, np.inf, -np.inf, 3e38], dtype)
    got = np.asarray(safe_gradient(xp.asarray(raw)))
    assert got.dtype == raw.dtype
    np.testing.assert_array_equal(got[:4], np.array([1.5, 0, 0, 0], dtype))
    assert np.isfinite(got * got).all()
