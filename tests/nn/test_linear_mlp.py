"""An MLP with a linear path: least squares where the hidden layers are silent, more where not."""

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.core import ConfigError, Modality
from mvflow.core.parts import create
from mvflow.nn import seeded
from mvflow.nn.linear_mlp import LinearMLP

TABLE = Modality("table", (6,))


def network(**settings):
    return create("networks", {"kind": "linear-mlp", "hidden": (16,), **settings})


@pytest.fixture
def data():
    """Rows with a mean of their own, and targets that are not linear in them."""
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 1.0, size=(200, 6))
    y = x @ rng.normal(size=(6, 3)) + 2 * np.abs(x[:, :3] - 2) + 5
    return torch.from_numpy(x), torch.from_numpy(y)


def least_squares(x, y):
    """Coefficients, (7, 3), the last row that of the intercept."""
    return np.linalg.lstsq(np.c_[x.numpy(), np.ones(len(x))], y.numpy(), rcond=None)[0]


def minimise(model, x, y, parameters, steps):
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(closure().detach())


def test_with_silent_hidden_layers_it_learns_the_map_of_least_squares(data):
    """The last layer's weights are zero and stay so; what is left is W and the intercept."""
    x, y = data
    with seeded(0, "network"):
        model = LinearMLP(6, 16, 3).double()
    last = model.mlp[-1]
    nn.init.zeros_(last.weight)
    minimise(model, x, y, [model.linear.weight, last.bias], 100)
    expected = least_squares(x, y)
    # the optimiser stops at the rounding of float64 in the loss, the square root of it in weights
    np.testing.assert_allclose(model.linear.weight.detach(), expected[:-1].T, atol=1e-6)
    np.testing.assert_allclose(last.bias.detach(), expected[-1], atol=1e-6)


def test_both_paths_learn(data):
    """From least squares on, only the hidden layers can lower the error, and they do."""
    x, y = data
    expected = least_squares(x, y)
    with seeded(0, "network"):
        model = LinearMLP(6, 16, 3).double()
    model.linear.weight.data = torch.from_numpy(expected[:-1].T.copy())
    model.mlp[-1].bias.data = torch.from_numpy(expected[-1])
    nn.init.zeros_(model.mlp[-1].weight)
    start = nn.functional.mse_loss(model(x), y)
    start.backward()
    assert model.linear.weight.grad.abs().max() < 1e-9  # least squares: no linear map is better
    assert model.mlp[-1].weight.grad.abs().max() > 1e-3
    assert minimise(model, x, y, list(model.parameters()), 100) < 0.05 * float(start.detach())


def test_it_is_the_sum_of_a_linear_map_and_an_mlp():
    with seeded(0, "network"):
        encoder, x = network().encoder(TABLE, 4), torch.randn(5, 6)
    first, _, last = encoder[1].mlp
    linear = x @ encoder[1].linear.weight.T
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(encoder(x), linear + hidden @ last.weight.T + last.bias)


@pytest.mark.parametrize(("setting", "given", "share"), [(0.3, 0.0, 0.3), (0.0, 0.2, 0.2)])
def test_dropout_is_the_settings_or_the_projectors(setting, given, share):
    encoder = network(dropout=setting).encoder(TABLE, 4, given)
    assert [m.p for m in encoder.modules() if isinstance(m, nn.Dropout)] == [share]
    decoder = network(dropout=setting).decoder(4, TABLE)
    assert [m.p for m in decoder.modules() if isinstance(m, nn.Dropout)] == [setting] * (
        setting > 0
    )


def test_dropout_spares_the_linear_path_and_keeps_the_mean():
    with seeded(0, "network"):
        model, x = LinearMLP(6, 64, 2, dropout=0.5).double(), torch.randn(1, 6).double()
        expected = model.eval()(x)
        draws = model.train()(x.expand(20_000, -1))
        silent = LinearMLP(6, 64, 2, dropout=0.5).train()
    error = draws.std(0) / len(draws) ** 0.5
    assert (error > 0).all()
    assert ((draws.mean(0) - expected[0]).abs() < 4 * error).all()
    nn.init.zeros_(silent.mlp[-1].weight)
    x = x.float()
    assert torch.equal(silent(x), silent.linear(x) + silent.mlp[-1].bias)


@pytest.mark.bad_input
def test_without_hidden_layers_there_is_nothing_beside_the_linear_path():
    with pytest.raises(ConfigError, match="hidden: .*at least 1 item"):
        network(hidden=())
