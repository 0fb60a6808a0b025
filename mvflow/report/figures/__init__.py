"""Figures of a report, drawn with matplotlib's objects; pyplot and its state are not used."""
