"""Networks of two levels of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvflow.core import LatentPart, LatentSpace, Observed, rescale_weights
from mvflow.nn import MLP, ModalityDict, encode_rows, upcast_to_float32
from mvflow.systems.decoders import build_decoders, build_encoder

__all__ = ["TwoLevelVAE"]


class TwoLevelVAE(nn.Module):
    """Networks of both levels.

    Args:
        settings: with `message_dim` and `hidden`.
        widths: dimension of z_j by name.
    """

    def __init__(self, settings: Any, widths: Mapping[str, int]) -> None:
        super().__init__()
        specs, top, message = settings.specifications(), settings.latent_dim, settings.message_dim
        self.bottom = LatentSpace(tuple(LatentPart(m.name, widths[m.name], m.name) for m in specs))
        encoders = {m.name: build_encoder(settings, m, 2 * widths[m.name]) for m in specs}
        self.encoders = ModalityDict(encoders)
        self.decoders = build_decoders(settings, self.bottom)
        self.messages = ModalityDict({n: nn.Linear(w, message) for n, w in widths.items()})
        self.top_encoder = MLP(message, *settings.hidden, 2 * top)
        hidden = (*settings.hidden, message)
        self.top_decoders = ModalityDict({n: MLP(top, *hidden, w) for n, w in widths.items()})
        self.weights = rescale_weights(specs)

    def first_level(
        self, observed: Observed
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """By name: means and scales of q(z_j|x_j), (rows, private), and presence, bool (rows,)."""
        loc, scale, present = {}, {}, {}
        for name in sorted(observed.x):
            features = encode_rows(
                self.encoders[name], observed.encodable(name), observed.covariates
            )
            loc[name], raw = upcast_to_float32(features).chunk(2, -1)
            scale[name] = (7 * torch.tanh(raw / 7)).exp()
            mask = observed.is_present(name)
            present[name] = torch.ones_like(raw[:, 0], dtype=torch.bool) if mask is None else mask
        return loc, scale, present

    def second_level(
        self, below: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z|z_S) from the mean of the messages of those present."""
        masks = torch.stack(list(present.values()))
        messages = torch.stack([self.messages[n](z_j) for n, z_j in below.items()])
        total = torch.where(masks[..., None], messages, 0.0).sum(0)
        features = self.top_encoder(total / masks.sum(0).clamp_min(1)[:, None])
        features = torch.where(masks.any(0)[:, None], upcast_to_float32(features), 0.0)
        loc, raw = features.chunk(2, -1)
        return loc, (7 * torch.tanh(raw / 7)).exp()
