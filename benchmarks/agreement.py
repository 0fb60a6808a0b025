"""Losses and gradients of each system beside MultiVae's, on the same weights, rows and noise.

    python -m benchmarks.agreement          # a table; fails if a difference is not explained

MultiVae's models get our networks, so that both gradients are of the same parameters, and each
draw takes its noise from one table. Where both still differ, MultiVae is changed at the one place
that is named, and agrees. It has to be installed (1.0.3, with pythae); nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.common import Report, add_options, parsed, script_parser
from benchmarks.rival import model_around
from mvflow.config import config_from_dict
from mvflow.core import Observed
from mvflow.systems import System, build_system

ROWS, LATENT, SAMPLES, BETA = 14, 3, 4, 0.7
NAMES = ("m0", "m1", "m2")
SCALE = 0.75
TOLERANCE = 1e-6
"""Relative: MultiVae adds 1e-8 to the variances that it multiplies, 1e-6 to Laplace scales."""


class Case(NamedTuple):
    """A system, and what is done so that both compute the same."""

    system: str
    model: str
    """Class of MultiVae."""
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    """Of MultiVae's configuration."""
    factor: float = 1.0
    """Of MultiVae's loss, which is not a mean over rows, or has other weights as a whole."""
    stage: int = 0
    epoch: int = 10**6
    changed: Callable[[Any], Any] | None = None
    """Changes MultiVae's model so that both agree."""
    why: str = ""


def main() -> None:
    parser = script_parser("agreement", __doc__)
    add_options(parser)
    arguments = parsed(parser, "agreement", {})
    if not find_spec("multivae"):
        parser.error("MultiVae is not installed: pip install --no-deps multivae==1.0.3 pythae")
    report = Report(__doc__.splitlines()[0], arguments, "multivae", "pythae")
    rows = [_compared(case, changed) for case in CASES for changed in _ways(case)]
    report.add("a", "relative differences, of the gradient by its largest value", rows)
    unexplained = [
        row
        for row in rows
        if max(row["loss"], row["gradient"]) > TOLERANCE
        and row["MultiVae"] == "as it is"
        and not row["difference"]
    ]
    wrong = [
        row
        for row in rows
        if row["MultiVae"] == "changed" and max(row["loss"], row["gradient"]) > TOLERANCE
    ]
    if unexplained or wrong:
        print("not explained:", *(row["system"] for row in (*unexplained, *wrong)))
        sys.exit(1)


def _ways(case: Case) -> tuple[bool, ...]:
    return (False,) if case.changed is None else (False, True)


def _compared(case: Case, changed: bool) -> dict[str, Any]:
    ours = _system(case)
    theirs = model_around(ours, case.model, case.options)
    if changed and case.changed is not None:
        case.changed(theirs)
    x = {f"m{j}": torch.randn(ROWS, 4 + j, dtype=torch.float64) for j in range(3)}
    values, grads = [], []
    for compute in (
        lambda: ours.stages()[case.stage].loss(Observed(x), 1.0).total,  # type: ignore[misc]
        lambda: case.factor * _their_loss(theirs, x, case.epoch),
    ):
        ours.zero_grad()
        with same_noise():
            loss = compute()
            loss.backward()
        values.append(float(loss.detach()))
        if len(values) == 2 and case.model == "MMVAEPlus":  # of log variances, of log scales here
            scales = [theirs.logvars_priors[n].grad[0] for n in NAMES]
            ours.joint.log_scales.grad = 2 * torch.stack(scales).double()  # type: ignore
        grads.append([_grad(p) for p in ours.parameters()])
    largest = max(float(g.abs().max()) for g in grads[0])
    away = max(float((a - b).abs().max()) for a, b in zip(*grads, strict=True))
    return {
        "system": case.system,
        "stage": ours.stages()[case.stage].name,
        "MultiVae": "changed" if changed else "as it is",
        "loss": float(f"{abs(values[0] - values[1]) / abs(values[0]):.1e}"),
        "gradient": float(f"{away / largest:.1e}"),
        "difference": "" if changed or not case.why else case.why,
    }


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def _system(case: Case) -> System:
    small = {"kind": "mlp", "hidden": [7]}
    modalities = {
        n: {
            "shape": [4 + j],
            "likelihood": {"kind": "normal", "scale": SCALE},
            "encoder": small,
            "decoder": small,
        }
        for j, n in enumerate(NAMES)
    }
    raw = {"system": case.system, "latent_dim": LATENT, "modalities": modalities}
    torch.manual_seed(0)
    return build_system(config_from_dict({**raw, **case.settings})).double()


