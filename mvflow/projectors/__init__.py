"""Projectors g_j: maps of each modality to what the modalities share (Eq. 13; Appendix B)."""

from mvflow.projectors.base import Objective, Projector
from mvflow.projectors.contrastive import Contrastive
from mvflow.projectors.dcca import DCCA
from mvflow.projectors.pretrained import Pretrained

__all__ = ["DCCA", "Contrastive", "Objective", "Pretrained", "Projector"]
