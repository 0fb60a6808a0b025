"""Inception-v3 against a forward pass in NumPy, which reads weights by their published names."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from mvflow.nn import InceptionV3


class Reference:
    """The network written out with NumPy arrays; it notes which tensors it has used."""

    def __init__(self, tensors, tensorflow):
        self.tensors, self.tensorflow, self.used = tensors, tensorflow, set()

    def conv(self, name, x, kernel, stride=1, same=True):
        """Convolution, normalisation by the stored moments, ReLU; x is (channels, h, w)."""
        height, width = kernel
        weight, bn = self.take(f"{name}.conv.weight"), f"{name}.bn."
        assert weight.shape[2:] == kernel
        if same:
            x = np.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
        windows = windows[:, ::stride, ::stride]
        out = np.einsum("oikl,ihwkl->ohw", weight, windows, optimize=True)
        gain, shift, mean, variance = (
            self.take(bn + key)[:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum((out - mean) / np.sqrt(variance + 0.001) * gain + shift, 0)

    def take(self, name):
        self.used.add(name)
        return self.tensors[name]

    @staticmethod
    def largest(x, stride, pad=0):
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[
            :, ::stride, ::stride
        ].max((-1, -2))

    def mean(self, x):
        """Of three by three neighbours; TensorFlow's does not count what lies outside."""

        def sums(values):
            padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
            return windows.sum((-1, -2))

        return sums(x) / (sums(np.ones_like(x)) if self.tensorflow else 9)

    def __call__(self, x):
        x = self.conv("Conv2d_1a_3x3", x, (3, 3), 2, same=False)
        x = self.conv("Conv2d_2a_3x3", x, (3, 3), same=False)
        x = self.largest(self.conv("Conv2d_2b_3x3", x, (3, 3)), 2)
        x = self.conv("Conv2d_3b_1x1", x, (1, 1))
        x = self.largest(self.conv("Conv2d_4a_3x3", x, (3, 3), same=False), 2)
        for letter in "bcd":
            x = self.a(f"Mixed_5{letter}.", x)
        x = self.b("Mixed_6a.", x)
        for letter in "bcde":
            x = self.c(f"Mixed_6{letter}.", x)
        x = self.d("Mixed_7a.", x)
        x = self.e("Mixed_7b.", x, self.mean(x))
        x = self.e("Mixed_7c.", x, self.largest(x, 1, 1) if self.tensorflow else self.mean(x))
        return x.mean((1, 2))

    def chain(self, path, x, *steps):
        for name, kernel in steps:
            x = self.conv(path + name, x, kernel)
        return x

    def a(self, path, x):
        five = self.chain(path, x, ("branch5x5_1", (1, 1)), ("branch5x5_2", (5, 5)))
        three = self.chain(
            path, x, ("branch3x3dbl_1", (1, 1)), *((f"branch3x3dbl_{i}", (3, 3)) for i in (2, 3))
        )
        one = self.conv(path + "branch1x1", x, (1, 1))
        return np.concatenate(
            [one, five, three, self.conv(path + "branch_pool", self.mean(x), (1, 1))]
        )

    def b(self, path, x):
        once = self.conv(path + "branch3x3", x, (3, 3), 2, same=False)
        y = self.chain(path, x, ("branch3x3dbl_1", (1, 1)), ("branch3x3dbl_2", (3, 3)))
        twice = self.conv(path + "branch3x3dbl_3", y, (3, 3), 2, same=False)
        return np.concatenate([once, twice, self.largest(x, 2)])

    def c(self, path, x):
        wide, high = (1, 7), (7, 1)
        seven = self.chain(
            path, x, ("branch7x7_1", (1, 1)), ("branch7x7_2", wide), ("branch7x7_3", high)
        )
        kernels = [(1, 1), high, wide, high, wide]
        double = self.chain(
            path, x, *((f"branch7x7dbl_{i}", kernel) for i, kernel in enumerate(kernels, 1))
        )
        one = self.conv(path + "branch1x1", x, (1, 1))
        return np.concatenate(
            [one, seven, double, self.conv(path + "branch_pool", self.mean(x), (1, 1))]
        )

    def d(self, path, x):
        y = self.conv(path + "branch3x3_1", x, (1, 1))
        three = self.conv(path + "branch3x3_2", y, (3, 3), 2, same=False)
        y = self.chain(
            path, x, *((f"branch7x7x3_{i}", k) for i, k in ((1, (1, 1)), (2, (1, 7)), (3, (7, 1))))
        )
        seven = self.conv(path + "branch7x7x3_4", y, (3, 3), 2, same=False)
        return np.concatenate([three, seven, self.largest(x, 2)])

    def e(self, path, x, pooled):
        one = self.conv(path + "branch1x1", x, (1, 1))
        y = self.conv(path + "branch3x3_1", x, (1, 1))
        three = [
            self.conv(f"{path}branch3x3_2{s}", y, k) for s, k in (("a", (1, 3)), ("b", (3, 1)))
        ]
        y = self.chain(path, x, ("branch3x3dbl_1", (1, 1)), ("branch3x3dbl_2", (3, 3)))
        double = [
            self.conv(f"{path}branch3x3dbl_3{s}", y, k) for s, k in (("a", (1, 3)), ("b", (3, 1)))
        ]
        last = self.conv(path + "branch_pool", pooled, (1, 1))
        return np.concatenate([one, *three, *double, last])