def _their_loss(model: Any, x: dict[str, Tensor], epoch: int) -> Tensor:
    from multivae.data.datasets.base import MultimodalBaseDataset

    model.train()
    loss: Tensor = model(MultimodalBaseDataset(x), epoch=epoch).loss
    return loss


@contextmanager
def same_noise() -> Iterator[None]:
    """Every draw is loc + scale * e, e from one table of draws, rows and dimensions."""
    table = torch.randn(SAMPLES, ROWS, 16, generator=torch.Generator().manual_seed(1)).double()

    def like(x: Tensor) -> Tensor:
        return table[0, :, : x.shape[-1]].expand(x.shape)

    def rsample(self: Any, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = table[: shape[0] if sample_shape else 1, :, : shape[-1]]
        middle = [1] * (len(shape) - 3)
        noise = noise.view(len(noise), *middle, *noise.shape[1:]) if sample_shape else noise[0]
        return self.loc + self.scale * noise.expand(shape)

    normal, laplace = torch.distributions.Normal, torch.distributions.Laplace
    with (
        mock.patch.object(torch, "randn_like", like),
        mock.patch.object(normal, "rsample", rsample),
        mock.patch.object(laplace, "rsample", rsample),
        mock.patch("mvflow.systems.mopoe._stratified", _in_their_order),
    ):
        yield


def _in_their_order(available: Tensor) -> Tensor:
    """The subset of each row as MultiVae deals them out: by size, each its share of the batch."""
    by_size = sorted(range(len(available)), key=lambda k: (bin(k + 1).count("1"), _members(k)))
    return torch.tensor(by_size).repeat_interleave(available.shape[1] // len(available))


def _members(k: int) -> list[int]:
    return [j for j in range(len(NAMES)) if k + 1 >> j & 1]


# What MultiVae is changed to


def _own_variance(model: Any) -> None:
    """TELBO's unimodal divergences with the unimodal variance."""

    def forward(inputs: Any, **_: Any) -> Any:
        from pythae.models.base.base_utils import ModelOutput

        loss: Any = 0
        for m, encoder in model.encoders.items():
            out = encoder(inputs.data[m])
            mu, log_var = out.embedding, out.log_covariance
            z = torch.distributions.Normal(mu, (0.5 * log_var).exp()).rsample()
            fit = model.recon_log_probs[m](model.decoders[m](z).reconstruction, inputs.data[m])
            kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum()
            loss = loss - model.gamma_factors[m] * fit.sum() + kl
        return ModelOutput(loss=loss / ROWS)

    model.forward = forward


def without_prior(model: Any) -> None:
    """MoPoE's product of all modalities without the prior as one more expert."""
    from multivae.models.base.base_utils import poe

    model._poe_fusion = poe


def _with_beta(model: Any) -> None:
    """MMVAE's divergence with the factor beta."""
    compute = model.compute_k_lws

    def weighted(qz_xs: Any, embeddings: Any, reconstructions: Any, inputs: Any) -> Any:
        with mock.patch.dict(model.rescale_factors, dict.fromkeys(NAMES, 0.0)):
            ratios, _ = compute(qz_xs, embeddings, reconstructions, inputs)
        weights, count = compute(qz_xs, embeddings, reconstructions, inputs)
        return {m: w + (BETA - 1) * ratios[m] for m, w in weights.items()}, count

    model.compute_k_lws = weighted


JOINT = {"joint": {"beta": BETA, "merge": [6]}}
PLAIN = {"joint": {"beta": BETA}}
SAMPLED = {"beta": BETA, "samples": SAMPLES}
K = {"K": SAMPLES, "beta": BETA}
MEAN = 1 / ROWS
NEXUS = {
    "private_dim": 2,
    "message_dim": 6,
    "hidden": [5],
    "joint": {"beta": BETA, "dropout": 0.0},
}
BETAS = {"bottom_betas": dict.fromkeys(NAMES, BETA), "top_beta": BETA, "dropout_rate": 0.0}
NORMAL = {"family": "normal", "scales": "free"}
MMVAE_BETA = "MultiVae's MMVAE has a beta that its loss does not read: a defect there"
DREG_VALUE = "MultiVae reports sum w log w, not the bound; the gradients agree"
CASES = (
    Case("jnf", "JNF", JOINT, {"warmup": 10, "beta": BETA}, epoch=1),
    Case(
        "jmvae", "JMVAE", {"joint": {**JOINT["joint"], "alpha": 0.3}}, {"alpha": 0.3, "beta": BETA}
    ),
    Case("telbo", "TELBO", {"joint": {"merge": [6]}}, {"warmup": 1}, epoch=1),
    Case(
        "telbo",
        "TELBO",
        {"joint": {"merge": [6]}},
        {"warmup": 1},
        stage=1,
        changed=_own_variance,
        why="MultiVae's unimodal KL has the variance of the joint posterior: a defect there",
    ),
    Case("mvae", "MVAE", {"joint": {"beta": BETA, "random_subsets": 0}}, {"beta": BETA, "k": 0}),
    Case(
        "mvtcae", "MVTCAE", {"joint": {"beta": BETA, "alpha": 0.4}}, {"beta": BETA, "alpha": 0.4}
    ),
    Case("crmvae", "CRMVAE", PLAIN, {"beta": BETA}, factor=4 * MEAN),
    Case(
        "mopoe",
        "MoPoE",
        PLAIN,
        {"beta": BETA},
        changed=without_prior,
        why="the prior is one more expert of the product of all, as in the authors' code; the "
        "product of their paper has no such factor",
    ),
    Case(
        "mmvae",
        "MMVAE",
        {**NORMAL, "joint": {**SAMPLED, "gradient": "plain"}},
        {**K, "prior_and_posterior_dist": "normal", "learn_prior": False, "loss": "iwae_looser"},
        factor=MEAN,
        changed=_with_beta,
        why=MMVAE_BETA,
    ),
    Case(
        "mmvae",
        "MMVAE",
        {"joint": {**SAMPLED, "beta": 1.0, "gradient": "plain"}},
        {
            **K,
            "prior_and_posterior_dist": "laplace_with_softmax",
            "learn_prior": False,
            "loss": "iwae_looser",
        },
        factor=MEAN,
    ),
    Case(
        "mmvae",
        "MMVAE",
        {"joint": {**SAMPLED, "beta": 1.0}},
        {**K, "prior_and_posterior_dist": "laplace_with_softmax", "learn_prior": False},
        factor=MEAN,
        why=DREG_VALUE,
    ),
    Case(
        "mmvae-plus",
        "MMVAEPlus",
        {"family": "normal", "joint": SAMPLED},
        {
            **K,
            "prior_and_posterior_dist": "normal",
            "modalities_specific_dim": LATENT,
            "learn_shared_prior": False,
            "loss": "iwae_looser",
        },
        factor=MEAN,
    ),
    Case(
        "nexus",
        "Nexus",
        NEXUS,
        {**BETAS, "modalities_specific_dim": dict.fromkeys(NAMES, 2), "msg_dim": 6, "warmup": 1},
    ),
)


if __name__ == "__main__":
    main()
