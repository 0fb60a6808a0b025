"""Parameters and forward mathematics; nothing here trains, samples or reads files."""

from mvflow.models.jnf import JNFModel, build_amortised, build_model
from mvflow.models.joint import JointVAE, Losses

__all__ = ["JNFModel", "JointVAE", "Losses", "build_amortised", "build_model"]
