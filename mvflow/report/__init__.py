"""Reports on trained models: one HTML file that holds all its figures."""

from mvflow.report.entry import Entry
from mvflow.report.page import write_report
from mvflow.report.sections.latent import posteriors_in_plane

__all__ = ["Entry", "posteriors_in_plane", "write_report"]
