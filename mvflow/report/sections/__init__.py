"""Sections of a report, one module a subject; each function returns HTML."""
