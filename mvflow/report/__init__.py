"""Reports on trained models: one HTML file that holds all its figures."""

from mvflow.report.entry import Entry
from mvflow.report.page import write_report

__all__ = ["Entry", "write_report"]
