"""The convolutions of `mvflow.nn` against torch's own: values and all gradients, in float64."""

import pytest
import torch
from torch import nn

from mvflow.nn.convolutions import FullKernelConv2d, FullKernelConvTranspose2d, Transposed

PAIRS = {
    "full kernel": (FullKernelConv2d, nn.Conv2d, (5, 4, (2, 3)), (6, 5, 2, 3)),
    "full kernel, transposed": (
        FullKernelConvTranspose2d,
        nn.ConvTranspose2d,
        (5, 4, (2, 3)),
        (6, 5),
    ),
    "transposed": (Transposed, nn.ConvTranspose2d, (5, 3, 4, 2, 1), (6, 5, 4, 7)),
    "transposed, padded": (Transposed, nn.ConvTranspose2d, (5, 3, 3, 2, 1, 1), (6, 5, 4, 7)),
}


def results(layer, x, inputs):
    """Values and gradients of something that depends on every value in its own way."""
    y = layer(inputs)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(
        y.flatten(1).view(len(y), -1)
    )
    total = (weights * y.flatten(1).square()).sum()
    return [y.flatten(1), *torch.autograd.grad(total, [x, *layer.parameters()])]


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_torch(name):
    ours, theirs, arguments, shape = PAIRS[name]
    torch.manual_seed(0)
    layer = ours(*arguments).double()
    reference = theirs(*arguments).double()
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    expected = results(
        reference, x, x[:, :, None, None] if name == "full kernel, transposed" else x
    )
    for found, value in zip(results(layer, x, x), expected, strict=True):
        torch.testing.assert_close(found, value)  # float64 rounding


def test_transposed_stays_narrow_under_autocast_and_may_lack_a_bias():
    layer, x = Transposed(5, 3, 4, 2, 1), torch.randn(2, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    bare = Transposed(5, 3, 4, 2, 1, bias=False)
    bare.weight.data.copy_(layer.weight)
    difference = layer(x) - bare(x)
    assert layer.bias is not None
    torch.testing.assert_close(difference, layer.bias[:, None, None].expand_as(difference))
