"""Executable theory: constructions, degrees and generalisation bounds are computed, not only cited."""
