"""Systems: multimodal latent-variable models, one file each.

A system owns its latent space, its stages and its settings; no other package names one.
"""

from mvflow.systems.base import (
    Bounded,
    Encodes,
    Guides,
    LearnsPrior,
    Projects,
    System,
    build_system,
    stages_of,
)
from mvflow.systems.decoders import Decoders, measure_inputs, present_values
from mvflow.systems.joint_vae import JointVAE

__all__ = [
    "Bounded",
    "Decoders",
    "Encodes",
    "Guides",
    "JointVAE",
    "LearnsPrior",
    "Projects",
    "System",
    "build_system",
    "measure_inputs",
    "present_values",
    "stages_of",
]
