"""Parameters and forward mathematics; nothing here trains, samples or reads files."""

from mvflow.models.jnf import JNFModel, build_amortised, build_model, build_prior
from mvflow.models.joint import JointVAE, Losses
from mvflow.models.prior import MixturePrior

__all__ = [
    "JNFModel",
    "JointVAE",
    "Losses",
    "MixturePrior",
    "build_amortised",
    "build_model",
    "build_prior",
]
