"""Inception-v3 up to its pool features, by which images are compared in an FID.

Szegedy et al. 2016 in the two published forms: torchvision's, and the port of the TensorFlow
weights of 2015 that FIDs are measured with (Heusel et al. 2017). They differ in pooling alone.
Modules are named as in both files of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["InceptionV3"]

SIZE = 299
"""Height and width of the images that it was trained on."""

Pool = Literal["average", "average without padding", "max", "max, stride 2"]


class Conv(NamedTuple):
    """A convolution of a branch."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Branch = Sequence[Conv | tuple[Conv, Conv]]
"""Convolutions one after another; of a pair both take what comes before, and are joined."""


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, spec: Conv, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, spec.channels, spec.kernel, spec.stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm2d(spec.channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (rows, channels, height, width)."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, whose channels are joined; the last one pools.

    Args:
        inputs: number of channels.
        branches: all but the last; strides above one go without padding.
        pool: of the last branch.
        pooled: channels of the convolution after it; 0 if there is none.
    """

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: Pool, pooled: int) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        self.channels = pooled or inputs
        for branch in branches:
            channels = inputs
            for step in branch:
                convs = [step] if isinstance(step, Conv) else step
                for spec in convs:
                    self.add_module(spec.name, Convolution(channels, spec, _padding(spec)))
                channels = sum(spec.channels for spec in convs)
            self.channels += channels
        self.branch_pool = (
            Convolution(inputs, Conv("branch_pool", pooled), (0, 0)) if pooled else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (rows, channels, height, width)."""
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                convs = [step] if isinstance(step, Conv) else step
                y = torch.cat([self.get_submodule(spec.name)(y) for spec in convs], 1)
            outputs.append(y)
        return torch.cat([*outputs, self.branch_pool(self._pooled(x))], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max, stride 2":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.pool == "average")


def _padding(spec: Conv) -> tuple[int, int]:
    height, width = spec.kernel if spec.stride == 1 else (1, 1)
    return height // 2, width // 2


class InceptionV3(nn.Module):
    """From images to the 2048 means over the last maps.

    Args:
        tensorflow: as the weights of TensorFlow want it: means at the border do not count the
            padding, and the last block takes a maximum where the paper has a mean.
        divisor: of all numbers of channels; 16 is small enough to be computed by hand.

    Examples:
        >>> network = InceptionV3(divisor=16).eval()
        >>> network(torch.zeros(2, 3, 75, 75)).shape, network.features
        (torch.Size([2, 128]), 128)
    """

    def __init__(self, *, tensorflow: bool = True, divisor: int = 1) -> None:
        super().__init__()

        def conv(name: str, channels: int, height: int, width: int = 0, stride: int = 1) -> Conv:
            return Conv(name, channels // divisor, (height, width or height), stride)

        average: Pool = "average without padding" if tensorflow else "average"
        channels = 3
        for spec, padding in (
            (conv("Conv2d_1a_3x3", 32, 3, stride=2), 0),
            (conv("Conv2d_2a_3x3", 32, 3), 0),
            (conv("Conv2d_2b_3x3", 64, 3), 1),
            (conv("Conv2d_3b_1x1", 80, 1), 0),
            (conv("Conv2d_4a_3x3", 192, 3), 0),
        ):
            self.add_module(spec.name, Convolution(channels, spec, (padding, padding)))
            channels = spec.channels

        def mixed(name: str, branches: Sequence[Branch], pool: Pool, pooled: int) -> None:
            nonlocal channels
            block = Mixed(channels, branches, pool, pooled // divisor)
            self.add_module(f"Mixed_{name}", block)
            channels = block.channels

        for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
            one = [conv("branch1x1", 64, 1)]
            five = [conv("branch5x5_1", 48, 1), conv("branch5x5_2", 64, 5)]
            three = [conv("branch3x3dbl_1", 64, 1)]
            three += [conv(f"branch3x3dbl_{i}", 96, 3) for i in (2, 3)]
            mixed(f"5{letter}", [one, five, three], average, pooled)
        once = [conv("branch3x3", 384, 3, stride=2)]
        twice = [conv("branch3x3dbl_1", 64, 1), conv("branch3x3dbl_2", 96, 3)]
        twice += [conv("branch3x3dbl_3", 96, 3, stride=2)]
        mixed("6a", [once, twice], "max, stride 2", 0)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            one = [conv("branch1x1", 192, 1)]
            seven = [conv("branch7x7_1", width, 1), conv("branch7x7_2", width, 1, 7)]
            seven += [conv("branch7x7_3", 192, 7, 1)]
            double = [conv("branch7x7dbl_1", width, 1), conv("branch7x7dbl_2", width, 7, 1)]
            double += [conv("branch7x7dbl_3", width, 1, 7), conv("branch7x7dbl_4", width, 7, 1)]
            double += [conv("branch7x7dbl_5", 192, 1, 7)]
            mixed(f"6{letter}", [one, seven, double], average, 192)
        once = [conv("branch3x3_1", 192, 1), conv("branch3x3_2", 320, 3, stride=2)]
        seven = [conv("branch7x7x3_1", 192, 1), conv("branch7x7x3_2", 192, 1, 7)]
        seven += [conv("branch7x7x3_3", 192, 7, 1), conv("branch7x7x3_4", 192, 3, stride=2)]
        mixed("7a", [once, seven], "max, stride 2", 0)
        for letter in "bc":
            pool: Pool = "max" if tensorflow and letter == "c" else average
            one = [conv("branch1x1", 320, 1)]
            fork = (conv("branch3x3_2a", 384, 1, 3), conv("branch3x3_2b", 384, 3, 1))
            last = (conv("branch3x3dbl_3a", 384, 1, 3), conv("branch3x3dbl_3b", 384, 3, 1))
            start = [conv("branch3x3dbl_1", 448, 1), conv("branch3x3dbl_2", 384, 3)]
            forked: Branch = [conv("branch3x3_1", 384, 1), fork]
            mixed(f"7{letter}", [one, forked, [*start, last]], pool, 192)
        self.features = channels

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, 2048) of images (rows, 3, height, width) from -1 to 1, 75 by 75 up."""
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean((2, 3))

    @staticmethod
    def prepared(x: Tensor) -> Tensor:
        """Images (rows, 1 or 3, height, width) from 0 to 1 as it takes them.

        As all who measure FIDs do it: stretched to 299 by 299 by bilinear interpolation without
        aligned corners or smoothing, then from -1 to 1. What lies outside [0, 1] is clipped.
        """
        x = x.clamp(0, 1).expand(-1, 3, -1, -1)
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return 2 * x - 1
