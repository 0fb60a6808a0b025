"""Encoders of rows with gaps: the training mean and a flag in place of what is absent."""

import numpy as np
import pytest
import torch

from mvflow.core import Modality, Observed
from mvflow.nn import GapsNetwork, encode_rows, seeded
from mvflow.nn.gaps import FLAGS

TABLE, IMAGE = Modality("a", (5,)), Modality("a", (2, 8, 8))


def with_gaps(modality, rows=60, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1, (rows, *modality.shape)).astype(np.float32)
    return torch.from_numpy(np.where(rng.random(x.shape) < share, np.nan, x).astype(np.float32))


def encoder_of(modality, kind, **settings):
    with seeded(0, "weights"):
        return GapsNetwork(network=kind, **settings).encoder(modality, 3)


@pytest.mark.parametrize(("modality", "kind"), [(TABLE, "linear-mlp"), (IMAGE, "conv")])
def test_what_is_absent_is_the_training_mean_and_a_flag(modality, kind):
    x = with_gaps(modality)
    encoder = encoder_of(modality, kind).eval()
    encoder.measure(lambda: x.split(7))
    mean = np.nanmean(x.double().numpy(), 0)
    np.testing.assert_allclose(encoder.fill.numpy(), mean, rtol=1e-6)
    absent = x.isnan()
    filled = torch.where(absent, torch.from_numpy(mean).float(), x)
    expected = encoder.network(filled, {FLAGS: absent.flatten(1).float()})
    torch.testing.assert_close(encoder(x), expected)
    # the flag matters: the mean itself, seen, is not the same as nothing seen
    assert not torch.allclose(encoder(filled), expected)


def test_gradients_are_finite_and_features_do_not_hang_on_what_was_never_there():
    encoder = encoder_of(TABLE, "mlp")
    encoder(with_gaps(TABLE)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    x, here = with_gaps(TABLE, share=0.0), torch.rand(60, 5) < 0.6
    columns = {"a": x, "present/a": here}
    other = {"a": torch.where(here, x, 99.0), "present/a": here}
    encoder.eval()
    a, b = (
        encode_rows(encoder, Observed.from_columns(c).encodable("a"), None)
        for c in (columns, other)
    )
    assert torch.equal(a, b)


def test_training_hides_the_stated_share_of_what_there_is():
    """Uniform between none and twice the share; 4,000 rows of 5: three standard errors are .01."""
    encoder = encoder_of(TABLE, "mlp", hide=0.25)
    seen = []
    encoder.network.register_forward_pre_hook(lambda _, args: seen.append(args[1][FLAGS]))
    x = torch.zeros(4000, 5)
    with seeded(0, "hidden"):
        encoder(x)
    by_row = seen[0].mean(1)
    assert abs(float(by_row.mean()) - 0.25) < 0.01
    # of a row a share u is hidden: the variance is that of u, and of five trials with it
    expected = 0.5**2 / 12 + (0.25 - 0.5**2 / 3) / 5
    assert float(by_row.var()) == pytest.approx(expected, rel=0.1)
    encoder.eval()(x)
    assert not seen[1].any()
