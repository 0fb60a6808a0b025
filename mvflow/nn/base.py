"""The contract of networks: settings that build encoders and decoders of modalities."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from mvflow.core import ConfigError, Covariate, Modality
from mvflow.core.parts import Part
from mvflow.core.registry import registry
from mvflow.nn.covariates import SummedNetwork, total_width

__all__ = ["GivenNetwork", "Network", "Output", "check_encoder", "finish_decoder", "probe_rows"]

Output = Literal["identity", "sigmoid"]
"""What ends a decoder; a sigmoid is for likelihoods whose location lies in [0, 1]."""


class Network(Part):
    """Settings of a network, which builds encoders and decoders of any modality that fits."""

    group: ClassVar[str] = "networks"

    @abstractmethod
    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """Network from rows (rows, *row_shape) of `modality` to features (rows, out_features).

        Args:
            modality: whose rows it takes, as its likelihood stores them.
            out_features: width of the output.
            dropout: share of hidden units or channels that are dropped in training.

        Raises:
            ConfigError: if it cannot take rows of that shape.
        """

    def conditional_encoder(
        self,
        modality: Modality,
        out_features: int,
        covariates: Sequence[Covariate],
        dropout: float = 0.0,
    ) -> nn.Module:
        """Network from rows and covariates to features (rows, out_features).

        By default covariates are seen beside the input of the last linear layer
        (`SummedNetwork`); kinds that take vectors see them beside these (`ConditionalNetwork`).

        Args:
            modality: whose rows it takes.
            out_features: width of the output.
            covariates: what it sees besides, in this order.
            dropout: as of `encoder`.

        Raises:
            ConfigError: if it cannot take rows of that shape.
        """
        network = self.encoder(modality, out_features, dropout)
        linear = nn.Linear(total_width(covariates), out_features, bias=False)
        return SummedNetwork(network, linear, [c.name for c in covariates])

    @abstractmethod
    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """Network from (rows, in_features) to the outputs (rows, *outputs) that p(x|z) takes.

        Args:
            in_features: width of the input.
            modality: whose likelihood says what the outputs are.

        Raises:
            ConfigError: if it cannot give outputs of that shape.
        """

    @classmethod
    def adapt(cls, value: Any) -> Any:
        """A `torch.nn.Module` is a network of its own kind."""
        return GivenNetwork(value=value) if isinstance(value, nn.Module) else None


class GivenNetwork(Network):
    """A `torch.nn.Module` that was made elsewhere; each network built of it begins as its copy.

    As an encoder it maps rows (rows, *row_shape) to features; a linear layer follows where their
    number is not the one needed. As a decoder it has to give the outputs of the likelihood.

    Examples:
        >>> network = GivenNetwork(value=nn.Sequential(nn.Linear(3, 8), nn.ReLU()))
        >>> encoder = network.encoder(Modality("rna", (3,)), 4)
        >>> encoder(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    is_opaque: ClassVar[bool] = True
    value: nn.Module
    """The module; it is copied, and never changed."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """A copy of the module, and a linear layer if its features are not `out_features`."""
        network = copy.deepcopy(self.value)
        shape = _probed(network, probe_rows(modality), f"encoder of {modality.name!r}")
        if len(shape) != 1:
            msg = (
                f"the encoder of {modality.name!r} ({type(network).__name__}) gives {shape} for "
                "one row: expected a vector of features; end it with torch.nn.Flatten()"
            )
            raise ConfigError(msg)
        if shape[0] == out_features:
            return network
        return nn.Sequential(network, nn.Linear(shape[0], out_features))

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """A copy of the module."""
        network, expected = copy.deepcopy(self.value), _outputs(modality)
        shape = _probed(network, torch.zeros(1, in_features), f"decoder of {modality.name!r}")
        if shape != expected:
            msg = (
                f"the decoder of {modality.name!r} ({type(network).__name__}) gives {shape} for "
                f"one latent vector of {in_features}: its likelihood takes {expected}"
            )
            raise ConfigError(msg)
        return network


def probe_rows(modality: Modality) -> Tensor:
    """One row of zeros, to find what a network makes of rows."""
    likelihood = modality.likelihood_part
    return torch.from_numpy(np.zeros((1, *likelihood.row_shape(modality.shape)), likelihood.dtype))


def check_encoder(output: Output, modality: Modality) -> None:
    """Refuse an encoder with an output that only decoders have.

    Raises:
        ConfigError: if it is a sigmoid.
    """
    if output != "identity":
        msg = f"the encoder of {modality.name!r} has output={output!r}: that is for decoders"
        raise ConfigError(msg)


def finish_decoder(body: nn.Module, output: Output, modality: Modality) -> nn.Module:
    """A decoder with its last activation.

    Raises:
        ConfigError: if a sigmoid would end a decoder whose output is not in units of the data.
    """
    if output == "identity":
        return body
    likelihood = modality.likelihood_part
    if not likelihood.is_location:
        kind = registry("likelihoods").name_of(type(likelihood))
        msg = (
            f"the decoder of {modality.name!r} cannot end in a sigmoid: its likelihood {kind!r} "
            "takes logits or rates, which it maps to the data itself; use output='identity'"
        )
        raise ConfigError(msg)
    return nn.Sequential(body, nn.Sigmoid())


def _outputs(modality: Modality) -> tuple[int, ...]:
    return tuple(modality.likelihood_part.outputs(modality.shape))


def _probed(network: nn.Module, x: Tensor, what: str) -> tuple[int, ...]:
    """Shape of what a network gives for one row."""
    parameter = next(network.parameters(), x)
    mode = network.training
    try:
        with torch.no_grad():
            output = network.eval()(x.to(parameter.device))
    except Exception as error:
        msg = (
            f"the {what} ({type(network).__name__}) cannot take a row of shape "
            f"{tuple(x.shape[1:])}: {type(error).__name__}: {error}"
        )
        raise ConfigError(msg) from error
    network.train(mode)
    if not isinstance(output, Tensor) or output.ndim < 1 or len(output) != 1:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        msg = f"the {what} ({type(network).__name__}) gives {got}, not a tensor (rows, ...)"
        raise ConfigError(msg)
    return tuple(output.shape[1:])
