"""Sections of a report: each function gives the values of its template, or None for no section."""
