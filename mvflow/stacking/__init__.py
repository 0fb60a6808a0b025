"""Variants of a stage trained as one program: an aside that no other part of the library uses."""

from mvflow.stacking.runs import train_stacked
from mvflow.stacking.stack import Variant, run_stack

__all__ = ["Variant", "run_stack", "train_stacked"]
