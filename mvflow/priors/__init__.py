"""Priors fitted after training: what is drawn where nothing is observed."""

from mvflow.priors.base import Prior, latent_draws
from mvflow.priors.mixture import Mixture, MixturePrior
from mvflow.priors.standard import Standard

__all__ = ["Mixture", "MixturePrior", "Prior", "Standard", "latent_draws"]