def with_random_moments(network, seed=0):
    """Weights of about the size that keeps activations of unit size, and any moments."""
    rng = np.random.default_rng(seed)
    state = network.state_dict()
    for name, value in state.items():
        shape = tuple(value.shape)
        if name.endswith("conv.weight"):
            drawn = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("tracked"):
            continue
        elif name.endswith(("bn.weight", "running_var")):
            drawn = 0.5 + expit(rng.normal(size=shape))
        else:
            drawn = 0.2 * rng.normal(size=shape)
        state[name] = torch.from_numpy(np.asarray(drawn))
    network.double().load_state_dict(state)
    return network.eval(), {name: value.numpy() for name, value in state.items()}


@pytest.mark.parametrize("tensorflow", [True, False])
def test_features_are_those_of_a_forward_pass_in_numpy(tensorflow):
    network, tensors = with_random_moments(InceptionV3(tensorflow=tensorflow, divisor=16))
    images = np.random.default_rng(1).uniform(-1, 1, size=(2, 3, 91, 79))
    reference = Reference(tensors, tensorflow)
    with torch.no_grad():
        found = network(torch.from_numpy(images)).numpy()
    expected = np.stack([reference(image) for image in images])
    # the same sums in float64, in another order
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert {n for n in tensors if not n.endswith("tracked")} == reference.used
    other = Reference(tensors, not tensorflow)
    assert np.abs(np.stack([other(image) for image in images]) - expected).max() > 1e-3


def test_the_published_size():
    """21,785,568 parameters: 27,161,264 of torchvision's without its two heads."""
    with torch.device("meta"):
        network = InceptionV3()
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    head = 2048 * 1000 + 1000
    count = sum(p.numel() for p in network.parameters())
    assert count == 27_161_264 - auxiliary - head
    assert network.features == 2048
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_5d.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6a.branch3x3.conv.weight"] == (384, 288, 3, 3)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6e.branch7x7dbl_2.conv.weight"] == (192, 192, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7b.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert shapes["Mixed_7c.branch3x3dbl_1.conv.weight"] == (448, 2048, 1, 1)


def test_images_are_stretched_as_by_hand():
    """A pixel centre falls between two of the image; beyond the border the last one goes on."""
    image = np.array([[0.0, 0.2], [0.6, 1.0]])
    made = InceptionV3.prepared(torch.from_numpy(image[None, None])).numpy()
    assert made.shape == (1, 3, 299, 299)
    at = np.clip((np.arange(299) + 0.5) * 2 / 299 - 0.5, 0, 1)
    across = image[:, [0]] * (1 - at) + image[:, [1]] * at
    expected = across[0] * (1 - at[:, None]) + across[1] * at[:, None]
    for channel in made[0]:
        np.testing.assert_allclose(channel, 2 * expected - 1, atol=1e-12)
    beyond = InceptionV3.prepared(torch.tensor([[[[-1.0, 2.0]]]]))
    assert (beyond.min(), beyond.max()) == (-1.0, pytest.approx(1.0, rel=1e-6))
