"""Subset rules: what stands for q(z|x_S) of several modalities, given one posterior of each."""

from mvflow.systems.subsets.amortised import Amortised
from mvflow.systems.subsets.base import Experts, SubsetRule
from mvflow.systems.subsets.product import PROTOCOLS, Product, with_protocol

__all__ = [
    "PROTOCOLS",
    "Amortised",
    "Experts",
    "Product",
    "SubsetRule",
    "with_protocol",
]
